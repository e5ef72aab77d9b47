"""How many tokens each block of a clip gets: what a router says, or as many for all."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from evagen.config import Place, Section
from evagen.errors import UserError
from evagen.models.larp import LarpTokenizer
from evagen.models.loading import fingerprint, load_router
from evagen.tokenizer import BlockRouter, Router, VideoTokenizer
from evagen.tokenizer.adaptive import resize_clips
from evagen.tokenizer.reward import preference_within

Assign = Callable[[Tensor], Tensor]
"""Video B C F H W in [-1, 1] → lengths int64 B T."""


@dataclass(frozen=True)
class RoutedLengths:
    """What a router says at a preference w_q, of clips in the size that it looks at."""

    router: Router | BlockRouter
    preference: float
    prefix: tuple[int, ...] = ()

    def __call__(self, video: Tensor) -> Tensor:
        seen = resize_clips(video, self.router.config.resolution)  # B C F side side
        return self.router.assign(seen, self.preference, prefix=self.prefix)

    def __str__(self) -> str:
        scale, begun = self.router.config.reward_scale, _begun(self.prefix)
        return f"router {fingerprint(self.router)}, preference {self.preference:g}, {scale}{begun}"


@dataclass(frozen=True)
class UniformLengths:
    """`length` tokens for every block. block_frames: frames of a block."""

    length: int
    block_frames: int
    prefix: tuple[int, ...] = ()

    def __call__(self, video: Tensor) -> Tensor:
        num_blocks = video.shape[2] // self.block_frames
        lengths = [*self.prefix, *[self.length] * num_blocks][:num_blocks]
        return torch.tensor(lengths).repeat(len(video), 1)  # B T

    def __str__(self) -> str:
        return f"{self.length} for every block{_begun(self.prefix)}"


def _begun(prefix: tuple[int, ...]) -> str:
    return f", first blocks {', '.join(map(str, prefix))}" if prefix else ""


def check_asked(source: str | Path, router: Router | BlockRouter, *preferences: float) -> None:
    """Raises UserError for a preference that a router, which lies at `source`, was not trained for."""
    try:
        for preference in preferences:
            preference_within(preference, router.preference_range)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error


class LengthChoice(Section):
    """Who says how many tokens each block gets: a part of every config in which clips are encoded."""

    router: Place | None = None
    """A trained router, folder or hub id. This or `uniform_length`."""
    preference: float = Field(1.2, ge=0, le=2)
    """w_q of the router, one that it was trained for: higher spends more tokens."""
    uniform_length: int | None = Field(None, ge=1)
    """In place of a router: so many tokens for every block."""
    prefix: tuple[int, ...] = ()
    """Lengths of the first blocks, whatever router or `uniform_length` say of the others: [512, 128] in the paper's
    frame prediction (EVATok §4.4)."""

    @property
    def is_made(self) -> bool:
        return self.router is not None or self.uniform_length is not None

    def load(self, tokenizer: VideoTokenizer | LarpTokenizer) -> RoutedLengths | UniformLengths:
        """Raises UserError for both or neither, where the lengths are not the tokenizer's, and for a preference that
        the router was not trained for."""
        if (self.router is None) == (self.uniform_length is None):
            raise UserError("give either router, or uniform_length, the tokens of every block")
        space = tokenizer.assignments
        try:
            space.check_prefix(self.prefix)
        except ValueError as error:
            raise UserError(f"prefix={list(self.prefix)}: {error}") from error
        if self.router is not None:
            router = load_router(tokenizer, self.router)
            check_asked(self.router, router, self.preference)
            return RoutedLengths(router, self.preference, self.prefix)
        assert self.uniform_length is not None
        if self.uniform_length not in space.levels:
            levels = ", ".join(map(str, space.levels))
            raise UserError(f"uniform_length={self.uniform_length}: the tokenizer's lengths are {levels}")
        return UniformLengths(self.uniform_length, tokenizer.config.num_frames // space.num_blocks, self.prefix)
