"""Kernels that only a GPU has, on the CPU: what they compute, and what they refuse.

Legend: Nq, Nk rows of queries and keys, S sequences, h heads, d head width.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

EFFICIENT_ROWS = 32
"""To a multiple of which the memory-efficient kernel rounds the sums of a sequence up."""
CAUSAL = 1
"""Its number for a mask that begins in the upper left corner."""
ALIGNED = {torch.float32: 4, torch.bfloat16: 8, torch.float16: 8}
"""In how many numbers it reads rows and heads."""


def flash_forward(
    query: Tensor, key: Tensor, value: Tensor, query_bounds: Tensor, key_bounds: Tensor, longest_query: int,
    longest_key: int, dropout: float, is_causal: bool, _: bool, *, seqused_k: Tensor | None = None, **__: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    """torch's attention of sequences of unequal lengths: queries (Nq, h, d), keys and values (Nk, h, d), where the
    sequences begin and end, int32 (S + 1,) each, and how many of their keys count, (S,), which then may overlap →
    (Nq, h, d), the logarithms of sums of weights, (h, Nq), and what the backward pass wants."""
    _check(query, key, value, query_bounds, key_bounds, key_bounds_end=seqused_k is None)
    output = torch.full(query.shape, torch.nan)
    sums = torch.full(query.shape[:2], torch.nan).T.contiguous()
    for queries, keys in _sequences(query_bounds, key_bounds, seqused_k):
        assert queries.stop - queries.start <= longest_query
        assert keys.stop - keys.start <= longest_key
        assert keys.stop <= len(key)
        q, k, v = (x[rows].transpose(0, 1).float() for x, rows in ((query, queries), (key, keys), (value, keys)))
        scores = _scores(q, k, is_causal)
        output[queries] = (scores.softmax(-1) @ v).transpose(0, 1)
        sums[:, queries] = scores.logsumexp(-1)
    random, nothing = torch.zeros(2, dtype=torch.uint64), torch.zeros(0)
    return output.to(query.dtype), sums, random, nothing, nothing.clone()


def flash_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, sums: Tensor, query_bounds: Tensor,
    key_bounds: Tensor, longest_query: int, longest_key: int, dropout: float, is_causal: bool, *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of queries, keys and values, from the outputs and sums of the whole softmax."""
    _check(query, key, value, query_bounds, key_bounds)
    gradients = tuple(torch.full(x.shape, torch.nan) for x in (query, key, value))
    for queries, keys in _sequences(query_bounds, key_bounds):
        rows = (queries, keys, keys, queries, queries)
        parts = ((x[r].float().transpose(0, 1)) for x, r in zip((query, key, value, gradient, output), rows))
        assert queries.stop - queries.start <= longest_query
        assert keys.stop - keys.start <= longest_key
        for whole, r, part in zip(gradients, rows, _gradients(*parts, sums[:, queries], is_causal)):
            whole[r] = part.transpose(0, 1)
    return tuple(whole.to(query.dtype) for whole in gradients)  # type: ignore[return-value]


def _gradients(
    query: Tensor, key: Tensor, value: Tensor, gradient: Tensor, output: Tensor, sums: Tensor, is_causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the queries, keys and values of one sequence, (h, n, d) each; sums: (h, queries)."""
    weights = (_scores(query, key, is_causal) - sums[..., None]).exp()  # (h, queries, keys)
    of_scores = weights * (gradient @ value.mT - (gradient * output).sum(-1, keepdim=True)) * query.shape[-1] ** -0.5
    return of_scores @ key, of_scores.mT @ query, weights.mT @ gradient


def _scores(query: Tensor, key: Tensor, is_causal: bool) -> Tensor:
    scores = query @ key.mT * query.shape[-1] ** -0.5  # (h, queries, keys)
    return scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1) & is_causal, -torch.inf)


def _check(
    query: Tensor, key: Tensor, value: Tensor, query_bounds: Tensor, key_bounds: Tensor, key_bounds_end: bool = True
) -> None:
    """What FlashAttention takes."""
    check_heads(query, key, value)
    if not query_bounds.dtype == key_bounds.dtype == torch.int32 or len(query_bounds) != len(key_bounds):
        raise RuntimeError("cu_seqlens must have dtype int32 and one length")
    if int(query_bounds[-1]) != len(query) or (key_bounds_end and int(key_bounds[-1]) != len(key)):
        raise RuntimeError("cu_seqlens do not end where the rows do")


def efficient_forward(
    query: Tensor, key: Tensor, value: Tensor, bias: None, query_bounds: Tensor, key_bounds: Tensor,
    longest_query: int, longest_key: int, dropout: float, mask: int, with_sums: bool, **__: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """torch's memory-efficient attention of sequences of unequal lengths: queries (1, Nq, h, d), keys and values
    (1, Nk, h, d), which lie in order → (1, Nq, h, d), the logarithms of sums of weights, (S, h, longest_query rounded
    up), and what the backward pass wants."""
    check_rows(query, key, value)
    _check_sequences(query, query_bounds, longest_query)
    _check_sequences(key, key_bounds, longest_key)
    output = torch.full(query.shape, torch.nan)
    padded = -(-longest_query // EFFICIENT_ROWS) * EFFICIENT_ROWS
    sums = torch.full((len(query_bounds) - 1, query.shape[2], padded), torch.nan)
    for number, (queries, keys) in enumerate(_sequences(query_bounds, key_bounds)):
        q, k, v = (x[0, rows].transpose(0, 1).float() for x, rows in ((query, queries), (key, keys), (value, keys)))
        scores = _scores(q, k, mask == CAUSAL)
        output[0, queries] = (scores.softmax(-1) @ v).transpose(0, 1)
        sums[number, :, : q.shape[1]] = scores.logsumexp(-1)
    seed, offset = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)
    return output.to(query.dtype), sums, seed, offset, longest_query, longest_key


def efficient_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: None, output: Tensor, query_bounds: Tensor,
    key_bounds: Tensor, longest_query: int, longest_key: int, sums: Tensor, dropout: float, seed: Tensor,
    offset: Tensor, mask: int, *_: Any, **__: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of queries, keys and values, and none of a bias."""
    check_rows(query, key, value)
    _check_sequences(query, query_bounds, longest_query)
    _check_sequences(key, key_bounds, longest_key)
    gradients = tuple(torch.full(x.shape, torch.nan) for x in (query, key, value))
    for number, (queries, keys) in enumerate(_sequences(query_bounds, key_bounds)):
        rows = (queries, keys, keys, queries, queries)
        parts = ((x[0, r].float().transpose(0, 1)) for x, r in zip((query, key, value, gradient, output), rows))
        found = _gradients(*parts, sums[number, :, : queries.stop - queries.start], mask == CAUSAL)
        for whole, r, part in zip(gradients, rows, found):
            whole[0, r] = part.transpose(0, 1)
    return *(whole.to(query.dtype) for whole in gradients), torch.zeros(0)


def check_heads(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Its types and widths."""
    if query.dtype not in (torch.bfloat16, torch.float16) or not query.dtype == key.dtype == value.dtype:
        raise RuntimeError(f"FlashAttention only support fp16 and bf16 data type, of one kind, not {query.dtype}")
    if query.shape[-1] % 8 or query.shape[-1] > 256 or any(x.stride(-1) != 1 for x in (query, key, value)):
        raise RuntimeError(f"heads must be dense, of a multiple of 8 and at most 256 numbers, not {query.shape[-1]}")


def check_rows(query: Tensor, key: Tensor, value: Tensor) -> None:
    """The types and the memory that the memory-efficient kernel takes, on GPUs from Ampere on."""
    if query.dtype not in ALIGNED or not query.dtype == key.dtype == value.dtype:
        raise RuntimeError(f"expected fp32, fp16 or bf16, of one kind, not {query.dtype}")
    if any(x.stride(-1) != 1 or any(n % ALIGNED[query.dtype] for n in x.stride()[1:3]) for x in (query, key, value)):
        raise RuntimeError(f"no kernel is there for heads of {query.shape[-1]}, or for rows that lie so")


def _check_sequences(rows: Tensor, bounds: Tensor, longest: int) -> None:
    """How the memory-efficient kernel is told of the sequences of rows (1, N, h, d)."""
    if bounds.dtype != torch.int32 or len(rows) != 1 or int(bounds[-1]) != rows.shape[1]:
        raise RuntimeError("cu_seqlens must be int32 and end where the rows of the one batch do")
    if not 0 < int(bounds.diff().max()) <= longest <= rows.shape[1]:
        raise RuntimeError(f"max_seqlen {longest} is less than the longest sequence, or more than there are rows")


def _sequences(
    query_bounds: Tensor, key_bounds: Tensor, keys_used: Tensor | None = None
) -> Iterator[tuple[slice, slice]]:
    queries, keys = query_bounds.tolist(), key_bounds.tolist()
    used = (key_bounds.diff() if keys_used is None else keys_used).tolist()
    for number, (start, end) in enumerate(itertools.pairwise(queries)):
        yield slice(start, end), slice(keys[number], keys[number] + used[number])


EMULATED: dict[str, Callable] = {
    "_flash_attention_forward": flash_forward,
    "_flash_attention_backward": flash_backward,
    "_efficient_attention_forward": efficient_forward,
    "_efficient_attention_backward": efficient_backward,
}
"""By the names of torch's operations."""
