"""Packed layouts: clips of different lengths in one batch without padding, and who sees whom in it.

Every sequence here is a batch of clips laid end to end, each clip a run of T block segments. Attention
is *block-causal*: the queries of (clip, block t) see the keys of that clip's blocks ≤ t. In a packed
layout that is plain: the queries of a segment are one run of rows, and their keys are another, the
clip's prefix. No dense mask says it, and nothing is padded.

Legend: B clips, T blocks.
"""

from dataclasses import dataclass

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


def plan_block_causal(queries: PackedLayout, keys: PackedLayout) -> AttentionPlan:
    """The plan by which block t of each clip sees that clip's blocks ≤ t. Both layouts have the same B and T."""
    prefix_lengths = keys.lengths.cumsum(1)
    clip_starts = keys.starts[:, :1].expand_as(prefix_lengths)
    lengths, prefixes, starts = (x.flatten().tolist() for x in (queries.lengths, prefix_lengths, clip_starts))
    return AttentionPlan(tuple(lengths), tuple(prefixes), tuple(starts))


def plan_within_blocks(rows: PackedLayout) -> AttentionPlan:
    """The plan by which the rows of each block see each other and nothing else."""
    lengths, starts = (tuple(x.flatten().tolist()) for x in (rows.lengths, rows.starts))
    return AttentionPlan(lengths, lengths, starts)
