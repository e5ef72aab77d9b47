"""Planned attention against a dense mask and PyTorch's own attention."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.attention import planned_attention
from tokenizer.packing import PackedLayout, plan_block_causal

layouts = st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=3), min_size=1, max_size=4)


def block_of_rows(lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The clip and the block of every packed row."""
    clip = torch.arange(len(lengths)).repeat_interleave(lengths.sum(1))
    block = torch.arange(lengths.shape[1]).repeat(len(lengths)).repeat_interleave(lengths.flatten())
    return clip, block


@settings(max_examples=40, deadline=None)
@given(layouts, st.integers(1, 7), st.integers(0, 2**31))
def test_values_and_gradients_equal_dense_masked_attention(query_lengths, keys_per_block, seed):
    generator = torch.Generator().manual_seed(seed)
    queries = PackedLayout(torch.tensor(query_lengths))
    keys = PackedLayout(torch.full_like(queries.lengths, keys_per_block))
    (q_clip, q_block), (k_clip, k_block) = block_of_rows(queries.lengths), block_of_rows(keys.lengths)
    mask = (q_clip[:, None] == k_clip) & (q_block[:, None] >= k_block)
    shapes = [(queries.num_rows, 2, 4), (keys.num_rows, 2, 4), (keys.num_rows, 2, 4)]
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes)
    ours = planned_attention(q, k, v, plan_block_causal(queries, keys))
    dense = F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in (q, k, v)), attn_mask=mask).transpose(0, 1)
    torch.testing.assert_close(ours, dense)
    weight = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    ours_gradients = torch.autograd.grad((ours * weight).sum(), (q, k, v))
    dense_gradients = torch.autograd.grad((dense * weight).sum(), (q, k, v))
    for a, b in zip(ours_gradients, dense_gradients):
        torch.testing.assert_close(a, b)
