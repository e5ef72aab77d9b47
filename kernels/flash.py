"""FlashAttention on rows where they lie: torch's kernel for sequences of unequal lengths (CUDA, half precision).

Forward the keys of one call may overlap, so that what block-causal attention sees is read in place and copied for
nobody. Backward they may not, since every call writes the gradients of its keys; there a call for each `Part` of the
pairs gets the gradients that they bring, from the whole softmax's outputs and sums, and these are added up.

Legend: Nq query rows, Nk key rows, h heads, d head width, S segments, P sequences of a part.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Segment = tuple[int, int, int, int]
"""The first query row and their number, the first key row and their number."""


@dataclass(frozen=True)
class Part:
    """Pairs of rows no key of which occurs twice, as sequences that follow each other in queries and in keys: int32
    (P + 1,) bounds each. Rows that are in none of the pairs are sequences without partners."""

    query_bounds: Tensor
    key_bounds: Tensor
    longest_query: int
    longest_key: int


@dataclass(frozen=True)
class FlashPlan:
    """An `AttentionPlan` as the kernel takes it. query_bounds: int32 (S + 1,); key_starts: int32 (S + 1,), the last
    one unread; key_lengths: int32 (S,); num_keys: rows up to the last key; parts: for the backward pass."""

    query_bounds: Tensor
    key_starts: Tensor
    key_lengths: Tensor
    num_keys: int
    longest_query: int
    longest_key: int
    causal: bool
    parts: tuple[Part, ...] = ()


def flash_forward(query: Tensor, key: Tensor, value: Tensor, plan: FlashPlan) -> tuple[Tensor, Tensor]:
    """Softmax attention by plan, (Nq, h, d), and the logarithms of its sums of weights, (h, Nq) in fp32; without
    gradients."""
    return attend(query, key, value, *_flat(plan))[:2]


def flash_attention(query: Tensor, key: Tensor, value: Tensor, plan: FlashPlan) -> Tensor:
    """Softmax attention by plan: query (Nq, h, d), key and value (Nk, h, d) → (Nq, h, d)."""
    key, value = (x if len(x) == plan.num_keys else x[: plan.num_keys] for x in (key, value))
    return _attend(query, key, value, *_flat(plan))[0]


def _flat(plan: FlashPlan) -> tuple[list[Tensor], list[int], bool]:
    """Tensors, numbers and the flag of a plan, as an operation of torch's takes them."""
    tensors, numbers = [plan.query_bounds, plan.key_starts, plan.key_lengths], [plan.longest_query, plan.longest_key]
    for part in plan.parts:
        tensors += [part.query_bounds, part.key_bounds]
        numbers += [part.longest_query, part.longest_key]
    return tensors, numbers, plan.causal


def attend(
    query: Tensor, key: Tensor, value: Tensor, tensors: list[Tensor], numbers: list[int], causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel's forward pass for a plan made flat: what is attended to, the logarithms of sums of weights, and the
    state of random numbers that the backward pass asks for, though none are drawn."""
    bounds, starts, lengths = tensors[:3]
    attended, log_sum_exp, random, _, _ = torch.ops.aten._flash_attention_forward(
        query, key, value, bounds, starts, *numbers[:2], 0.0, causal, False, seqused_k=lengths
    )
    return attended.contiguous(), log_sum_exp, random


def attend_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, attended: Tensor, log_sum_exp: Tensor,
    random: Tensor, tensors: list[Tensor], numbers: list[int], causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of query, key and value: sums over the parts of the plan."""
    unused, sums = random.new_empty(0), None
    for i in range(2, len(numbers), 2):
        found = torch.ops.aten._flash_attention_backward(
            gradient, query, key, value, attended, log_sum_exp, *tensors[i + 1 : i + 3], *numbers[i : i + 2], 0.0,
            causal, random, unused,
        )  # fmt: skip
        sums = found if sums is None else tuple(a.add_(b) for a, b in zip(sums, found))
    return tuple(x.contiguous() for x in sums or map(torch.zeros_like, (query, key, value)))  # type: ignore[return-value]


# As operations that torch.compile takes as they are, so that a layer becomes one graph.
_attend = torch.library.custom_op("evagen::flash_attention", attend, mutates_args=())
_attend_backward = torch.library.custom_op("evagen::flash_attention_backward", attend_backward, mutates_args=())


@_attend.register_fake
def _attended_like(query: Tensor, *_) -> tuple[Tensor, Tensor, Tensor]:
    sums = query.new_empty(query.shape[1], query.shape[0], dtype=torch.float32)
    return query.new_empty(query.shape), sums, query.new_empty(2, dtype=torch.uint64)


@_attend_backward.register_fake
def _gradients_like(_, query: Tensor, key: Tensor, value: Tensor, *__) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(x.new_empty(x.shape) for x in (query, key, value))  # type: ignore[return-value]


def _keep_for_backward(ctx, inputs, output) -> None:
    query, key, value, tensors, ctx.numbers, ctx.causal = inputs
    ctx.save_for_backward(query, key, value, *output, *tensors)


def _backward(ctx, gradient: Tensor, *_) -> tuple:
    query, key, value, attended, log_sum_exp, random, *tensors = ctx.saved_tensors
    about = (attended, log_sum_exp, random, tensors, ctx.numbers, ctx.causal)
    gradients = _attend_backward(gradient.contiguous(), query, key, value, *about)
    return *gradients, [None] * len(tensors), None, None


_attend.register_autograd(_backward, setup_context=_keep_for_backward)


def flash_plan(segments: list[Segment], causal: bool) -> FlashPlan:
    """The plan for segments in the order of their queries, on the CPU."""
    queries, keys = [n for _, n, _, _ in segments], [n for _, _, _, n in segments]
    num_keys = max((start + n for _, _, start, n in segments), default=0)
    starts = torch.tensor([*(start for _, _, start, _ in segments), num_keys], dtype=torch.int32)
    longest = (max(queries, default=0), max(keys, default=0))
    parts = _parts(segments, sum(queries), num_keys)
    return FlashPlan(_bounds(queries), starts, torch.tensor(keys, dtype=torch.int32), num_keys, *longest, causal, parts)


def _parts(segments: list[Segment], num_queries: int, num_keys: int) -> tuple[Part, ...]:
    """Few parts that have every pair once."""
    by_part: list[list[Segment]] = []
    for piece in sorted(_pieces(segments)):
        for part in by_part:
            query, queries, key, keys = part[-1]
            if query + queries <= piece[0] and key + keys <= piece[2]:
                part.append(piece)
                break
        else:
            by_part.append([piece])
    return tuple(_part(pieces, num_queries, num_keys) for pieces in by_part)


def _pieces(segments: list[Segment]) -> Iterator[Segment]:
    """The same pairs as few large rectangles of queries and keys."""
    groups: list[list[Segment]] = []  # segments whose keys overlap, as those of a clip's blocks do
    end = 0
    for segment in segments:
        _, queries, key, keys = segment
        if queries and keys:
            if not groups or key >= end:
                groups.append([])
                end = 0
            groups[-1].append(segment)
            end = max(end, key + keys)
    for group in groups:
        yield from _rectangles(group)


def _rectangles(segments: list[Segment]) -> Iterator[Segment]:
    """First what all of the second half see, which for blocks that see all before them is most of it; then what is left
    of them, and the first half, in the same way: 1 + log2 T parts for T blocks."""
    segments = [segment for segment in segments if segment[3] > 0]
    first, second = segments[: len(segments) // 2], segments[len(segments) // 2 :]
    if not second:
        return
    start = max(key for _, _, key, _ in second)
    end = min(key + keys for _, _, key, keys in second)
    query, (last, queries, _, _) = second[0][0], second[-1]
    if start < end and last + queries - query == sum(n for _, n, _, _ in second):
        yield query, last + queries - query, start, end - start
        yield from _rectangles([(q, n, key, start - key) for q, n, key, _ in second])
        yield from _rectangles([(q, n, end, key + keys - end) for q, n, key, keys in second])
    elif len(second) > 1:
        yield from _rectangles(second)
    yield from _rectangles(first)


def _part(pieces: list[Segment], num_queries: int, num_keys: int) -> Part:
    """Pieces in order, with the rows between them."""
    query_lengths, key_lengths, query_end, key_end = [], [], 0, 0
    for query, queries, key, keys in [*pieces, (num_queries, 0, num_keys, 0)]:
        for alone_queries, alone_keys in ((query - query_end, 0), (0, key - key_end)):
            if alone_queries or alone_keys:
                query_lengths.append(alone_queries)
                key_lengths.append(alone_keys)
        if queries:
            query_lengths.append(queries)
            key_lengths.append(keys)
        query_end, key_end = query + queries, key + keys
    longest = (max(query_lengths, default=0), max(key_lengths, default=0))
    return Part(_bounds(query_lengths), _bounds(key_lengths), *longest)


def _bounds(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
