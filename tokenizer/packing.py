"""Packed layouts: clips of different lengths in one batch without padding, and who sees whom in it.

Every sequence here is a batch of clips laid end to end, each clip a run of T block segments. Attention
is *block-causal*: the queries of (clip, block t) see the keys of that clip's blocks ≤ t. In a packed
layout that is plain: the queries of a segment are one run of rows, and their keys are another, the
clip's prefix. No dense mask says it, and nothing is padded.

Legend: B clips, T blocks, S segments, N packed rows (Nq of queries, Nk of keys).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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


def concatenated_ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """[start, start + length) for each pair, one after the other: int64 (sum of lengths,)."""
    offsets = starts - (lengths.cumsum(0) - lengths)  # what to add to a running count in each range
    return torch.arange(int(lengths.sum())) + offsets.repeat_interleave(lengths)


@dataclass(frozen=True)
class SegmentGroup:
    """Segments of equal shape, so that one dense attention call serves them all."""

    num_segments: int
    query_length: int
    key_length: int


@dataclass(frozen=True)
class AttentionPlan:
    """Which rows attend to which, ready to be run: computed once a batch, used by every layer.

    query_rows: int64 (Nq,), the query rows ordered group by group; key_rows: int64, the key rows that
    each group's segments see, in the same order; inverse: int64 (Nq,), puts results back in row order.
    """

    query_rows: Tensor
    key_rows: Tensor
    inverse: Tensor
    groups: tuple[SegmentGroup, ...]

    def to(self, device: torch.device) -> "AttentionPlan":
        query_rows, key_rows, inverse = (
            rows.to(device, non_blocking=True) for rows in (self.query_rows, self.key_rows, self.inverse)
        )
        return AttentionPlan(query_rows, key_rows, inverse, self.groups)


def plan_attention(query_lengths: Sequence[int], key_rows: Sequence[Tensor]) -> AttentionPlan:
    """The plan for segments of consecutive query rows, each seeing the given key rows (any, in any order)."""
    starts = torch.tensor([0, *query_lengths]).cumsum(0)[:-1].tolist()
    members: dict[tuple[int, int], list[int]] = {}
    for segment, (length, keys) in enumerate(zip(query_lengths, key_rows)):
        members.setdefault((length, len(keys)), []).append(segment)
    groups, queries, keys_in_order = [], [], []
    for (query_length, key_length), segments in members.items():
        groups.append(SegmentGroup(len(segments), query_length, key_length))
        for segment in segments:
            queries.append(torch.arange(starts[segment], starts[segment] + query_length))
            keys_in_order.append(key_rows[segment])
    query_rows = torch.cat(queries)
    return AttentionPlan(query_rows, torch.cat(keys_in_order), query_rows.argsort(), tuple(groups))


def plan_block_causal(queries: PackedLayout, keys: PackedLayout) -> AttentionPlan:
    """The plan by which block t of each clip sees that clip's blocks ≤ t. Both layouts have the same B and T."""
    clip_starts = keys.starts[:, 0].tolist()
    prefix_lengths = keys.lengths.cumsum(1).tolist()
    key_rows = [
        torch.arange(start, start + length) for start, row in zip(clip_starts, prefix_lengths) for length in row
    ]
    return plan_attention(queries.lengths.flatten().tolist(), key_rows)
