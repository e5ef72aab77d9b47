"""Block-causal attention over packed sequences. The one module that owns attention in this library.

No backend builds a mask or pads: each computes exactly the pairs of rows that may see each other.

    torch      on a CPU, one dense call for each run of segments, on views of the packed rows; elsewhere `varlen`
               where it applies, or a dense call for each segment
    varlen     torch's kernel for sequences of unequal lengths (CUDA, half precision)
    xformers   xformers' memory-efficient attention under a block-diagonal bias (CUDA)

Legend: Nq query rows, Nk key rows, D model width, h heads, d = D / h head width, G segments of a run, S segments.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from evagen.kernels.attention_backends import AttentionBackend, backend_for
from evagen.tokenizer.packing import AttentionPlan, FamilyPlan, Run
from evagen.tokenizer.positions import rotate

KeyValue = tuple[Tensor, Tensor]  # keys and values, each (Nk, h, d)


@torch.compiler.disable  # its many shapes are what the kernels are for; the layers around it compile once
def planned_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: AttentionPlan | FamilyPlan,
    backend: AttentionBackend = "auto",
    shared: KeyValue | None = None,
) -> Tensor:
    """Softmax attention in which each query row sees exactly the key rows that the plan gives it.

    query (Nq, h, d), key and value (Nk, h, d) → (Nq, h, d). shared: what the families of a `FamilyPlan` share; another
    plan counts its rows before those of key and value. Raises ValueError for a backend that does not work here.
    """
    kernel = backend_for(query, backend)
    if isinstance(plan, FamilyPlan):
        assert shared is not None
        return _family_attention(_dense_heads(query), shared, (key, value), plan)
    if shared is not None:
        key, value = (torch.cat(pair) for pair in zip(shared, (key, value)))
    if kernel == "xformers":
        return _xformers_attention(query, key, value, plan)
    if kernel == "varlen":
        return _varlen_attention(query, key, value, plan)
    if plan.key_rows is not None:
        key, value = _take(torch.stack([key, value], dim=1), plan.key_rows.to(key.device)).unbind(1)
    if query.device.type == "cpu":
        return _RunAttention.apply(*map(_dense_heads, (query, key, value)), plan.runs)
    return _segment_attention(query, key, value, plan)


class _RunAttention(torch.autograd.Function):
    """A dense call for each run, on views, results and gradients written where they belong.

    Slices of a packed tensor would each bring a gradient of the whole tensor's size; here the CPU kernels of
    `scaled_dot_product_attention` are called by name, forward and backward, to add gradients up in place.
    """

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, runs: tuple[Run, ...]) -> Tensor:
        output, normalisers = _attend_runs(query, key, value, runs)
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


def _attend_runs(query: Tensor, key: Tensor, value: Tensor, runs: tuple[Run, ...]) -> tuple[Tensor, list[Tensor]]:
    """What every query attends to, (Nq, h, d), and for each run the logarithms of its sums of weights, (G, h,
    length)."""
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if len(runs) == 1 and runs[0].number * runs[0].query_length == len(query):
        q, k, v = _queries(query, runs[0]), _keys(key, runs[0]), _keys(value, runs[0])  # (G, h, length, d)
        attended, normaliser = attend(q, k, v)
        return attended.transpose(1, 2).flatten(0, 1), [normaliser]  # a view: its rows are in our order already
    output = torch.empty_like(query, memory_format=torch.contiguous_format)  # (Nq, h, d)
    normalisers = []
    for run in runs:
        attended, normaliser = attend(_queries(query, run), _keys(key, run), _keys(value, run))  # (G, h, length, d)
        _queries(output, run).copy_(attended)
        normalisers.append(normaliser)
    return output, normalisers


def _family_attention(query: Tensor, shared: KeyValue, own: KeyValue, plan: FamilyPlan) -> Tensor:
    """Attention to shared and to own keys, added up by the sums of their weights."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, *shared, *own)):
        raise ValueError("a FamilyPlan has no gradients; use its joined() plan, or torch.no_grad()")
    outputs, sums = [], []
    for key_value, runs in ((shared, plan.shared.runs), (own, plan.own.runs)):
        output, normalisers = _attend_runs(query, *map(_dense_heads, key_value), runs)
        outputs.append(output)
        sums.append(query.new_empty(*query.shape[:2], 1))  # (Nq, h, 1), logarithms
        for run, normaliser in zip(runs, normalisers):
            _queries(sums[-1], run).copy_(normaliser[..., None])
    return torch.lerp(*outputs, torch.sigmoid(sums[1] - sums[0]))


def _dense_heads(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


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
    from torch.nn.attention.varlen import varlen_attn

    packed = plan.to(query.device).packed
    key, value = _take(torch.stack([key, value], dim=1), packed.key_rows).unbind(1)
    longest = max(plan.query_lengths), max(plan.key_lengths)
    return varlen_attn(query, key.contiguous(), value.contiguous(), packed.query_bounds, packed.key_bounds, *longest)


def _xformers_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
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

    def forward(
        self,
        x: Tensor,
        rotation: Tensor,
        key_value: KeyValue,
        plan: AttentionPlan | FamilyPlan,
        shared: KeyValue | None = None,
    ) -> Tensor:
        """x (Nq, D) and the rotation of its places, keys and values as `key_value` gives them, and such as families
        share → (Nq, D)."""
        query = rotate(self.to_query(x).unflatten(-1, (self.num_heads, -1)), rotation)  # (Nq, h, d)
        attended = planned_attention(query, *key_value, plan, self.backend, shared)  # (Nq, h, d)
        return self.to_out(attended.flatten(1))  # (Nq, D)
