"""Which rows of packed sequences attend to which: plans that are made once a batch and used by every layer.

The queries of a segment are consecutive rows, and so are its keys, so no plan needs a mask, and nothing is padded.

Legend: S segments, Nq query rows, Nk key rows.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evagen.kernels.flash import FlashPlan, flash_plan
from evagen.kernels.transfer import send


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
class Packed:
    """What kernels for sequences of unequal lengths want, on their device.

    key_rows: int64, all segments' keys one after the other, or None where they lie so already; query_bounds,
    key_bounds: int32 (S + 1,), where the segments begin and end in the queries and in these keys; flash: the same for
    a kernel that reads keys where they lie.
    """

    key_rows: Tensor | None
    query_bounds: Tensor
    key_bounds: Tensor
    flash: FlashPlan


@dataclass(eq=False)  # torch.compile looks at all of a frozen one, and compiles anew when a number of segments changes
class AttentionPlan:
    """Which rows attend to which: computed once a batch, used by every layer, never changed.

    Segment s holds the `query_lengths[s]` query rows that follow those of segment s - 1. Its keys are the
    `key_lengths[s]` rows from `key_starts[s]` on. `packed` is set on devices whose kernels want it (`to`).

    causal: row i of a segment sees only the first i + 1 of its keys, not all. The keys are then the segments' own rows.
    Raises ValueError for a causal plan with other keys.
    """

    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    key_starts: tuple[int, ...]
    causal: bool = False
    packed: Packed | None = None

    def __post_init__(self):
        if self.causal and (self.key_lengths, self.key_starts) != (self.query_lengths, _starts(self.query_lengths)):
            raise ValueError(
                "in a causal plan the keys of a segment are its own rows: give key_lengths equal to query_lengths and "
                "key_starts where the segments begin, as plan_causal does"
            )

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The segments gathered into runs."""
        return tuple(_runs(self._segments))

    @property
    def _segments(self) -> list[tuple[int, int, int, int]]:
        return list(zip(_starts(self.query_lengths), self.query_lengths, self.key_starts, self.key_lengths))

    @cached_property
    def positions(self) -> Tensor:
        """Each query row's place in its own segment: int64 (Nq,) on the CPU, from 0."""
        lengths = torch.tensor(self.query_lengths, dtype=torch.int64)
        return concatenated_ranges(torch.zeros_like(lengths), lengths)

    @cached_property
    def xformers_bias(self) -> Any:
        """xformers' description of the plan, made of `packed`, kept for the layers that share the plan."""
        from xformers.ops.fmha.attn_bias import BlockDiagonalCausalMask, BlockDiagonalMask, _SeqLenInfo

        assert self.packed is not None
        about = ((self.query_lengths, self.packed.query_bounds), (self.key_lengths, self.packed.key_bounds))
        return (BlockDiagonalCausalMask if self.causal else BlockDiagonalMask)(
            *(_SeqLenInfo(bounds, max(sizes), min(sizes), [0, *itertools.accumulate(sizes)]) for sizes, bounds in about)
        )

    def to(self, device: torch.device) -> "AttentionPlan":
        """The plan with `packed` set where the device's kernels may want it; on a CPU the plan itself."""
        return send(self, device)

    def to_send(self) -> "AttentionPlan":
        """The plan with `packed`, on the CPU still."""
        if self.packed is not None:
            return self
        key_rows = None
        if self.key_starts != _starts(self.key_lengths):
            key_rows = concatenated_ranges(torch.tensor(self.key_starts), torch.tensor(self.key_lengths))
        query_bounds, key_bounds = (
            torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
            for lengths in (self.query_lengths, self.key_lengths)
        )
        flash = flash_plan(self._segments, self.causal)
        return replace(self, packed=Packed(key_rows, query_bounds, key_bounds, flash))


@dataclass(frozen=True)
class FamilyPlan:
    """Which rows attend to which, where members of a family (say, blocks after one and the same prefix) share keys:
    every query attends to its family's keys and to its own segment's, as to one set. For inference: it spares the
    members' copies of what they share.

    shared: a segment for each family, with all queries of its members, and rows of the shared keys; own: a segment for
    each member, and rows of the members' keys. The two sets of keys are tensors of their own. Raises ValueError where
    one of them is causal.
    """

    shared: AttentionPlan
    own: AttentionPlan

    def __post_init__(self):
        if self.shared.causal or self.own.causal:
            raise ValueError("the parts of a FamilyPlan cannot be causal: their queries see all keys they are given")


def plan_causal(lengths: Sequence[int]) -> AttentionPlan:
    """The plan for sequences of these lengths, end to end, in which each token sees itself and what comes before it in
    its own sequence. Lie sequences of equal length beside each other, attention takes fewer calls."""
    lengths = tuple(lengths)
    return AttentionPlan(lengths, lengths, _starts(lengths), causal=True)


def plan_families(
    prefix_lengths: Sequence[int], query_lengths: Sequence[int], key_lengths: Sequence[int]
) -> FamilyPlan | AttentionPlan:
    """The plan for families of equally many members each, whose prefixes stand one after the other in the shared keys,
    as the members' own keys do in theirs. prefix_lengths: of families, all positive or all 0; query_lengths,
    key_lengths: of members, family by family. Raises ValueError where only some families have a prefix."""
    if any(prefix_lengths) and not all(prefix_lengths):
        raise ValueError(f"all families or none should have a prefix, got lengths {list(prefix_lengths)}")
    members = len(query_lengths) // len(prefix_lengths)
    own = AttentionPlan(tuple(query_lengths), tuple(key_lengths), _starts(key_lengths))
    if not any(prefix_lengths):
        return own
    of_family = tuple(sum(query_lengths[i : i + members]) for i in range(0, len(query_lengths), members))
    return FamilyPlan(AttentionPlan(of_family, tuple(prefix_lengths), _starts(prefix_lengths)), own)


def _starts(lengths: Sequence[int]) -> tuple[int, ...]:
    """Where segments that stand one after the other begin."""
    return tuple(itertools.accumulate((0, *lengths)))[:-1]


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
