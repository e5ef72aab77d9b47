"""Planned attention against a dense mask and PyTorch's own attention: every backend, values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evagen.kernels import attention_backends
from evagen.tokenizer import attention
from evagen.tokenizer.attention import planned_attention
from evagen.tokenizer.packing import (
    AttentionPlan,
    FamilyPlan,
    PackedLayout,
    plan_attention,
    plan_block_causal,
    plan_families,
)

layouts = st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=3), min_size=1, max_size=5)


def block_of_rows(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The clip and the block of every packed row."""
    clip = torch.arange(len(lengths)).repeat_interleave(lengths.sum(1))
    block = torch.arange(lengths.shape[1]).repeat(len(lengths)).repeat_interleave(lengths.flatten())
    return clip, block


def block_causal_mask(queries: PackedLayout, keys: PackedLayout) -> Tensor:
    (q_clip, q_block), (k_clip, k_block) = block_of_rows(queries.lengths), block_of_rows(keys.lengths)
    return (q_clip[:, None] == k_clip) & (q_block[:, None] >= k_block)


def assert_equals_masked(attend, plan: AttentionPlan, mask: Tensor, seed: int) -> None:
    """Values and all three gradients, in float64, against dense attention under a mask (Nq, Nk)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(mask.shape[0], 2, 4), (mask.shape[1], 2, 4), (mask.shape[1], 2, 4)]
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes)
    weight = torch.randn(shapes[0], generator=generator, dtype=torch.float64)
    ours = attend(q, k, v, plan)
    dense = F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in (q, k, v)), attn_mask=mask).transpose(0, 1)
    torch.testing.assert_close(ours, dense)
    ours_gradients = torch.autograd.grad((ours * weight).sum(), (q, k, v))
    for mine, theirs in zip(ours_gradients, torch.autograd.grad((dense * weight).sum(), (q, k, v))):
        torch.testing.assert_close(mine, theirs)


@settings(max_examples=60, deadline=None)
@given(layouts, layouts, st.integers(0, 2**31))
def test_block_causal_equals_a_dense_mask(query_lengths, key_lengths, seed):
    count = min(len(query_lengths), len(key_lengths))
    queries, keys = (PackedLayout(torch.tensor(lengths[:count])) for lengths in (query_lengths, key_lengths))
    plan, mask = plan_block_causal(queries, keys), block_causal_mask(queries, keys)
    assert_equals_masked(planned_attention, plan, mask, seed)
    assert_equals_masked(attention._segment_attention, plan, mask, seed)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=6), st.integers(0, 2**31))
def test_any_key_rows_in_any_order_equal_a_dense_mask(segments, seed):
    """As search has them: each segment sees a set of rows that lie anywhere."""
    generator = torch.Generator().manual_seed(seed)
    key_rows = [torch.randperm(7, generator=generator)[:count] for _, count in segments]
    lengths = [length for length, _ in segments]
    mask = torch.zeros(sum(lengths), 7, dtype=torch.bool)
    for rows, length, start in zip(key_rows, lengths, torch.tensor([0, *lengths]).cumsum(0).tolist()):
        mask[start : start + length, rows] = True
    assert_equals_masked(planned_attention, plan_attention(lengths, key_rows), mask, seed)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(0, 6), st.integers(1, 2)), min_size=1, max_size=8),
    st.integers(0, 2**31),
)
def test_runs_of_keys_anywhere_equal_a_dense_mask(segments, seed):
    """Key runs may overlap and stand in any order."""
    lengths, starts, key_lengths = zip(*segments)
    mask = torch.zeros(sum(lengths), 8, dtype=torch.bool)
    for first, (length, start, count) in zip(torch.tensor([0, *lengths]).cumsum(0).tolist(), segments):
        mask[first : first + length, start : start + count] = True
    assert_equals_masked(planned_attention, AttentionPlan(lengths, key_lengths, starts), mask, seed)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=4) | st.sampled_from([[0], [0, 0]]),
    st.integers(1, 3), st.integers(0, 2**31), st.data(),
)  # fmt: skip
def test_families_share_keys_as_if_every_member_had_them(prefix_lengths, members, seed, data):
    """Any prefixes, or none; also far from equal weights on both sides."""
    lengths = st.lists(st.integers(1, 5), min_size=members, max_size=members)
    member_lengths = [n for _ in prefix_lengths for n in data.draw(lengths)]
    plan = plan_families(prefix_lengths, member_lengths, member_lengths)
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(sum(member_lengths), 2, 4, generator=generator) * 5
    key, value = torch.randn(2, sum(prefix_lengths) + sum(member_lengths), 2, 4, generator=generator)
    own_start, rows = sum(prefix_lengths), []
    for number, length in enumerate(member_lengths):
        family = number // members
        prefix = torch.arange(prefix_lengths[family]) + sum(prefix_lengths[:family])
        rows.append(torch.cat([prefix, torch.arange(own_start, own_start + length)]))
        own_start += length
    listed = plan_attention(member_lengths, rows)
    expected = planned_attention(query, key, value, listed)
    (shared_key, key), (shared_value, value) = (x.tensor_split([sum(prefix_lengths)]) for x in (key, value))
    shared = (shared_key, shared_value) if len(shared_key) else None
    ours = planned_attention(query, key, value, plan, shared=shared)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    if isinstance(plan, FamilyPlan):
        again = planned_attention(query, key, value, plan.joined(), shared=shared)  # as other devices take it
        torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(plan.joined().key_rows, listed.key_rows)
        assert (plan.joined().query_lengths, plan.joined().key_lengths) == (listed.query_lengths, listed.key_lengths)


def test_families_refuse_gradients_they_have_not():
    query = torch.randn(4, 1, 4, requires_grad=True)
    key = torch.randn(4, 1, 4)
    with pytest.raises(ValueError, match="no gradients"):
        planned_attention(query, key, key, plan_families([2], [2, 2], [2, 2]), shared=(key[:2], key[:2]))
    with pytest.raises(ValueError, match="all families or none"):
        plan_families([2, 0], [2, 2], [2, 2])


def test_equal_clips_share_one_call():
    layout = PackedLayout(torch.tensor([[4, 4, 4]] * 5))
    assert [run.number for run in plan_block_causal(layout, layout).runs] == [5, 5, 5]


@settings(max_examples=30, deadline=None)
@given(layouts)
def test_xformers_is_told_the_same_pattern(lengths):
    """The bias xformers makes of a plan, materialised by xformers itself, is the block-causal mask."""
    layout = PackedLayout(torch.tensor(lengths))
    plan = packed_on_this_device(plan_block_causal(layout, layout))
    gathered = len(plan.packed.key_rows)
    allowed = attention.block_diagonal_bias(plan).materialize((layout.num_rows, gathered)) == 0  # (Nq, gathered)
    mask = torch.zeros(layout.num_rows, layout.num_rows, dtype=torch.bool)
    query, key = allowed.nonzero().unbind(1)
    mask[query, plan.packed.key_rows[key]] = True
    assert torch.equal(mask, block_causal_mask(layout, layout))
    assert allowed.sum() == mask.sum()  # no pair twice


def packed_on_this_device(plan: AttentionPlan) -> AttentionPlan:
    """What `plan.to("cuda")` adds, on the CPU."""
    moved = plan.to(torch.device("meta"))
    assert moved.packed is not None
    key_rows = torch.cat([torch.arange(a, a + n) for a, n in zip(plan.key_starts, plan.key_lengths)])
    bounds = [torch.tensor([0, *lengths]).cumsum(0).int() for lengths in (plan.query_lengths, plan.key_lengths)]
    assert [x.shape for x in vars(moved.packed).values()] == [x.shape for x in (key_rows, *bounds)]
    object.__setattr__(moved, "packed", type(moved.packed)(key_rows, *bounds))
    return moved


@pytest.mark.parametrize("backend", ["xformers", "varlen"])
def test_a_backend_that_does_not_work_here_is_explained(backend):
    layout = PackedLayout(torch.tensor([[2, 3]]))
    x = torch.zeros(5, 1, 8)
    with pytest.raises(ValueError, match=f"'{backend}'.*use 'auto'"):
        planned_attention(x, x, x, plan_block_causal(layout, layout), backend)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("backend", ["xformers", "varlen"])
def test_backends_agree_on_cuda(backend):
    device = torch.device("cuda")
    if not getattr(attention_backends, f"{backend}_works")(device):
        pytest.skip(f"{backend} does not work with this torch")
    generator = torch.Generator().manual_seed(0)
    layout = PackedLayout(torch.randint(1, 200, (6, 4), generator=generator))
    plan = plan_block_causal(layout, layout).to(device)
    q, k, v = (torch.randn(layout.num_rows, 4, 64, generator=generator).to(device).bfloat16() for _ in range(3))
    values, gradients = [], []
    for attend in (
        lambda *args: planned_attention(*args, plan, backend),
        lambda *a: attention._segment_attention(*a, plan),
    ):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        values.append(attend(*leaves))
        gradients.append(torch.autograd.grad(values[-1].float().square().sum(), leaves))
    torch.testing.assert_close(values[0], values[1], atol=0.02, rtol=0.02)
    for mine, theirs in zip(*gradients):
        torch.testing.assert_close(mine, theirs, atol=0.05, rtol=0.05)
