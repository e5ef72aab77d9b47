"""What follows from the numbers and lengths of some blocks: where their tokens and patches stand, and which of them
belongs to which. Made on the CPU, and sent to the device in one copy (`kernels.transfer.send`).

Legend: S blocks of any clips, P = Hp·Wp patches of a block, n tokens of all S together.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evagen.kernels.plans import concatenated_ranges
from evagen.tokenizer.positions import cell_centres, grid_shape, nearest_cell


@dataclass(frozen=True)
class Blocks:
    """S blocks: their numbers in their clips and their lengths, int64 (S,) on the CPU, and the grid (Hp, Wp)."""

    numbers: Tensor
    lengths: Tensor
    grid: tuple[int, int]

    @property
    def starts(self) -> Tensor:
        """The first token of each: int64 (S,)."""
        return self.lengths.cumsum(0) - self.lengths


@dataclass(frozen=True)
class BlockTokens:
    """The 1D tokens of S blocks, one block after another. places: (n, 3) as (block, y, x); levels: int64 (n,), the
    number of the level of each token's block; by_level: each level that occurs with its blocks, int64 (s,); order:
    int64 (n,), where each token is found where the blocks of one level stand beside each other."""

    places: Tensor
    levels: Tensor
    by_level: tuple[tuple[int, Tensor], ...]
    order: Tensor

    @staticmethod
    def of(blocks: Blocks, levels: Sequence[int]) -> "BlockTokens":
        lengths = blocks.lengths
        centres = torch.cat([_centres(length, blocks.grid) for length in lengths.tolist()])  # (n, 2)
        number = blocks.numbers.repeat_interleave(lengths)  # (n,)
        found = [(level, (lengths == level).nonzero().flatten()) for level in levels]
        by_level = tuple((level, chosen) for level, chosen in found if len(chosen))
        grouped = [concatenated_ranges(blocks.starts[chosen], lengths[chosen]) for _, chosen in by_level]
        return BlockTokens(
            torch.cat([number[:, None].to(centres), centres], dim=1),
            torch.searchsorted(torch.tensor(levels), lengths).repeat_interleave(lengths),
            by_level,
            torch.cat(grouped).argsort(),
        )


@dataclass(frozen=True)
class BlockPatches:
    """The patches of S blocks, one block after another. places: (S*P, 3) as (block, y, x); starts: int64 (S*P,), the 1D
    token from which each one's 3D query starts."""

    places: Tensor
    starts: Tensor

    @staticmethod
    def of(blocks: Blocks, decoder_start: Literal["nearest", "first"]) -> "BlockPatches":
        first, grid = blocks.starts[:, None], blocks.grid  # (S, 1)
        if decoder_start == "nearest":
            starts = first + torch.stack([nearest_cell(length, grid) for length in blocks.lengths.tolist()])  # (S, P)
        else:
            starts = first.expand(-1, grid[0] * grid[1])  # (S, P)
        return BlockPatches(patch_places(blocks.numbers, grid), starts.flatten())


def patch_places(numbers: Tensor, grid: tuple[int, int]) -> Tensor:
    """(block, y, x) of every patch of blocks of some numbers (S,): (S*P, 3)."""
    centres = cell_centres(*grid)  # (P, 2)
    block = numbers.to(centres).repeat_interleave(len(centres))  # (S*P,)
    return torch.cat([block[:, None], centres.repeat(len(numbers), 1)], dim=1)


@functools.lru_cache(maxsize=256)
def _centres(length: int, grid: tuple[int, int]) -> Tensor:
    return cell_centres(*grid_shape(length, *grid))
