"""Planned attention against a dense mask and PyTorch's own attention: block-causal plans, causal ones, and any others;
every backend, values and gradients."""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_generator, tiny_tokenizer
from torch import Tensor

from evagen.ar_model.decoding import Decoder
from evagen.bench.pretended import kernels as pretended
from evagen.errors import UserError
from evagen.kernels import attention, backends, gathered
from evagen.kernels.attention import PlannedAttention, choose_attention, planned_attention
from evagen.kernels.plans import AttentionPlan, plan_causal, plan_families
from evagen.run import Attends
from evagen.tokenizer.packing import PackedLayout, plan_block_causal

CPU = torch.device("cpu")
EVERY_KIND = pytest.mark.parametrize("kind", ["block-causal", "causal"])
lengths_of_blocks = st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=3), min_size=1, max_size=5)
lengths_of_sequences = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def block_of_rows(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The clip and the block of every packed row."""
    clip = torch.arange(len(lengths)).repeat_interleave(lengths.sum(1))
    block = torch.arange(lengths.shape[1]).repeat(len(lengths)).repeat_interleave(lengths.flatten())
    return clip, block


def block_causal_mask(queries: PackedLayout, keys: PackedLayout) -> Tensor:
    """Who may see whom: bool (Nq, Nk)."""
    (q_clip, q_block), (k_clip, k_block) = block_of_rows(queries.lengths), block_of_rows(keys.lengths)
    return (q_clip[:, None] == k_clip) & (q_block[:, None] >= k_block)


def causal_mask(lengths: list[int]) -> Tensor:
    """The same of sequences: bool (N, N)."""
    sequence = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    place = torch.arange(sum(lengths))
    return (sequence[:, None] == sequence) & (place[:, None] >= place)


def plan_and_mask(kind: str, lengths: list[list[int]]) -> tuple[AttentionPlan, Tensor]:
    """Clips with these lengths of blocks, which see each other's rows, or the blocks as sequences of their own."""
    if kind == "causal":
        sequences = [length for clip in lengths for length in clip]
        return plan_causal(sequences), causal_mask(sequences)
    layout = PackedLayout(torch.tensor(lengths))
    return plan_block_causal(layout, layout), block_causal_mask(layout, layout)


def heads(num_queries: int, num_keys: int, seed: int) -> list[Tensor]:
    """Queries, keys and values of two heads, float64, the values not contiguous, as a projection's slices may be."""
    random = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(rows, 2, width, generator=random, dtype=torch.float64)
        for rows, width in ((num_queries, 4), (num_keys, 4), (num_keys, 8))
    )
    return [x.requires_grad_() for x in (query, key, value[..., ::2])]


def values_and_gradients(attended: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weight = torch.linspace(-1, 2, attended.numel(), dtype=attended.dtype, device=attended.device).view_as(attended)
    return [attended, *torch.autograd.grad((attended * weight).sum(), inputs)]


def masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    q, k, v = (x.transpose(0, 1) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1)


def assert_equals_masked(attend, plan: AttentionPlan, mask: Tensor, seed: int, tolerance: float | None = None) -> None:
    """Values and all three gradients, in float64, against dense attention under a mask (Nq, Nk)."""
    inputs = heads(*mask.shape, seed)
    ours = values_and_gradients(attend(*inputs, plan), inputs)
    for mine, theirs in zip(ours, values_and_gradients(masked(*inputs, mask), inputs)):
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance)


@contextmanager
def emulated_kernels():
    """torch's kernels for CUDA on a CPU, as the pretended GPU has them, which check what they are told; of any type.
    Yields the names of those that are called."""
    called = []

    def noted(name, compute):
        return lambda *args, **kwargs: (called.append(name), compute(*args, **kwargs))[1]

    with pytest.MonkeyPatch.context() as patch, torch.library._scoped_library("aten", "IMPL") as library:
        for check in ("check_heads", "check_rows"):
            patch.setattr(pretended, check, lambda *_: None)
        for name in ("flash_attention", "efficient_attention"):
            for direction in ("forward", "backward"):
                compute = pretended.EMULATED[f"_{name}_{direction}"]
                library.impl(f"_{name}_{direction}", noted(f"{name}_{direction}", compute), "CPU")
        yield called


@settings(max_examples=60, deadline=None)
@given(lengths_of_blocks, lengths_of_blocks, st.integers(0, 2**31))
def test_block_causal_equals_a_dense_mask(query_lengths, key_lengths, seed):
    count = min(len(query_lengths), len(key_lengths))
    queries, keys = (PackedLayout(torch.tensor(lengths[:count])) for lengths in (query_lengths, key_lengths))
    plan, mask = plan_block_causal(queries, keys), block_causal_mask(queries, keys)
    assert_equals_masked(planned_attention, plan, mask, seed)
    assert_equals_masked(gathered.dense_attention, plan.to_send(), mask, seed)


@settings(max_examples=60, deadline=None)
@given(lengths_of_sequences, st.booleans(), st.integers(0, 2**31))
def test_causal_equals_a_dense_mask(lengths, in_order, seed):
    lengths = sorted(lengths) if in_order else lengths  # sorted, sequences of equal length share calls
    plan, mask = plan_causal(lengths), causal_mask(lengths)
    assert_equals_masked(planned_attention, plan, mask, seed)
    assert_equals_masked(gathered.dense_attention, plan.to_send(), mask, seed)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(0, 6), st.integers(1, 2)), min_size=1, max_size=8),
    st.integers(0, 2**31),
)
def test_runs_of_keys_anywhere_equal_a_dense_mask(segments, seed):
    """Key runs may overlap and stand in any order."""
    assert_equals_masked(planned_attention, *plan_of_runs(segments), seed)


def plan_of_runs(segments) -> tuple[AttentionPlan, Tensor]:
    """Segments (number of queries, first key, number of keys), and who sees whom of eight keys."""
    lengths, starts, key_lengths = zip(*segments)
    mask = torch.zeros(sum(lengths), 8, dtype=torch.bool)
    for first, (length, start, count) in zip(torch.tensor([0, *lengths]).cumsum(0).tolist(), segments):
        mask[first : first + length, start : start + count] = True
    return AttentionPlan(lengths, key_lengths, starts), mask


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
    mask = torch.zeros(len(query), len(key), dtype=torch.bool)
    for number, length in enumerate(member_lengths):
        family, row = number // members, sum(member_lengths[:number])
        prefix, own = sum(prefix_lengths[:family]), sum(prefix_lengths) + row
        mask[row : row + length, prefix : prefix + prefix_lengths[family]] = True
        mask[row : row + length, own : own + length] = True
    expected = masked(query, key, value, mask)
    (shared_key, key), (shared_value, value) = (x.tensor_split([sum(prefix_lengths)]) for x in (key, value))
    shared = (shared_key, shared_value) if len(shared_key) else None
    ours = planned_attention(query, key, value, plan, shared=shared)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_families_refuse_gradients_they_have_not():
    query = torch.randn(4, 1, 4, requires_grad=True)
    key = torch.randn(4, 1, 4)
    with pytest.raises(ValueError, match="no gradients"):
        planned_attention(query, key, key, plan_families([2], [2, 2], [2, 2]), shared=(key[:2], key[:2]))


def test_families_in_half_precision_weigh_their_keys_in_fp32():
    """By the sums of weights, whose logarithms bf16 would round by a hundredth."""
    shared = plan_families([5, 3], [2, 3, 2, 3], [2, 3, 2, 3]).shared
    query, key, value = (torch.randn(3, 10, 2, 4, generator=torch.Generator().manual_seed(0)) * 5).bfloat16()
    _, sums = attention._with_sums_of_runs(query, key[:8], value[:8], shared)
    assert sums.dtype == torch.float32
    _, exact = attention._with_sums_of_runs(query.float(), key[:8].float(), value[:8].float(), shared)
    torch.testing.assert_close(sums, exact, atol=1e-3, rtol=1e-4)


@EVERY_KIND
def test_half_precision_on_a_cpu(kind):
    plan, mask = plan_and_mask(kind, [[5, 9, 9], [4, 1, 9]])
    inputs = heads(*mask.shape, seed=0)
    halves = [x.detach().bfloat16().requires_grad_() for x in inputs]
    ours = values_and_gradients(planned_attention(*halves, plan), halves)
    for mine, theirs in zip(ours, values_and_gradients(masked(*inputs, mask), inputs)):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine.double(), theirs, atol=0.1, rtol=0.05)


# What the kernels for CUDA are told


@EVERY_KIND
@settings(max_examples=30, deadline=None)
@given(lengths_of_blocks)
def test_xformers_is_told_the_same_pattern(kind, lengths):
    """The bias that xformers makes of a plan, materialised by xformers itself, is the mask."""
    pytest.importorskip("xformers.ops")
    plan, mask = plan_and_mask(kind, lengths)
    plan = plan.to_send()
    rows = torch.arange(len(mask)) if plan.packed.key_rows is None else plan.packed.key_rows  # of the gathered keys
    allowed = plan.xformers_bias.materialize((len(mask), len(rows))) == 0  # (Nq, gathered)
    told = torch.zeros_like(mask)
    query, key = allowed.nonzero().unbind(1)
    told[query, rows[key]] = True
    assert torch.equal(told, mask)
    assert allowed.sum() == mask.sum()  # no pair twice


@EVERY_KIND
@settings(max_examples=30, deadline=None)
@given(lengths_of_blocks, st.integers(0, 2**31))
def test_flash_is_told_the_same_pattern(kind, lengths, seed):
    plan, mask = plan_and_mask(kind, lengths)
    with emulated_kernels():
        assert_equals_masked(attention._flash_attention, plan.to_send(), mask, seed, tolerance=1e-5)


@EVERY_KIND
@settings(max_examples=30, deadline=None)
@given(lengths_of_blocks, st.integers(0, 2**31))
def test_the_memory_efficient_kernel_is_told_the_same_pattern(kind, lengths, seed):
    """In one call, and one for the gradients, however many segments there are."""
    plan, mask = plan_and_mask(kind, lengths)
    with emulated_kernels() as called:
        assert_equals_masked(gathered.efficient_attention, plan.to_send(), mask, seed, tolerance=1e-5)
    assert called == ["efficient_attention_forward", "efficient_attention_backward"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(0, 6), st.integers(1, 2)), min_size=1, max_size=8),
    st.integers(0, 2**31),
)
def test_the_memory_efficient_kernel_sees_runs_of_keys_anywhere(segments, seed):
    plan, mask = plan_of_runs(segments)
    with emulated_kernels():
        assert_equals_masked(gathered.efficient_attention, plan.to_send(), mask, seed, tolerance=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 2**31), st.data())
def test_sums_of_weights_are_found_behind_each_segment(lengths, seed, data):
    """They are padded to those of the longest."""
    key_lengths = data.draw(st.lists(st.integers(1, 9), min_size=len(lengths), max_size=len(lengths)))
    plan = plan_families([sum(key_lengths)], lengths, key_lengths).own
    query, key, value = heads(sum(lengths), sum(key_lengths), seed)
    expected = attention._with_sums_of_segments(query, key, value, plan)
    with torch.no_grad(), emulated_kernels():
        found = gathered.efficient_with_sums(query, key, value, plan.to_send())
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs.double(), atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(0, 6), st.integers(1, 2)), min_size=1, max_size=8),
    st.integers(0, 2**31),
)
def test_flash_reads_runs_of_keys_anywhere(segments, seed):
    plan, mask = plan_of_runs(segments)
    with emulated_kernels():
        assert_equals_masked(attention._flash_attention, plan.to_send(), mask, seed, tolerance=1e-5)


@pytest.mark.parametrize(
    ("blocks", "memory", "calls"), [(4, None, 3), (4, 0, 1), (4, 1, 2), (8, None, 4), (60, None, 7), (60, 15, 13)]
)
def test_the_backward_pass_of_block_causal_attention_takes_few_calls(blocks, memory, calls):
    layout = PackedLayout(torch.randint(1, 6, (7, blocks), generator=torch.Generator().manual_seed(0)))
    assert len(plan_block_causal(layout, layout, memory).to_send().packed.flash.parts) <= calls


@EVERY_KIND
@pytest.mark.parametrize("backend", ["xformers", "flash"])
def test_a_backend_that_does_not_work_here_is_explained(backend, kind):
    plan, mask = plan_and_mask(kind, [[2, 3]])
    x = torch.zeros(len(mask), 1, 8)
    with pytest.raises(ValueError, match=f"'{backend}'.*use 'auto'"):
        planned_attention(x, x, x, plan, backend)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@EVERY_KIND
@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [
        ("xformers", torch.bfloat16, 0.05),
        ("xformers", torch.float32, 1e-4),
        ("flash", torch.bfloat16, 0.05),
        ("torch", torch.float32, 1e-4),
        ("torch", torch.bfloat16, 0.05),
    ],
)
def test_backends_agree_on_cuda(backend, dtype, tolerance, kind):
    device = torch.device("cuda")
    works = getattr(backends, f"{'efficient' if backend == 'torch' else backend}_works")
    if not works(device, dtype, 64):
        pytest.skip(f"{backend} does not work with this torch")
    random = torch.Generator().manual_seed(0)
    plan, mask = plan_and_mask(kind, torch.randint(1, 200, (6, 4), generator=random).tolist())
    plan = plan.to(device)
    inputs = [torch.randn(len(mask), 4, 64, generator=random).to(device, dtype) for _ in range(3)]
    inputs = [x.requires_grad_() for x in inputs]
    ours = values_and_gradients(planned_attention(*inputs, plan, backend), inputs)
    for mine, theirs in zip(ours, values_and_gradients(gathered.dense_attention(*inputs, plan.to_send()), inputs)):
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance)


# The backend of a model


@pytest.mark.parametrize("make", [tiny_tokenizer, tiny_generator], ids=["tokenizer", "generator"])
def test_one_call_chooses_for_every_attention_of_a_model(make):
    model = make()
    choose_attention(model, "torch", torch.device("cpu"))
    assert len(attentions_of(model)) >= 2
    assert {layer.backend for layer in attentions_of(model)} == {"torch"}
    assert not any("attend" in name for name in model.state_dict())  # it has no weights


@pytest.mark.parametrize("backend", ["flash", "xformers"])
def test_what_does_not_work_on_the_device_is_not_chosen(backend):
    model = tiny_generator()
    with pytest.raises(UserError, match=rf"run\.attention={backend}: .* use 'auto'"):
        Attends(attention=backend).choose_attention(model, torch.device("cpu"), torch.bfloat16)
    assert {layer.backend for layer in attentions_of(model)} == {"auto"}


def attentions_of(model):
    return [module for module in model.modules() if isinstance(module, PlannedAttention)]


def test_prompts_are_read_by_the_backend_that_was_chosen():
    model = tiny_generator()
    for layer in attentions_of(model):
        layer.backend = "flash"
    with torch.no_grad(), pytest.raises(ValueError, match="'flash' needs CUDA"):
        Decoder(model, 1).prefill([0], [torch.tensor([0, 1, 2])])
