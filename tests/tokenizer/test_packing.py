"""Packed causal attention against a dense mask, every backend; and which clips a batch is packed from."""

import sys
import types
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evagen.ar_model import attention
from evagen.ar_model.attention import PackedSequences, packed_causal_attention
from evagen.bench import packing
from evagen.data.loader import EndlessSampler
from evagen.errors import UserError
from evagen.kernels import attention_backends
from evagen.training.token_batches import ClipBatches, class_dropout_numbers

CPU = torch.device("cpu")
lengths_of_sequences = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def causal_mask(lengths: list[int]) -> Tensor:
    """Who may see whom: bool (N, N)."""
    sequence = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    place = torch.arange(sum(lengths))
    return (sequence[:, None] == sequence) & (place[:, None] >= place)


def heads(num_tokens: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Queries, keys and values (N, 2, 4), the values not contiguous, as a projection's slices may be."""
    random = torch.Generator().manual_seed(seed)
    query, key = (torch.randn(num_tokens, 2, 4, generator=random, dtype=dtype) for _ in range(2))
    value = torch.randn(num_tokens, 2, 8, generator=random, dtype=dtype)[..., ::2]
    return [x.requires_grad_() for x in (query, key, value)]


def values_and_gradients(attended: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weight = torch.linspace(-1, 2, attended.numel(), dtype=attended.dtype).view_as(attended)
    return [attended, *torch.autograd.grad((attended * weight).sum(), inputs)]


def masked(inputs: list[Tensor], lengths: list[int]) -> Tensor:
    q, k, v = (x.transpose(0, 1) for x in inputs)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=causal_mask(lengths)).transpose(0, 1)


@pytest.mark.parametrize("attend", [packed_causal_attention, attention._dense_attention])
@settings(max_examples=60, deadline=None)
@given(lengths_of_sequences, st.booleans(), st.integers(0, 2**31))
def test_it_equals_a_dense_mask_in_values_and_gradients(attend, lengths, in_order, seed):
    lengths = sorted(lengths) if in_order else lengths  # sorted, sequences of equal length share calls
    inputs = heads(sum(lengths), seed)
    ours = values_and_gradients(attend(*inputs, PackedSequences(lengths, CPU)), inputs)
    for mine, theirs in zip(ours, values_and_gradients(masked(inputs, lengths), inputs)):
        torch.testing.assert_close(mine, theirs)


def test_neighbours_of_equal_length_share_one_call():
    packed = PackedSequences([3, 3, 5, 3, 7, 7, 7], CPU)
    assert packed.runs == [(0, 2, 3), (6, 1, 5), (11, 1, 3), (14, 3, 7)]
    assert packed.positions.tolist() == [0, 1, 2, 0, 1, 2, *range(5), *range(3), *[*range(7)] * 3]


def test_half_precision_on_a_cpu():
    lengths = [5, 9, 9]
    inputs = heads(23, 0)
    halves = [x.detach().bfloat16().requires_grad_() for x in inputs]
    ours = values_and_gradients(packed_causal_attention(*halves, PackedSequences(lengths, CPU)), halves)
    for mine, theirs in zip(ours, values_and_gradients(masked(inputs, lengths), inputs)):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine.double(), theirs, atol=0.1, rtol=0.05)


@settings(max_examples=30, deadline=None)
@given(lengths_of_sequences)
def test_xformers_is_told_the_same_pattern(lengths):
    """The bias, materialised by xformers itself."""
    total = sum(lengths)
    bias = PackedSequences(lengths, CPU).xformers_bias.materialize((total, total))
    assert torch.equal(bias == 0, causal_mask(lengths))


def varlen_attn(query, key, value, query_bounds, key_bounds, longest_query, longest_key, *, window_size):
    """What torch's documentation says of `torch.nn.attention.varlen.varlen_attn`, with a mask."""
    assert query_bounds.dtype == key_bounds.dtype == torch.int32
    lengths = query_bounds.diff().tolist()
    assert longest_query == longest_key == max(lengths)
    assert torch.equal(query_bounds, key_bounds)
    back, ahead = window_size  # -1 for no limit
    place = torch.cat([torch.arange(n) for n in lengths])
    sequence = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    distance = place[:, None] - place
    mask = sequence[:, None] == sequence
    mask &= (distance <= back) if back >= 0 else True
    mask &= (-distance <= ahead) if ahead >= 0 else True
    q, k, v = (x.transpose(0, 1) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1)


@settings(max_examples=30, deadline=None)
@given(lengths_of_sequences, st.integers(0, 2**31))
def test_varlen_is_told_the_same_pattern(lengths, seed):
    inputs = heads(sum(lengths), seed)
    with pytest.MonkeyPatch.context() as patch:
        stand_in = types.ModuleType("varlen")
        stand_in.varlen_attn = varlen_attn
        patch.setitem(sys.modules, "torch.nn.attention.varlen", stand_in)
        ours = attention._varlen_attention(*inputs, PackedSequences(lengths, CPU))
    torch.testing.assert_close(ours, masked(inputs, lengths))


@pytest.mark.parametrize("backend", ["xformers", "varlen"])
def test_a_backend_that_does_not_work_here_is_explained(backend):
    x = torch.zeros(5, 1, 8)
    with pytest.raises(ValueError, match=f"'{backend}'.*use 'auto'"):
        packed_causal_attention(x, x, x, PackedSequences([2, 3], CPU), backend)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("backend", ["xformers", "varlen"])
def test_backends_agree_on_cuda(backend):
    device = torch.device("cuda")
    if not getattr(attention_backends, f"{backend}_works")(device):
        pytest.skip(f"{backend} does not work with this torch")
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 700, (12,), generator=random).tolist()
    packed = PackedSequences(lengths, device)
    inputs = [torch.randn(sum(lengths), 4, 64, generator=random).to(device).bfloat16() for _ in range(3)]
    inputs = [x.requires_grad_() for x in inputs]
    ours = values_and_gradients(packed_causal_attention(*inputs, packed, backend), inputs)
    for mine, theirs in zip(ours, values_and_gradients(attention._dense_attention(*inputs, packed), inputs)):
        torch.testing.assert_close(mine, theirs, atol=0.05, rtol=0.05)


def test_the_benchmarks_padded_batches_hold_the_same_clips_and_have_the_same_loss():
    lengths = torch.tensor([[64, 32, 32, 64], [32, 32, 32, 32], [128, 32, 32, 32]])
    packed, padded = packing.batches(lengths, seed=0)
    assert packed.sequence_lengths == [134, 198, 230]
    assert padded.sequence_lengths == [230] * 3
    losses = [packing.training_step()(batch) for batch in (packed, padded)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


# Which clips a batch is packed from


def batches_of(tokens_per_clip, num_processes=1, batch_size=None, tokens_per_batch=None) -> ClipBatches:
    return ClipBatches(np.array(tokens_per_clip), 0, num_processes, batch_size, tokens_per_batch)


def some(batches: ClipBatches, count: int) -> list[list[list[int]]]:
    return [next(batches) for _ in range(count)]


clip_sizes = st.lists(st.integers(1, 30), min_size=1, max_size=20)


@settings(max_examples=80, deadline=None)
@given(clip_sizes, st.integers(30, 90), st.integers(1, 3))
def test_each_batch_holds_as_many_whole_clips_as_fit(sizes, budget, num_processes):
    shares = [share for batch in some(batches_of(sizes, num_processes, None, budget), 12) for share in batch]
    size_of = lambda key: sizes[key % len(sizes)]  # noqa: E731
    for share, following in pairwise(shares):
        used = sum(map(size_of, share))
        assert used <= budget < used + size_of(following[0])


@settings(max_examples=60, deadline=None)
@given(clip_sizes, st.sampled_from([(3, None), (None, 40)]), st.integers(1, 3))
def test_processes_share_one_endless_sequence(sizes, rule, num_processes):
    batches = batches_of(sizes, num_processes, *rule)
    keys = [key for batch in some(batches, 10) for share in batch for key in share]
    order = iter(EndlessSampler(len(sizes), 0))
    assert keys == [next(order) for _ in keys]
    assert batches.state_dict() == {"position": len(keys)}


@settings(max_examples=60, deadline=None)
@given(clip_sizes, st.sampled_from([(3, None), (None, 40)]), st.integers(0, 9), st.integers(1, 3))
def test_from_the_kept_place_the_same_batches_follow(sizes, rule, stop, num_processes):
    straight, stopped, resumed = (batches_of(sizes, num_processes, *rule) for _ in range(3))
    some(stopped, stop)
    resumed.load_state_dict(stopped.state_dict())
    assert some(straight, 10)[stop:] == some(resumed, 10 - stop)


def test_a_budget_too_small_for_the_longest_clip_is_explained():
    with pytest.raises(UserError, match=r"tokens_per_batch is 8, but the longest clip .* takes 9 tokens"):
        batches_of([3, 9, 4], tokens_per_batch=8)


def test_class_dropout_follows_from_the_clip_and_the_seed_alone():
    numbers = class_dropout_numbers(range(2000), seed=1)
    assert numbers[7:9] == class_dropout_numbers([7, 8], seed=1)
    assert numbers[:9] != class_dropout_numbers(range(9), seed=2)
    assert np.mean(np.array(numbers) < 0.1) == pytest.approx(0.1, abs=0.02)
