"""How many tokens each block of a clip gets: what a router says, or as many for all."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from evagen.errors import UserError
from evagen.models.loading import fingerprint, load_model
from evagen.tokenizer import Router, VideoTokenizer

Assign = Callable[[Tensor], Tensor]
"""Video B C F H W in [-1, 1] → lengths int64 B T."""


@dataclass(frozen=True)
class RoutedLengths:
    """What a router says at a preference w_q."""

    router: Router
    preference: float

    def __call__(self, video: Tensor) -> Tensor:
        return self.router.assign(video, self.preference)

    def __str__(self) -> str:
        return f"router {fingerprint(self.router)}, preference {self.preference:g}"


@dataclass(frozen=True)
class UniformLengths:
    """`length` tokens for every block."""

    length: int
    num_blocks: int

    def __call__(self, video: Tensor) -> Tensor:
        return torch.full((len(video), self.num_blocks), self.length)

    def __str__(self) -> str:
        return f"{self.length} for every block"


def load_assigner(
    tokenizer: VideoTokenizer, router: str | None, preference: float, uniform_length: int | None
) -> RoutedLengths | UniformLengths:
    """From config values, of which either `router` (folder or hub id) or `uniform_length` is given. Raises UserError
    for both or neither, and where the lengths are not the tokenizer's."""
    space = tokenizer.assignments
    if (router is None) == (uniform_length is None):
        raise UserError("give either router, or uniform_length, the tokens of every block")
    if router is None:
        if uniform_length not in space.levels:
            levels = ", ".join(map(str, space.levels))
            raise UserError(f"uniform_length={uniform_length}: the tokenizer's lengths are {levels}")
        return UniformLengths(uniform_length, space.num_blocks)
    model = load_model(Router, router, tokenizer.device)
    known, needed = ((each.num_blocks, list(each.levels)) for each in (model.assignments, space))
    if known != needed:
        raise UserError(
            f"the router at {router} knows assignments of {known[0]} blocks with levels {known[1]}; the tokenizer "
            f"takes {needed[0]} blocks with levels {needed[1]}: give the router that was trained for it"
        )
    return RoutedLengths(model, preference)
