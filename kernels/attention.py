"""Attention over packed sequences, by plan. The one module that computes attention for both models in training.

No backend builds a mask or pads: each computes exactly the pairs of rows that the plan has.

    torch      on a CPU, one dense call for each run of segments, on views of the packed rows; on CUDA one call of
               torch's memory-efficient kernel, on keys taken in order; elsewhere a dense call for each segment
    flash      torch's FlashAttention, which reads keys where they lie (CUDA, half precision)
    xformers   xformers' memory-efficient attention under a block-diagonal bias, causal or not, on keys taken in order
               (CUDA)

What families share is attended to apart from their own, and added by the sums of weights: by `flash` or by torch.

Legend: Nq query rows, Nk key rows, h heads, d head width, G segments of a run, S segments.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from evagen.kernels.backends import AttentionBackend, Kernel, backend_for, efficient_works
from evagen.kernels.flash import flash_attention, flash_forward
from evagen.kernels.gathered import dense_attention, efficient_attention, efficient_with_sums, xformers_attention
from evagen.kernels.plans import AttentionPlan, FamilyPlan, Run

KeyValue = tuple[Tensor, Tensor]  # keys and values, each (Nk, h, d)
GATHERED = {"torch": dense_attention, "efficient": efficient_attention, "xformers": xformers_attention}
"""Elsewhere than on a CPU: what takes keys in order first."""


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
    return _attention_by(
        backend_for(query.device, query.dtype, query.shape[-1], backend), query, key, value, plan, shared
    )


def _attention_by(
    kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan | FamilyPlan, shared: KeyValue | None
) -> Tensor:
    if kernel == "flash" and isinstance(plan, AttentionPlan):
        key, value = (key, value) if shared is None else _behind(shared, (key, value))
        return _flash_attention(query, key, value, plan)
    return _by_many_shapes(kernel, query, key, value, plan, shared)


@torch.compiler.disable  # its shapes change with every batch; the layers around it compile once
def _by_many_shapes(
    kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan | FamilyPlan, shared: KeyValue | None
) -> Tensor:
    if isinstance(plan, FamilyPlan):
        assert shared is not None
        return _family_attention(_dense_heads(query), shared, (key, value), plan, by_flash=kernel == "flash")
    if shared is not None:
        key, value = _behind(shared, (key, value))
    query, key, value = _dense_heads(query), _dense_heads(key), _dense_heads(value)
    if query.device.type == "cpu":
        return _RunAttention.apply(query, key, value, plan.runs, plan.causal)
    return GATHERED[kernel](query, key, value, plan.to(query.device))


class PlannedAttention(nn.Module):
    """`planned_attention` for heads of one width as a part of a model, with the backend to compute it by. It has no
    weights."""

    def __init__(self, head_width: int):
        super().__init__()
        self.head_width = head_width
        self.backend: AttentionBackend = "auto"

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        plan: AttentionPlan | FamilyPlan,
        shared: KeyValue | None = None,
    ) -> Tensor:
        # A head's width is asked of the module: torch.compile takes that of a tensor for a number that changes.
        kernel = backend_for(query.device, query.dtype, self.head_width, self.backend)
        return _attention_by(kernel, query, key, value, plan, shared)  # (Nq, h, d)


def choose_attention(
    model: nn.Module, backend: AttentionBackend, device: torch.device, dtype: torch.dtype = torch.float32
) -> None:
    """Sets the backend of every attention in a model that is to compute on a device in such numbers. Raises ValueError
    for one that does not work there."""
    for module in model.modules():
        if isinstance(module, PlannedAttention):
            backend_for(device, dtype, module.head_width, backend)
            module.backend = backend


class _RunAttention(torch.autograd.Function):
    """A dense call for each run, on views, results and gradients written where they belong.

    Slices of a packed tensor would each bring a gradient of the whole tensor's size; here the CPU kernels of
    `scaled_dot_product_attention` are called by name, forward and backward, to add gradients up in place.
    """

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, runs: tuple[Run, ...], causal: bool) -> Tensor:
        output, log_sum_exps = _attend_runs(query, key, value, runs, causal)
        ctx.runs, ctx.causal = runs, causal
        ctx.save_for_backward(query, key, value, output, *log_sum_exps)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        query, key, value, output, *log_sum_exps = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_query = torch.empty_like(output)  # (Nq, h, d)
        of_key, of_value = (torch.zeros(key.shape, dtype=key.dtype) for _ in range(2))  # (Nk, h, d)
        for run, log_sum_exp in zip(ctx.runs, log_sum_exps):
            q, k, v = _queries(query, run), _keys(key, run), _keys(value, run)  # (G, h, length, d)
            out, wanted = _queries(output, run), _queries(gradient, run)
            parts = backward(wanted, q, k, v, out, log_sum_exp, 0.0, ctx.causal)
            _queries(of_query, run).copy_(parts[0])
            _keys(of_key, run).add_(parts[1])
            _keys(of_value, run).add_(parts[2])
        return of_query, of_key, of_value, None, None


def _attend_runs(
    query: Tensor, key: Tensor, value: Tensor, runs: tuple[Run, ...], causal: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """What every query attends to, (Nq, h, d), and for each run the logarithms of its sums of weights, (G, h,
    length)."""
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if len(runs) == 1 and runs[0].number * runs[0].query_length == len(query):
        q, k, v = _queries(query, runs[0]), _keys(key, runs[0]), _keys(value, runs[0])  # (G, h, length, d)
        attended, log_sum_exp = attend(q, k, v, 0.0, causal)
        return attended.transpose(1, 2).flatten(0, 1), [log_sum_exp]  # a view: its rows are in our order already
    output = torch.empty_like(query, memory_format=torch.contiguous_format)  # (Nq, h, d)
    log_sum_exps = []
    for run in runs:
        q, k, v = _queries(query, run), _keys(key, run), _keys(value, run)  # (G, h, length, d)
        attended, log_sum_exp = attend(q, k, v, 0.0, causal)
        _queries(output, run).copy_(attended)
        log_sum_exps.append(log_sum_exp)
    return output, log_sum_exps


def _family_attention(
    query: Tensor, shared: KeyValue, own: KeyValue, plan: FamilyPlan, by_flash: bool = False
) -> Tensor:
    """Attention to shared and to own keys, added up by the sums of their weights."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, *shared, *own)):
        raise ValueError("a FamilyPlan has no gradients: it is for inference, under torch.no_grad()")
    if query.device.type == "cpu":
        attend = _with_sums_of_runs
    elif by_flash:
        attend = _with_sums_by_flash
    elif efficient_works(query.device, query.dtype, query.shape[-1]):
        attend = _with_sums_in_order
    else:
        attend = _with_sums_of_segments
    (first, of_first), (second, of_second) = (
        attend(query, _dense_heads(key), _dense_heads(value), each)
        for (key, value), each in ((shared, plan.shared), (own, plan.own))
    )
    weight = torch.sigmoid(of_second - of_first).to(first.dtype)  # (Nq, h, 1)
    return torch.lerp(first, second, weight)  # (Nq, h, d)


def _with_sums_of_runs(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor]:
    """What every query attends to, (Nq, h, d), and the logarithms of its sums of weights, (Nq, h, 1)."""
    output, log_sum_exps = _attend_runs(query, key, value, plan.runs)
    exact = torch.promote_types(query.dtype, torch.float32)  # as the kernel's sums are
    sums = query.new_empty(*query.shape[:2], 1, dtype=exact)
    for run, log_sum_exp in zip(plan.runs, log_sum_exps):
        _queries(sums, run).copy_(log_sum_exp[..., None])
    return output, sums


def _with_sums_of_segments(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor]:
    """The same on any device."""
    outputs, sums = [], []
    for q, start, n in zip(query.split(plan.query_lengths), plan.key_starts, plan.key_lengths):
        k, v = (x[start : start + n].transpose(0, 1) for x in (key, value))  # (h, n, d) each
        scores = (q.transpose(0, 1) @ k.mT).float() * q.shape[-1] ** -0.5  # (h, length, n)
        sums.append(scores.logsumexp(-1, keepdim=True).transpose(0, 1))  # (length, h, 1)
        outputs.append((scores.softmax(-1).to(v.dtype) @ v).transpose(0, 1))  # (length, h, d)
    return torch.cat(outputs), torch.cat(sums)


def _with_sums_by_flash(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor]:
    packed = plan.to(query.device).packed
    assert packed is not None
    output, log_sum_exp = flash_forward(query, key, value, packed.flash)
    return output, log_sum_exp.T[..., None]


def _with_sums_in_order(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor]:
    return efficient_with_sums(query, key, value, plan.to(query.device))


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


def _flash_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
    packed = plan.packed or plan.to(query.device).packed
    assert packed is not None
    return flash_attention(_dense_heads(query), _dense_heads(key), _dense_heads(value), packed.flash)


def _behind(shared: KeyValue, own: KeyValue) -> KeyValue:
    return torch.cat([shared[0], own[0]]), torch.cat([shared[1], own[1]])
