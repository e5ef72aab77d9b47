"""Attention for kernels that want the keys of a segment right behind those of the one before: keys are taken in order
first. All but the first need CUDA, where one call serves segments of all lengths.

    dense        a dense call for each segment: works for every device and type of number
    efficient    torch's memory-efficient kernel, in fp32 and half precision, on GPUs before Ampere too
    xformers     xformers' memory-efficient attention under a block-diagonal bias, which chooses among kernels of its
                 own, FlashAttention's and this one

Legend: Nq query rows, Nk key rows, h heads, d head width, S segments.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from evagen.kernels.plans import AttentionPlan

EACH_SEES_ALL, NONE_SEES_LATER = 0, 1
"""Of the keys of its segment: masks, as the efficient kernel numbers them."""


def dense_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
    """Softmax attention by a plan with `packed`: query (Nq, h, d), key and value (Nk, h, d) → (Nq, h, d)."""
    key, value = in_order(key, value, plan)
    outputs = []
    for segment in zip(query.split(plan.query_lengths), key.split(plan.key_lengths), value.split(plan.key_lengths)):
        q, k, v = (x[None].transpose(1, 2) for x in segment)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=plan.causal)  # (1, h, length, d)
        outputs.append(attended[0].transpose(0, 1))  # (length, h, d)
    return torch.cat(outputs)  # (Nq, h, d)


def efficient_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
    """As `dense_attention`."""
    return _efficient(query, key, value, plan)[0]


def efficient_with_sums(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor]:
    """The same, and the logarithms of the sums of weights, (Nq, h, 1) in fp32, which have no gradients."""
    attended, sums = _efficient(query, key, value, plan)
    assert plan.packed is not None
    bounds = plan.packed.query_bounds
    rows = torch.arange(len(query), dtype=bounds.dtype, device=bounds.device)
    segments = torch.searchsorted(bounds, rows, right=True) - 1  # (Nq,)
    return attended, sums[segments, :, rows - bounds[segments]][..., None]


def _efficient(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor]:
    """(Nq, h, d), and the logarithms of each segment's sums, (S, h, the longest segment or a bit more)."""
    assert plan.packed is not None
    packed = plan.packed
    key, value = in_order(key, value, plan)
    attended, sums, *_ = torch.ops.aten._efficient_attention_forward(
        query[None], key[None], value[None], None, packed.query_bounds, packed.key_bounds, packed.flash.longest_query,
        packed.flash.longest_key, 0.0, NONE_SEES_LATER if plan.causal else EACH_SEES_ALL, True,
    )  # fmt: skip
    return attended[0], sums


def xformers_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
    """As `dense_attention`. Raises ImportError without xformers, NotImplementedError where it has no kernel."""
    from xformers.ops import memory_efficient_attention

    key, value = in_order(key, value, plan)
    return memory_efficient_attention(query[None], key[None], value[None], attn_bias=plan.xformers_bias)[0]


def in_order(key: Tensor, value: Tensor, plan: AttentionPlan) -> tuple[Tensor, Tensor]:
    """The keys and values of all segments of a plan with `packed`, one after the other."""
    assert plan.packed is not None
    if plan.packed.key_rows is None:
        count = sum(plan.key_lengths)
        return (key, value) if len(key) == count else (key[:count], value[:count])
    both = torch.stack([key, value], dim=1)  # (Nk, 2, h, d)
    # A lookup's backward pass adds rows up in one kernel; that of indexing sorts them first.
    taken = F.embedding(plan.packed.key_rows, both.flatten(1)).unflatten(-1, both.shape[1:])  # (rows, 2, h, d)
    return taken.unbind(1)
