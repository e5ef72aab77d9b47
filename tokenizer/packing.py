"""Packed layouts: clips of different lengths in one batch without padding, and who sees whom in it.

Every sequence here is a batch of clips laid end to end, each clip a run of T block segments. Attention
is *block-causal*: the queries of (clip, block t) see the keys of that clip's blocks ≤ t, or of the last few of
these. In a packed layout that is plain: the queries of a segment are one run of rows, and their keys are another.
No dense mask says it, and nothing is padded.

Legend: B clips, T blocks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evagen.kernels.plans import AttentionPlan


@dataclass(frozen=True)
class PackedLayout:
    """Where each block's rows stand in a packed sequence of B clips with T blocks each.

    lengths: int64 (B, T) on the CPU, the rows of each block.
    """

    lengths: Tensor

    @property
    def num_rows(self) -> int:
        return int(self.lengths.sum())

    @property
    def starts(self) -> Tensor:
        """The first row of each block: int64 (B, T)."""
        ends = self.lengths.flatten().cumsum(0)  # (B*T,)
        return (ends - self.lengths.flatten()).view_as(self.lengths)


def plan_block_causal(
    queries: PackedLayout, keys: PackedLayout, memory: int | None = None, earlier: int = 0
) -> AttentionPlan:
    """The plan by which block t of each clip sees that clip's blocks t - memory … t, or all up to t if None.

    Both layouts have the same B. The keys may have `earlier` blocks more, those before the first of the queries."""
    blocks = torch.arange(earlier, keys.lengths.shape[1])  # of the queries, numbered as the keys' are
    first = torch.zeros_like(blocks) if memory is None else (blocks - memory).clamp(min=0)
    ends = keys.starts + keys.lengths
    starts = keys.starts[:, first]
    lengths, seen, first_rows = (
        tuple(x.flatten().tolist()) for x in (queries.lengths, ends[:, blocks] - starts, starts)
    )
    return AttentionPlan(lengths, seen, first_rows)


def plan_within_blocks(rows: PackedLayout) -> AttentionPlan:
    """The plan by which the rows of each block see each other and nothing else."""
    lengths, starts = (tuple(x.flatten().tolist()) for x in (rows.lengths, rows.starts))
    return AttentionPlan(lengths, lengths, starts)
