"""Assignments: how many tokens each temporal block of a clip gets, and their numbering.

Legend: T temporal blocks in a clip, n number of levels, A = n**T candidate assignments.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


class AssignmentSpace:
    """All assignments of T levels to T blocks, numbered 0 … n**T - 1.

    The index is the number whose base-n digits are the level numbers, block 0 the most significant
    (EVATok §3: T = 4 blocks and 5 levels give 5**4 = 625 candidates), so the assignments that share
    a prefix stand next to each other.

    Args:
        levels: the candidate lengths in tokens, strictly increasing, all at least 1.
        num_blocks: T.

    Attributes: these two, and `min_tokens` and `max_tokens` of an assignment.
    """

    def __init__(self, levels: Sequence[int], num_blocks: int):
        levels = tuple(int(level) for level in levels)
        if not levels or levels[0] < 1 or any(a >= b for a, b in pairwise(levels)):
            raise ValueError(f"levels must be positive and strictly increasing, for instance [4, 8, 16]; got {levels}")
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}")
        self.levels = levels
        self.num_blocks = num_blocks
        self.min_tokens = levels[0] * num_blocks
        self.max_tokens = levels[-1] * num_blocks

    @property
    def count(self) -> int:
        """A, how many there are; it may be more than `len` could say."""
        return len(self.levels) ** self.num_blocks

    def table(self) -> Tensor:
        """Every assignment in index order: int64 (A, T), in tokens."""
        return self.lengths_of(torch.arange(self.count))

    def lengths_of(self, index: Tensor) -> Tensor:
        """Assignment numbers (…) to lengths in tokens (…, T)."""
        if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < self.count):
            raise ValueError(f"assignment numbers run from 0 to {self.count - 1}, got {index.tolist()}")
        base = len(self.levels)
        powers = base ** torch.arange(self.num_blocks - 1, -1, -1, device=index.device)  # (T,)
        digits = index[..., None] // powers % base  # (…, T)
        return torch.tensor(self.levels, device=index.device)[digits]

    def index_of(self, lengths: Tensor) -> Tensor:
        """Lengths in tokens (…, T) to assignment numbers (…). Raises ValueError for a length that is no level."""
        self.check(lengths)
        levels = torch.tensor(self.levels, device=lengths.device)
        digits = torch.searchsorted(levels, lengths.contiguous())  # (…, T)
        powers = len(self.levels) ** torch.arange(self.num_blocks - 1, -1, -1, device=lengths.device)
        return (digits * powers).sum(-1)

    def check(self, lengths: Tensor) -> None:
        """Raises ValueError unless lengths is (…, T) and holds levels only."""
        if lengths.shape[-1] != self.num_blocks:
            raise ValueError(
                f"an assignment has {self.num_blocks} lengths, one for each temporal block; got {lengths.shape[-1]}"
            )
        self.check_levels(lengths)

    def check_levels(self, lengths: Tensor) -> None:
        """Raises ValueError for a length that is no level, whatever the shape."""
        unknown = sorted(set(lengths.unique().tolist()) - set(self.levels))
        if unknown:
            raise ValueError(f"{unknown} are no levels; each block's length is one of {list(self.levels)}")

    def starting_with(self, prefix: Sequence[int]) -> Tensor:
        """Which assignments begin with these lengths: bool (A,). Raises ValueError where none does."""
        prefix = self.check_prefix(prefix)
        return (self.table()[:, : len(prefix)] == torch.tensor(prefix, dtype=torch.int64)).all(-1)

    def check_prefix(self, prefix: Sequence[int]) -> list[int]:
        """Returns it as a list. Raises ValueError where no assignment begins with these lengths."""
        prefix = [int(length) for length in prefix]
        if len(prefix) > self.num_blocks or not set(prefix) <= set(self.levels):
            raise ValueError(
                f"no assignment begins with {prefix}: a prefix has at most {self.num_blocks} lengths, each one of "
                f"{list(self.levels)}"
            )
        return prefix

    def uniform(self, level: int, batch_size: int) -> Tensor:
        """The same level for every block of every clip: int64 (B, T)."""
        lengths = torch.full((batch_size, self.num_blocks), level)
        self.check(lengths)
        return lengths

    def random(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Assignments drawn evenly from all candidates, as stage 1 trains on: int64 (B, T)."""
        if self.count > 2**62:  # more than an index can number
            digits = torch.randint(len(self.levels), (batch_size, self.num_blocks), generator=generator)
            return torch.tensor(self.levels)[digits]
        return self.lengths_of(torch.randint(self.count, (batch_size,), generator=generator))

    def random_runs(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Lengths for videos that a tokenizer with a memory is to learn, int64 (B, T): each video has a taste of its
        own, weights of the levels drawn from all alike (a flat Dirichlet distribution), by which its blocks' lengths
        are drawn. So long runs of the shortest length occur, as in a video in which nothing happens; were all
        assignments alike, twelve blocks would never be short together."""
        weights = torch.empty(batch_size, len(self.levels)).exponential_(generator=generator)  # of a Dirichlet, scaled
        levels = torch.multinomial(weights, self.num_blocks, replacement=True, generator=generator)  # (B, T)
        return torch.tensor(self.levels)[levels]
