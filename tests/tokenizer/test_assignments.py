"""Assignments, their numbering, grids, and the proxy reward."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evagen.tokenizer import AssignmentSpace, RewardScale, best_assignment, proxy_reward, reward_percentile
from evagen.tokenizer.positions import cell_centres, grid_shape
from evagen.tokenizer.reward import same_preference

spaces = st.builds(AssignmentSpace, st.sets(st.integers(1, 600), min_size=1, max_size=5).map(sorted), st.integers(1, 4))


@given(spaces, st.data())
def test_index_and_lengths_are_inverse(space, data):
    index = torch.tensor(data.draw(st.lists(st.integers(0, space.count - 1), min_size=1, max_size=20)))
    assert torch.equal(space.index_of(space.lengths_of(index)), index)


@given(spaces, st.data())
def test_lengths_that_are_no_assignment_are_refused(space, data):
    lengths = torch.tensor(data.draw(st.lists(st.sampled_from(space.levels), min_size=1, max_size=6)))
    if len(lengths) != space.num_blocks:
        with pytest.raises(ValueError, match="one for each temporal block"):
            space.index_of(lengths)
        return
    lengths[data.draw(st.integers(0, len(lengths) - 1))] = wrong = data.draw(st.integers(-5, 700))
    if wrong not in space.levels:
        with pytest.raises(ValueError, match="are no levels"):
            space.index_of(lengths)
    for number in (-1, space.count):
        with pytest.raises(ValueError, match="assignment numbers run from 0"):
            space.lengths_of(torch.tensor([number]))


def test_paper_sizes():
    space = AssignmentSpace([32, 64, 128, 256, 512], 4)
    assert (space.count, space.min_tokens, space.max_tokens) == (625, 128, 2048)
    assert space.lengths_of(torch.tensor([0, 1, 5, 624])).tolist() == [
        [32, 32, 32, 32], [32, 32, 32, 64], [32, 32, 64, 32], [512, 512, 512, 512],
    ]  # fmt: skip


@pytest.mark.parametrize("levels", [[], [0, 4], [4, 4], [8, 4]])
def test_levels_must_increase(levels):
    with pytest.raises(ValueError, match="strictly increasing"):
        AssignmentSpace(levels, 4)


def test_grid_of_published_levels():
    shapes = {k: grid_shape(k, 16, 16) for k in (32, 64, 128, 256, 512)}
    assert shapes == {32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16), 512: (16, 32)}
    assert grid_shape(32, 8, 32) == (2, 16)  # a wide picture gets a wide grid
    assert grid_shape(7, 16, 16) == (1, 7)


@given(st.integers(1, 512), st.integers(1, 32), st.integers(1, 32))
def test_a_grid_has_exactly_that_many_cells_within_the_unit_square(cells, height, width):
    centres = cell_centres(*grid_shape(cells, height, width))
    assert centres.shape == (cells, 2)
    assert bool(((centres > 0) & (centres < 1)).all())


def test_reward_by_hand():
    """Two blocks of levels 1 and 3: L = 0, 1/2, 1/2, 1. Mean distances 0.9 and 0.1 give Q = (0.9 - d) / 0.8."""
    space = AssignmentSpace([1, 3], 2)
    distances = torch.tensor([[1.0, 0.2, 0.9, 0.1], [0.8, 0.7, 0.6, 0.1]])
    scale = RewardScale.of(distances, space)
    assert (scale.distance_zero, scale.distance_unit) == pytest.approx((0.9, 0.8))
    reward = proxy_reward(distances, 1.2, space, scale)
    expected = [
        [1.2 * -0.125 - 0, 1.2 * 0.875 - 0.8 / 2, 1.2 * 0 - 0.8 / 2, 1.2 * 1 - 0.8],
        [1.2 * 0.125 - 0, 1.2 * 0.25 - 0.8 / 2, 1.2 * 0.375 - 0.8 / 2, 1.2 * 1 - 0.8],
    ]
    torch.testing.assert_close(reward, torch.tensor(expected, dtype=torch.float64))
    assert best_assignment(distances, 1.2, space, scale).tolist() == [1, 3]
    assert best_assignment(distances, torch.tensor([0.0, 2.0]), space, scale).tolist() == [0, 3]


def test_the_cheapest_of_equals_is_best():
    space = AssignmentSpace([1, 3], 2)
    scale = RewardScale.min_max(space, 0.0, 1.0)
    distances = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    assert best_assignment(distances, 2.0, space, scale).tolist() == [0]


@given(st.floats(0.8, 1.59), st.floats(0.001, 0.4), st.integers(0, 1000))
def test_a_higher_preference_never_spends_less(low, more, seed):
    space = AssignmentSpace([1, 2, 4], 3)
    distances = torch.rand(4, space.count, generator=torch.Generator().manual_seed(seed)).sort(-1, descending=True)[0]
    scale = RewardScale.of(distances, space)
    spent = [space.lengths_of(best_assignment(distances, w, space, scale)).sum(-1) for w in (low, low + more)]
    assert bool((spent[1] >= spent[0]).all())


def test_a_tokenizer_that_gains_nothing_from_tokens_is_refused():
    with pytest.raises(ValueError, match="has not learnt to use more tokens"):
        RewardScale.of(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), AssignmentSpace([1, 2], 2))


def test_one_length_leaves_nothing_to_choose():
    with pytest.raises(ValueError, match="has the one length 4, so there is nothing to choose"):
        RewardScale.of(torch.rand(3, 1), AssignmentSpace([4], 2))


def test_reward_by_z_scores_by_hand():
    """EVATok's supplement, eqs. 5 to 7, with quality falling with the distance."""
    space = AssignmentSpace([1, 3], 2)
    distances = torch.tensor([[1.0, 0.2, 0.9, 0.1], [0.8, 0.7, 0.6, 0.1]])
    d, tokens = distances.double().numpy(), np.array([2, 4, 4, 6])
    expected = 1.2 * -(d - d.mean()) / d.std() - 0.8 * (tokens - tokens.mean()) / tokens.std()
    scale = RewardScale.of(distances, space, "z-score")
    np.testing.assert_allclose(proxy_reward(distances, 1.2, space, scale).numpy(), expected)


@given(st.floats(0.1, 1.9), st.integers(0, 1000))
def test_the_same_preference_of_the_other_scale_ranks_alike(preference, seed):
    space = AssignmentSpace([1, 2, 4], 3)
    distances = torch.rand(6, space.count, generator=torch.Generator().manual_seed(seed)).sort(-1, descending=True)[0]
    one, other = (RewardScale.of(distances, space, name) for name in ("min-max", "z-score"))
    there = same_preference(preference, one, other)
    assert same_preference(there, other, one) == pytest.approx(preference)
    rewards = [proxy_reward(distances, w, space, scale) for w, scale in ((preference, one), (there, other))]
    gaps = [reward - reward[:, :1] for reward in rewards]  # equal but for a factor
    factor = gaps[1].abs().sum() / gaps[0].abs().sum()
    torch.testing.assert_close(gaps[1], gaps[0] * factor)
    assert [same_preference(w, one, other) for w in (0.0, 2.0)] == [0, 2]  # where one side alone counts


def test_reward_percentile_by_hand():
    reward = torch.tensor([[0.0, 1.0, 4.0], [2.0, -1.0, 3.0]])
    assert reward_percentile(reward, torch.tensor([1, 2])) == pytest.approx((2 - -0.5) / (3.5 - -0.5))
    assert reward_percentile(reward, reward.argmax(1)) == 1
    assert reward_percentile(reward, reward.argmin(1)) == 0


@pytest.mark.parametrize(("num_levels", "num_blocks"), [(5, 26), (5, 27), (5, 28), (2, 64), (3, 128)])
def test_more_assignments_than_can_be_numbered_are_drawn_too(num_levels, num_blocks):
    space = AssignmentSpace(range(1, num_levels + 1), num_blocks)
    assert space.count == num_levels**num_blocks
    assert set(space.random(60).unique().tolist()) == set(space.levels)
