"""The drawing of the next tokens as one Triton kernel; the same in torch is `draw_in_torch` in ar_model/drawing.py.

Cuts by top-k and top-p need no sorting here: a token stays where the likelier ones are fewer than k, or together have
less than p, so each cut is a threshold that bisection finds among the numbers that a float can be. Tokens as likely as
the last one that stays all stay.

This module needs Triton; import it where there is CUDA.

Legend: S slots, R rows of logits (S, or 2·S with guidance), V vocabulary, K codes, L levels, T blocks, M longest
sequence; in a program v columns.
"""

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_TOKENS = 2**15
"""Of a vocabulary, all of which one program holds."""
BITS_OF_ONE = tl.constexpr(0x3F800000)
"""The float 1.0 as a whole number. Of two floats that are not negative the larger is so as a whole number too."""


@triton.jit
def _stay(weights, measure, limit):
    """Where the measures of all larger weights add up to less than the limit: weights in [0, 1], (v,) → bool (v,)."""
    bits = weights.to(tl.int32, bitcast=True)
    low, high = tl.full((), 0, tl.int32), tl.full((), BITS_OF_ONE, tl.int32)
    for _ in range(30):
        middle = (low + high) // 2
        is_less = tl.sum(tl.where(bits > middle, measure, 0.0), 0) < limit
        low, high = tl.where(is_less, low, middle + 1), tl.where(is_less, middle, high)
    return bits >= high


@triton.jit
def _guided(
    logits, row, num_slots, columns, V, begun, remaining, length, T, guidance, first, last, LINEAR: tl.constexpr
):  # fmt: skip
    """Logits (v,) of a slot, drawn away from those without a class by a scale that follows the clip's progress."""
    conditional = tl.load(logits + row * V + columns, mask=columns < V, other=0.0)
    unconditional = tl.load(logits + (row + num_slots) * V + columns, mask=columns < V, other=0.0)
    progress = (begun.to(tl.float32) - remaining.to(tl.float32) / tl.maximum(length, 1).to(tl.float32)) / T
    if LINEAR:
        scale = 1.0 + (guidance - 1.0) * progress
    else:
        scale = tl.where((progress >= first) & (progress < last), guidance, 1.0)
    return unconditional + scale * (conditional - unconditional)


@triton.jit(do_not_specialize=["num_slots", "M", "V", "K", "L", "T", "end", "top_k"])
def draw_kernel(
    logits, positions, tokens, written, noise, by_block, most, begun, remaining, length, total, levels, num_slots, M, V,
    K, L, T, end, temperature, top_k, top_p, min_p, guidance, first, last, CUTS_TOP_K: tl.constexpr,
    CUTS_TOP_P: tl.constexpr, CUTS_MIN_P: tl.constexpr, GREEDY: tl.constexpr, GUIDED: tl.constexpr,
    LINEAR: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A program for each slot: its token to tokens, (R,) in all, and to its place in written (S, M), and its state
    moved on."""
    row, columns = tl.program_id(0), tl.arange(0, COLUMNS)
    at_begun, at_remaining, at_length, at_total = begun + row, remaining + row, length + row, total + row
    begun, remaining = tl.load(at_begun), tl.load(at_remaining)
    length, total = tl.load(at_length), tl.load(at_total)
    position = tl.load(positions + row)
    if GUIDED:
        scores = _guided(logits, row, num_slots, columns, V, begun, remaining, length, T, guidance, first, last, LINEAR)
    else:
        scores = tl.load(logits + row * V + columns, mask=columns < V, other=0.0)

    is_finished = (begun == T) & (remaining == 0)
    is_due = (remaining == 0) & (begun != T)  # a length
    is_length = (columns >= K) & (columns < K + L)
    block = row * T + tl.minimum(begun, T - 1)
    bias = tl.load(by_block + block * L + columns - K, mask=is_length, other=0.0)
    level = tl.load(levels + columns - K, mask=is_length, other=0)
    fits = is_length & (level <= tl.load(most + block) - total)
    is_allowed = tl.where(is_finished, columns == end, tl.where(is_due, fits, columns < K))
    scores = tl.where(is_allowed, scores + bias, float("-inf"))

    if GREEDY:
        total_score = tl.sum(tl.where(is_allowed, scores, 0.0), 0)
        token = tl.where(total_score == total_score, tl.argmax(scores, 0), end)  # the end where scores are NaN
    else:
        scores = scores / temperature
        weights = tl.exp(scores - tl.max(scores, 0))
        if CUTS_TOP_K:
            weights = tl.where(_stay(weights, 1.0, top_k), weights, 0.0)
        weights = weights / tl.sum(weights, 0)
        if CUTS_TOP_P:
            weights = tl.where(_stay(weights, weights, top_p), weights, 0.0)
        if CUTS_MIN_P:
            weights = tl.where(weights >= min_p * tl.max(weights, 0), weights, 0.0)
        cumulative = tl.cumsum(weights.to(tl.float64), 0)
        threshold = tl.load(noise + row * M + position - 1) * tl.max(cumulative, 0)
        # Of the possible ones: sums of other orders might pass the threshold where nothing is added.
        passes = (weights > 0) & (cumulative > threshold)
        last_possible = tl.max(tl.where(weights > 0, columns, -1), 0)
        token = tl.minimum(tl.min(tl.where(passes, columns, COLUMNS), 0), last_possible)
        token = tl.where(last_possible < 0, end, token)  # the end where weights are NaN

    token = token.to(tl.int64)
    tl.store(tokens + row, token)
    if GUIDED:
        tl.store(tokens + row + num_slots, token)
    tl.store(written + row * M + position, token)
    chosen = tl.load(levels + tl.minimum(tl.maximum(token - K, 0), L - 1))
    tl.store(at_begun, begun + is_due.to(tl.int64))
    tl.store(at_remaining, tl.where(is_due, chosen, tl.maximum(remaining - 1, 0)))
    tl.store(at_length, tl.where(is_due, chosen, length))
    tl.store(at_total, tl.where(is_due, total + chosen, total))


def launch_draw(
    logits: Tensor, positions: Tensor, tokens: Tensor, tables: Mapping[str, Tensor], levels: Tensor, end: int,
    codebook_size: int, cuts: tuple[float, int, float, float], guidance: tuple[float, float, float, bool],
) -> None:  # fmt: skip
    """Draws for every slot. logits: contiguous float32 (R, V); tables: what is known of the slots, by the names
    of the kernel's arguments; levels: int64 (L,); cuts: temperature, top-k, top-p, min-p; guidance: its scale, from and
    to which progress, and whether it rises linearly instead. Raises ValueError for a vocabulary that no program can
    hold."""
    if logits.shape[1] > MOST_TOKENS:
        raise ValueError(f"a vocabulary of {logits.shape[1]} is more than {MOST_TOKENS}")
    num_slots, longest = tables["written"].shape
    num_blocks, vocabulary = tables["most"].shape[1], logits.shape[1]
    temperature, top_k, top_p, min_p = cuts
    scale, first, last, is_linear = guidance
    columns = triton.next_power_of_2(vocabulary)
    with torch.cuda.device_of(logits):  # Triton starts kernels on the current device
        draw_kernel[(num_slots,)](
            logits, positions, tokens, **tables, levels=levels, num_slots=num_slots, M=longest, V=vocabulary,
            K=codebook_size, L=len(levels), T=num_blocks, end=end, temperature=float(temperature), top_k=top_k,
            top_p=float(top_p), min_p=float(min_p), guidance=float(scale), first=float(first), last=float(last),
            CUTS_TOP_K=0 < top_k < vocabulary, CUTS_TOP_P=top_p < 1, CUTS_MIN_P=min_p > 0, GREEDY=temperature == 0,
            GUIDED=len(logits) > num_slots, LINEAR=is_linear, COLUMNS=columns,
            num_warps=16 if columns > 8192 else 8,
        )  # fmt: skip
