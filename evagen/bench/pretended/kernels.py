"""Kernels that only a GPU has, on the CPU: what they compute, and what they refuse.

Legend: Nq, Nk rows of queries and keys, S sequences, h heads, d head width.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def varlen_attn(
    query: Tensor, key: Tensor, value: Tensor, query_bounds: Tensor, key_bounds: Tensor, longest_query: int,
    longest_key: int, is_causal: bool = False, scale: float | None = None, window: Any = None, gqa: bool = False,
    keys_used: Tensor | None = None, *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """torch's attention of sequences of unequal lengths: queries (Nq, h, d), keys and values (Nk, h, d), where the
    sequences begin and end, int32 (S + 1,) each, and how many of their keys count, (S,) → (Nq, h, d), and what the
    backward pass wants."""
    _check(query, key, value, query_bounds, key_bounds)
    outputs = []
    for queries, keys in _sequences(query_bounds, key_bounds, keys_used):
        assert queries.stop - queries.start <= longest_query
        assert keys.stop - keys.start <= longest_key
        q, k, v = (x[rows].transpose(0, 1).float() for x, rows in ((query, queries), (key, keys), (value, keys)))
        outputs.append(F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=scale).transpose(0, 1))
    nothing = torch.zeros(2, dtype=torch.uint64)
    return torch.cat(outputs).to(query.dtype), torch.zeros(query.shape[1], len(query)), nothing


def varlen_attn_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, log_sum_exp: Tensor,
    query_bounds: Tensor, key_bounds: Tensor, longest_query: int, longest_key: int, is_causal: bool, *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of queries, keys and values."""
    gradients = tuple(torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (query, key, value))
    for queries, keys in _sequences(query_bounds, key_bounds):
        rows = (queries, keys, keys, queries)
        q, k, v, g = (x[r].float().transpose(0, 1) for x, r in zip((query, key, value, gradient), rows))  # (h, n, d)
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if is_causal:
            scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
        weights = scores.softmax(-1)
        of_weights = g @ v.mT
        of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
        for whole, r, part in zip(gradients, rows, (of_scores @ k, of_scores.mT @ q, weights.mT @ g)):
            whole[r] = part.transpose(0, 1).to(whole.dtype)
    return gradients


def _check(query: Tensor, key: Tensor, value: Tensor, query_bounds: Tensor, key_bounds: Tensor) -> None:
    """What FlashAttention takes."""
    if query.dtype not in (torch.bfloat16, torch.float16) or not query.dtype == key.dtype == value.dtype:
        raise RuntimeError(f"FlashAttention only support fp16 and bf16 data type, of one kind, not {query.dtype}")
    if not query_bounds.dtype == key_bounds.dtype == torch.int32:
        raise RuntimeError("cu_seqlens must have dtype int32")
    if query.shape[-1] % 8 or query.shape[-1] > 256 or any(x.stride(-1) != 1 for x in (query, key, value)):
        raise RuntimeError(f"heads must be dense, of a multiple of 8 and at most 256 numbers, not {query.shape[-1]}")
    if int(query_bounds[-1]) != len(query) or int(key_bounds[-1]) != len(key):
        raise RuntimeError("cu_seqlens do not end where the rows do")


def _sequences(
    query_bounds: Tensor, key_bounds: Tensor, keys_used: Tensor | None = None
) -> Iterator[tuple[slice, slice]]:
    queries, keys = query_bounds.tolist(), key_bounds.tolist()
    used = (key_bounds.diff() if keys_used is None else keys_used).tolist()
    for number, (start, end) in enumerate(itertools.pairwise(queries)):
        yield slice(start, end), slice(keys[number], keys[number] + used[number])


EMULATED: dict[str, Callable] = {
    "torch_attn::_varlen_attn": varlen_attn,
    "torch_attn::_varlen_attn_backward": varlen_attn_backward,
}
"""By the names of torch's operations."""
