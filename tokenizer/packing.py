"""Packed layouts: clips of different lengths in one batch without padding, and who sees whom in it.

Every sequence here is a batch of clips laid end to end, each clip a run of T block segments. Attention
is *block-causal*: the queries of (clip, block t) see the keys of that clip's blocks ≤ t. In a packed
layout that is plain: the queries of a segment are one run of rows, and their keys are another, the
clip's prefix. No dense mask says it, and nothing is padded.

Legend: B clips, T blocks, S segments, N packed rows (Nq of queries, Nk of keys).
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

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


class Run(NamedTuple):
    """Segments of one shape at even distances, which one dense attention call serves: `number` of them, the first at
    the row `start`, each `step` rows after the one before."""

    number: int
    query_start: int
    query_step: int
    query_length: int
    key_start: int
    key_step: int
    key_length: int


@dataclass(frozen=True)
class PackedKeys:
    """What kernels for sequences of unequal lengths want, on their device: every segment's keys one after the other.

    key_rows: int64, the key rows in that order; query_bounds, key_bounds: int32 (S + 1,), where the segments begin
    and end in the queries and in these keys.
    """

    key_rows: Tensor
    query_bounds: Tensor
    key_bounds: Tensor


@dataclass(frozen=True)
class AttentionPlan:
    """Which rows attend to which: computed once a batch, used by every layer.

    Segment s holds the `query_lengths[s]` query rows that follow those of segment s - 1. Its keys are
    `key_lengths[s]` rows in one run from `key_starts[s]` on: of the keys themselves, or, if `key_rows` is given, of
    the keys taken in that order first. `packed` is set on devices whose kernels want it (`to`).
    """

    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    key_starts: tuple[int, ...]
    key_rows: Tensor | None = None
    packed: PackedKeys | None = None

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The segments gathered into runs."""
        query_starts = itertools.accumulate((0, *self.query_lengths[:-1]))
        return tuple(_runs(list(zip(query_starts, self.query_lengths, self.key_starts, self.key_lengths))))

    def to(self, device: torch.device) -> "AttentionPlan":
        if torch.device(device).type == "cpu" or self.packed is not None:
            return self
        key_rows = self.key_rows
        if key_rows is None:
            key_rows = concatenated_ranges(torch.tensor(self.key_starts), torch.tensor(self.key_lengths))
        bounds = (
            torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
            for lengths in (self.query_lengths, self.key_lengths)
        )
        moved = (each.to(device, non_blocking=True) for each in (key_rows, *bounds))
        return replace(self, packed=PackedKeys(*moved))


@dataclass(frozen=True)
class FamilyPlan:
    """Which rows attend to which, where members of a family (say, blocks after one and the same prefix) share keys:
    every query attends to its family's keys and to its own segment's, as to one set. For inference on a CPU, where
    it spares the members' copies of what they share.

    shared: a segment for each family, with all queries of its members, and rows of the shared keys; own: a segment for
    each member, and rows of the members' keys. The two sets of keys are tensors of their own.
    """

    shared: AttentionPlan
    own: AttentionPlan

    def to(self, device: torch.device) -> "FamilyPlan | AttentionPlan":
        """Elsewhere than on a CPU: the same pairs of rows as a plan that every kernel knows."""
        return self if torch.device(device).type == "cpu" else self.joined().to(device)

    def joined(self) -> AttentionPlan:
        """The same pairs of rows, with every member's keys listed, as rows of the shared keys with the own behind."""
        shared_of_row = [keys for keys, n in zip(_key_ranges(self.shared), self.shared.query_lengths) for _ in range(n)]
        first_rows = itertools.accumulate((0, *self.own.query_lengths[:-1]))
        behind = sum(self.shared.key_lengths)
        rows = [torch.cat([shared_of_row[row], behind + own]) for row, own in zip(first_rows, _key_ranges(self.own))]
        return plan_attention(self.own.query_lengths, rows)


def _key_ranges(plan: AttentionPlan) -> list[Tensor]:
    return [torch.arange(start, start + n) for start, n in zip(plan.key_starts, plan.key_lengths)]


def plan_families(
    prefix_lengths: Sequence[int], query_lengths: Sequence[int], key_lengths: Sequence[int]
) -> FamilyPlan | AttentionPlan:
    """The plan for families of equally many members each, whose prefixes stand one after the other in the shared keys,
    as the members' own keys do in theirs. prefix_lengths: of families, all positive or all 0; query_lengths,
    key_lengths: of members, family by family. Raises ValueError where only some families have a prefix."""
    if any(prefix_lengths) and not all(prefix_lengths):
        raise ValueError(f"all families or none should have a prefix, got lengths {list(prefix_lengths)}")
    members = len(query_lengths) // len(prefix_lengths)
    own_starts = tuple(itertools.accumulate((0, *key_lengths[:-1])))
    own = AttentionPlan(tuple(query_lengths), tuple(key_lengths), own_starts)
    if not any(prefix_lengths):
        return own
    of_family = tuple(sum(query_lengths[i : i + members]) for i in range(0, len(query_lengths), members))
    starts = tuple(itertools.accumulate((0, *prefix_lengths[:-1])))
    return FamilyPlan(AttentionPlan(of_family, tuple(prefix_lengths), starts), own)


def plan_attention(query_lengths: Sequence[int], key_rows: Sequence[Tensor]) -> AttentionPlan:
    """The plan for segments of consecutive query rows, each seeing the given key rows (any, in any order)."""
    key_lengths = tuple(map(len, key_rows))
    key_starts = tuple(itertools.accumulate((0, *key_lengths[:-1])))
    return AttentionPlan(tuple(query_lengths), key_lengths, key_starts, torch.cat(list(key_rows)))


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


def _runs(segments: list[tuple[int, int, int, int]]) -> Iterator[Run]:
    """Segments (query start, query length, key start, key length) as few runs. Keys of a run do not overlap, so that
    their gradients can be added up in place."""
    by_shape: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for query_start, query_length, key_start, key_length in segments:
        by_shape.setdefault((query_length, key_length), []).append((query_start, key_start))
    for (query_length, key_length), starts in by_shape.items():
        first = 0
        while first < len(starts):
            number, query_step, key_step = 1, 0, 0
            if first + 1 < len(starts):
                query_step, key_step = (b - a for a, b in zip(starts[first], starts[first + 1]))
            while key_step >= key_length and first + number < len(starts):
                before, here = starts[first + number - 1], starts[first + number]
                if (here[0] - before[0], here[1] - before[1]) != (query_step, key_step):
                    break
                number += 1
            if number == 1:
                query_step = key_step = 0
            yield Run(number, starts[first][0], query_step, query_length, starts[first][1], key_step, key_length)
            first += number
