"""Block-causal attention over packed sequences. The one module that owns attention in this library.

No backend builds a mask or pads: each computes exactly the pairs of rows that may see each other.

    torch      on a CPU, one dense call for each run of segments, on views of the packed rows; elsewhere `varlen`
               where it applies, or a dense call for each segment
    varlen     torch's kernel for sequences of unequal lengths (CUDA, half precision)
    xformers   xformers' memory-efficient attention under a block-diagonal bias (CUDA)

Legend: Nq query rows, Nk key rows, D model width, h heads, d = D / h head width, G segments of a run, S segments.
"""

import functools
import logging
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tokenizer.packing import AttentionPlan, Run
from tokenizer.positions import rotate

KeyValue = tuple[Tensor, Tensor]  # keys and values, each (Nk, h, d)
AttentionBackend = Literal["auto", "torch", "varlen", "xformers"]
HALF = (torch.bfloat16, torch.float16)
logger = logging.getLogger(__name__)


@torch.compiler.disable  # its many shapes are what the kernels are for; the layers around it compile once
def planned_attention(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, backend: AttentionBackend = "auto"
) -> Tensor:
    """Softmax attention in which each query row sees exactly the key rows that the plan gives it.

    query (Nq, h, d), key and value (Nk, h, d) → (Nq, h, d). Raises ValueError for a backend that does not work here.
    """
    if backend == "auto":
        backend = "xformers" if query.is_cuda and xformers_works(query.device) else "torch"
    if backend == "xformers":
        return _xformers_attention(query, key, value, plan)
    if backend == "varlen" or (query.is_cuda and query.dtype in HALF and varlen_works(query.device)):
        return _varlen_attention(query, key, value, plan)
    if plan.key_rows is not None:
        key, value = _take(torch.stack([key, value], dim=1), plan.key_rows.to(key.device)).unbind(1)
    if query.device.type == "cpu":
        query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
        return _RunAttention.apply(query, key, value, plan.runs)
    return _segment_attention(query, key, value, plan)


class _RunAttention(torch.autograd.Function):
    """A dense call for each run, on views, results and gradients written where they belong.

    Slices of a packed tensor would each bring a gradient of the whole tensor's size; here the CPU kernels of
    `scaled_dot_product_attention` are called by name, forward and backward, to add gradients up in place.
    """

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, runs: tuple[Run, ...]) -> Tensor:
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output = torch.empty_like(query, memory_format=torch.contiguous_format)  # (Nq, h, d)
        normalisers = []
        for run in runs:
            attended, normaliser = attend(_queries(query, run), _keys(key, run), _keys(value, run))  # (G, h, length, d)
            _queries(output, run).copy_(attended)
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
        of_query = torch.empty_like(output)  # (Nq, h, d)
        of_key, of_value = (torch.zeros(key.shape, dtype=key.dtype) for _ in range(2))  # (Nk, h, d)
        for run, normaliser in zip(ctx.runs, normalisers):
            q, k, v = _queries(query, run), _keys(key, run), _keys(value, run)  # (G, h, length, d)
            out, wanted = _queries(output, run), _queries(gradient, run)
            parts = backward(wanted, q, k, v, out, normaliser, 0.0, False)
            _queries(of_query, run).copy_(parts[0])
            _keys(of_key, run).add_(parts[1])
            _keys(of_value, run).add_(parts[2])
        return of_query, of_key, of_value, None


def _queries(x: Tensor, run: Run) -> Tensor:
    return _segments(x, run.number, run.query_start, run.query_step, run.query_length)


def _keys(x: Tensor, run: Run) -> Tensor:
    return _segments(x, run.number, run.key_start, run.key_step, run.key_length)


def _segments(x: Tensor, number: int, start: int, step: int, length: int) -> Tensor:
    """The segments of a run as a view: (N, h, d) → (number, h, length, d)."""
    row, head, last = x.stride()
    shape, strides = (number, x.shape[1], length, x.shape[2]), (step * row, head, row, last)
    return x.as_strided(shape, strides, x.storage_offset() + start * row)


def _segment_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
    """A dense call for each segment: works for every device and type of number."""
    outputs = []
    for q, start, length in zip(query.split(plan.query_lengths), plan.key_starts, plan.key_lengths):
        q, k, v = (x[None].transpose(1, 2) for x in (q, key[start : start + length], value[start : start + length]))
        outputs.append(F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1))  # (length, h, d)
    return torch.cat(outputs)  # (Nq, h, d)


def _varlen_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
    if query.dtype not in HALF or not varlen_works(query.device):
        raise ValueError(
            "attention backend 'varlen' needs CUDA, half precision and a torch whose varlen_attn works there, "
            f"not {query.dtype} on {query.device.type}; use 'auto'"
        )
    from torch.nn.attention.varlen import varlen_attn

    packed = plan.to(query.device).packed
    key, value = _take(torch.stack([key, value], dim=1), packed.key_rows).unbind(1)
    longest = max(plan.query_lengths), max(plan.key_lengths)
    return varlen_attn(query, key.contiguous(), value.contiguous(), packed.query_bounds, packed.key_bounds, *longest)


def _xformers_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
    if not xformers_works(query.device):
        raise ValueError(
            f"attention backend 'xformers' does not work on {query.device}: it needs CUDA and an xformers built for "
            f"torch {torch.__version__} (pip install -U xformers); use 'auto'"
        )
    from xformers.ops import memory_efficient_attention

    packed = plan.to(query.device).packed
    key, value = _take(torch.stack([key, value], dim=1), packed.key_rows).unbind(1)
    return memory_efficient_attention(query[None], key[None], value[None], attn_bias=block_diagonal_bias(plan))[0]


def block_diagonal_bias(plan: AttentionPlan):
    """xformers' description of a plan, kept for the layers that share it: segment s sees its own keys only."""
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    if "_xformers_bias" not in plan.__dict__:
        plan.__dict__["_xformers_bias"] = BlockDiagonalMask.from_seqlens(plan.query_lengths, plan.key_lengths)
    return plan.__dict__["_xformers_bias"]


@functools.cache
@torch.inference_mode(False)
@torch.enable_grad()  # the first caller may be computing without gradients
def xformers_works(device: torch.device) -> bool:
    """Whether xformers is installed and its kernels, forward and backward, run on a device: its wheels load only
    beside the torch they were built for, which shows only when they are called."""
    try:
        from xformers.ops import memory_efficient_attention
        from xformers.ops.fmha.attn_bias import BlockDiagonalMask

        x = torch.zeros(1, 8, 1, 32, device=device, requires_grad=True)
        memory_efficient_attention(x, x, x, attn_bias=BlockDiagonalMask.from_seqlens([4, 4])).sum().backward()
    except ImportError:
        return False
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        logger.warning("%s does not work on %s and is not used: %s", "xformers", device, error)
        return False
    return True


@functools.cache
@torch.inference_mode(False)
@torch.enable_grad()  # the first caller may be computing without gradients
def varlen_works(device: torch.device) -> bool:
    """Whether this torch has a kernel for sequences of unequal lengths that runs on a device."""
    try:
        from torch.nn.attention.varlen import varlen_attn

        x = torch.zeros(8, 1, 64, device=device, dtype=torch.bfloat16, requires_grad=True)
        bounds = torch.tensor([0, 8], dtype=torch.int32, device=device)
        varlen_attn(x, x, x, bounds, bounds, 8, 8).sum().backward()
    except ImportError:
        return False
    except torch.OutOfMemoryError:
        raise
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        logger.warning("%s does not work on %s and is not used: %s", "varlen_attn", device, error)
        return False
    return True


def choose_attention(model: nn.Module, backend: AttentionBackend) -> None:
    """Sets the backend of every attention in a model."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.backend = backend


def _take(x: Tensor, rows: Tensor) -> Tensor:
    """x[rows] for (N, …). As an embedding lookup, whose backward pass adds rows up in parallel on a CPU
    where that of indexing is a serial scatter."""
    return F.embedding(rows, x.flatten(1)).unflatten(-1, x.shape[1:])


class Attention(nn.Module):
    """Multi-head attention whose pattern is an `AttentionPlan`.

    Args:
        width: D of the queries and of the output.
        context_width: width of the rows that keys and values come from.
        num_heads: h.
    """

    def __init__(self, width: int, context_width: int, num_heads: int):
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is not divisible by {num_heads} heads")
        self.num_heads = num_heads
        self.backend: AttentionBackend = "auto"
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(context_width, 2 * width)
        self.to_out = nn.Linear(width, width)

    def key_value(self, context: Tensor, rotation: Tensor) -> KeyValue:
        """Keys, turned to their places, and values of context rows: (Nk, context_width) → two of (Nk, h, d)."""
        key, value = self.to_key_value(context).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)  # (Nk, h, d) each
        return rotate(key, rotation), value

    def forward(self, x: Tensor, rotation: Tensor, key_value: KeyValue, plan: AttentionPlan) -> Tensor:
        """x (Nq, D) and the rotation of its places, keys and values as `key_value` gives them → (Nq, D)."""
        query = rotate(self.to_query(x).unflatten(-1, (self.num_heads, -1)), rotation)  # (Nq, h, d)
        attended = planned_attention(query, *key_value, plan, self.backend)  # (Nq, h, d)
        return self.to_out(attended.flatten(1))  # (Nq, D)
