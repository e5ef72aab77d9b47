"""What a user says of the lengths while sampling; what is left open, the model decides.

Legend: S sampling slots, T blocks, L levels.
"""

import numbers
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from evagen.ar_model.grammar import GrammarState, SequenceGrammar

LARGEST = 1e6
"""Of numbers that a user may give for logits to be changed by: they stay finite in single precision."""


@dataclass(frozen=True)
class LengthConstraints:
    """What is asked of the lengths that a generator writes. Blocks that are given keep theirs. In Python `forced` may
    be a tensor (T,) too, such as another clip's lengths. Raises ValueError for what are no numbers of their kind."""

    forced: Sequence[int | None] | None = None
    """A length for each block, None where it is free."""
    max_length: int | None = None
    """No block gets more tokens."""
    max_tokens: int | None = None
    """No clip gets more tokens in all."""
    bias: float = 0.0
    """Added to the log-odds of a level for each doubling of its length, so positive for more tokens."""

    def __post_init__(self) -> None:
        if not -LARGEST <= self.bias <= LARGEST:
            raise ValueError(f"a bias on lengths lies in [-{LARGEST:g}, {LARGEST:g}], got {self.bias}")
        for name in ("max_length", "max_tokens"):
            if not isinstance(value := getattr(self, name), numbers.Integral | None):
                raise ValueError(f"{name} is a whole number, got {value!r}")
        if self.forced is None:
            return
        try:
            forced = tuple(None if length is None else operator.index(length) for length in self.forced)
        except TypeError as error:
            raise ValueError(
                f"forced lengths are a list of whole numbers, one for each block, None where it is free; got "
                f"{self.forced!r}"
            ) from error
        object.__setattr__(self, "forced", forced)

    def least(self, grammar: SequenceGrammar) -> list[int]:
        """The fewest tokens that each block can have, (T,)."""
        return [length or min(grammar.levels) for length in self.forced or [None] * grammar.num_blocks]

    def check(self, grammar: SequenceGrammar, own_lengths: Sequence[int] = ()) -> None:
        """Raises ValueError where a clip of this grammar, whose first blocks have `own_lengths`, cannot obey."""
        levels, num_blocks = list(grammar.levels), grammar.num_blocks
        forced = list(self.forced or [])
        if self.forced is not None and (len(forced) != num_blocks or not set(forced) <= {None, *levels}):
            raise ValueError(f"lengths {forced}: {num_blocks} are needed, one for each block, each one of {levels}")
        if self.max_length is not None and self.max_length < max(self.least(grammar)):
            raise ValueError(
                f"no block is to have more than {self.max_length} tokens, but one needs {max(self.least(grammar))}: "
                f"the levels are {levels}"
            )
        needed = sum(own_lengths) + sum(self.least(grammar)[len(own_lengths) :])
        if self.max_tokens is not None and self.max_tokens < needed:
            raise ValueError(f"a clip cannot do with {self.max_tokens} tokens: it needs at least {needed}")


UNBOUNDED = 2**62


class LengthScores(NamedTuple):
    """The constraints of S slots as tensors. by_block: float32 (S, T, L), added to the logits of the length
    tokens, -inf where a level is ruled out; most: int64 (S, T), how many tokens a clip may have up to the end of each
    block."""

    by_block: Tensor
    most: Tensor

    @staticmethod
    def of(constraints: Sequence[LengthConstraints], grammar: SequenceGrammar) -> "LengthScores":
        tables = [_tables(each, grammar) for each in constraints]
        return LengthScores(torch.stack([t[0] for t in tables]), torch.stack([t[1] for t in tables]))

    def __call__(self, state: GrammarState, levels: Tensor) -> Tensor:
        """float32 (S, L), meaningful for slots whose next token is a length. levels: int64 (L,)."""
        block = state.begun.clamp_max(self.most.shape[1] - 1)  # (S,)
        slot = torch.arange(len(block), device=block.device)
        left = self.most[slot, block] - state.total  # (S,)
        return self.by_block[slot, block].masked_fill(levels > left[:, None], -torch.inf)


def _tables(constraints: LengthConstraints, grammar: SequenceGrammar) -> tuple[Tensor, Tensor]:
    levels = torch.tensor(grammar.levels)  # (L,)
    allowed = torch.ones(grammar.num_blocks, len(levels), dtype=torch.bool)  # (T, L)
    for block, length in enumerate(constraints.forced or []):
        if length is not None:
            allowed[block] = levels == length
    if constraints.max_length is not None:
        allowed &= levels <= constraints.max_length
    bias = constraints.bias * (levels / levels.min()).log2()  # (L,)
    least = constraints.least(grammar)
    due_later = torch.tensor([sum(least[block + 1 :]) for block in range(len(least))])  # (T,)
    most = (UNBOUNDED if constraints.max_tokens is None else constraints.max_tokens) - due_later  # (T,)
    return torch.where(allowed, bias, -torch.inf), most
