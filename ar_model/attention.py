"""Causal attention within packed sequences. The one module that owns attention in training.

Sequences of any lengths lie end to end; no backend pads or builds a mask.

    torch      on a CPU, one dense call for neighbours of equal length, on views of the packed rows; elsewhere `varlen`
               where it applies, or such dense calls
    varlen     torch's kernel for sequences of unequal lengths (CUDA, half precision)
    xformers   xformers' memory-efficient attention under a block-diagonal causal bias (CUDA)

Legend: N packed tokens, h heads, d head width, G neighbouring sequences of equal length.
"""

import functools
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from evagen.kernels.attention_backends import AttentionBackend, backend_for


class Run(NamedTuple):
    """Neighbouring sequences of equal length: so many of them, from row `start` on."""

    start: int
    number: int
    length: int


class PackedSequences:
    """Where the sequences of a packed batch lie; made once for all layers.

    Args:
        lengths: tokens of each sequence, in the order in which they lie.
        device: of the packed tokens.

    Attributes: `lengths`; `runs`, a batch sorted by length has the fewest; `positions`, each token's place in its own
    sequence, int64 (N,).
    """

    def __init__(self, lengths: Sequence[int], device: torch.device):
        self.lengths = list(lengths)
        self.device = device
        self.positions = torch.cat([torch.arange(n) for n in self.lengths]).to(device)  # (N,)
        self.runs: list[Run] = []
        start = 0
        for length, equal in groupby(self.lengths):
            number = len(list(equal))
            self.runs.append(Run(start, number, length))
            start += number * length

    @functools.cached_property
    def bounds(self) -> Tensor:
        """Where each sequence begins, and the end of the last: int32 (number of sequences + 1,)."""
        return torch.tensor([0, *self.lengths]).cumsum(0).int().to(self.device)

    @functools.cached_property
    def xformers_bias(self) -> Any:
        """xformers' description of the pattern."""
        from xformers.ops.fmha.attn_bias import BlockDiagonalCausalMask

        return BlockDiagonalCausalMask.from_seqlens(self.lengths, device=self.device)


@torch.compiler.disable  # its many shapes are what the kernels are for; the layers around it compile once
def packed_causal_attention(
    query: Tensor, key: Tensor, value: Tensor, sequences: PackedSequences, backend: AttentionBackend = "auto"
) -> Tensor:
    """Softmax attention in which each token sees itself and what comes before it in its own sequence.

    Three of (N, h, d) → (N, h, d). Raises ValueError for a backend that does not work here.
    """
    kernel = backend_for(query, backend)
    if kernel == "xformers":
        return _xformers_attention(query, key, value, sequences)
    if kernel == "varlen":
        return _varlen_attention(query, key, value, sequences)
    if query.device.type == "cpu":
        return _RunAttention.apply(query, key, value, sequences.runs)
    return _dense_attention(query, key, value, sequences)


class _RunAttention(torch.autograd.Function):
    """A dense call for each run, on views, results and gradients written where they belong.

    Slices of a packed tensor would each bring a gradient of the whole tensor's size; here the CPU kernels of
    `scaled_dot_product_attention` are called by name, forward and backward.
    """

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, runs: list[Run]) -> Tensor:
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        query, key, value = (x.contiguous() for x in (query, key, value))  # called by name, it takes this for granted
        output = torch.empty_like(query, memory_format=torch.contiguous_format)  # (N, h, d)
        normalisers = []
        for run in runs:
            q, k, v = (_rows(x, run) for x in (query, key, value))  # (G, h, length, d) each
            attended, normaliser = attend(q, k, v, 0.0, True)
            _rows(output, run).copy_(attended)
            normalisers.append(normaliser)
        ctx.runs = runs
        ctx.save_for_backward(query, key, value, output, *normalisers)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        query, key, value, output, *normalisers = ctx.saved_tensors
        gradient = gradient.contiguous()
        gradients = [torch.empty_like(output) for _ in range(3)]  # (N, h, d) each
        for run, normaliser in zip(ctx.runs, normalisers):
            q, k, v, out, wanted = (_rows(x, run) for x in (query, key, value, output, gradient))
            parts = backward(wanted, q, k, v, out, normaliser, 0.0, True)  # (G, h, length, d) each
            for whole, part in zip(gradients, parts):
                _rows(whole, run).copy_(part)
        return *gradients, None


def _rows(x: Tensor, run: Run) -> Tensor:
    """The sequences of a run as a view: (N, h, d) → (G, h, length, d)."""
    rows = x[run.start : run.start + run.number * run.length]
    return rows.unflatten(0, (run.number, run.length)).transpose(1, 2)


def _dense_attention(query: Tensor, key: Tensor, value: Tensor, sequences: PackedSequences) -> Tensor:
    """A dense call for each run: works for every device and type of number."""
    outputs = []
    for run in sequences.runs:
        q, k, v = (_rows(x, run) for x in (query, key, value))  # (G, h, length, d)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (G, h, length, d)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))  # (G · length, h, d)
    return torch.cat(outputs)  # (N, h, d)


def _varlen_attention(query: Tensor, key: Tensor, value: Tensor, sequences: PackedSequences) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    causal = (-1, 0)  # any distance back, none ahead
    bounds, longest = sequences.bounds, max(sequences.lengths)
    attended = varlen_attn(query, key, value.contiguous(), bounds, bounds, longest, longest, window_size=causal)
    assert isinstance(attended, Tensor)  # a tuple only where more than the output is asked for
    return attended


def _xformers_attention(query: Tensor, key: Tensor, value: Tensor, sequences: PackedSequences) -> Tensor:
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention(query[None], key[None], value[None], attn_bias=sequences.xformers_bias)[0]


class PackedAttention(nn.Module):
    """`packed_causal_attention` as a part of a model, with the backend to compute it by. It has no weights."""

    def __init__(self):
        super().__init__()
        self.backend: AttentionBackend = "auto"

    def forward(self, query: Tensor, key: Tensor, value: Tensor, sequences: PackedSequences) -> Tensor:
        return packed_causal_attention(query, key, value, sequences, self.backend)  # (N, h, d)


def choose_attention(model: nn.Module, backend: AttentionBackend) -> None:
    """Sets the backend of every attention in a model."""
    for module in model.modules():
        if isinstance(module, PackedAttention):
            module.backend = backend
