"""Which clips a batch of token sequences is packed from."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evagen.data.loader import EndlessSampler
from evagen.errors import UserError
from evagen.training.token_batches import ClipBatches, class_dropout_numbers


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
