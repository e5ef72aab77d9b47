"""Kernels that only a GPU has, on the CPU: what they compute, and what they refuse.

Legend: Nq, Nk rows of queries and keys, S sequences, h heads, d head width.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


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
        q, k, v, g, out = parts  # (h, n, d)
        assert max(q.shape[1], 0) <= longest_query
        assert max(k.shape[1], 0) <= longest_key
        weights = (_scores(q, k, is_causal) - sums[:, queries, None]).exp()
        of_scores = weights * (g @ v.mT - (g * out).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
        for whole, r, part in zip(gradients, rows, (of_scores @ k, of_scores.mT @ q, weights.mT @ g)):
            whole[r] = part.transpose(0, 1)
    return tuple(whole.to(query.dtype) for whole in gradients)  # type: ignore[return-value]


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


def check_heads(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Its types and widths."""
    if query.dtype not in (torch.bfloat16, torch.float16) or not query.dtype == key.dtype == value.dtype:
        raise RuntimeError(f"FlashAttention only support fp16 and bf16 data type, of one kind, not {query.dtype}")
    if query.shape[-1] % 8 or query.shape[-1] > 256 or any(x.stride(-1) != 1 for x in (query, key, value)):
        raise RuntimeError(f"heads must be dense, of a multiple of 8 and at most 256 numbers, not {query.shape[-1]}")


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
}
"""By the names of torch's operations."""
