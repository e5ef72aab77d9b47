"""Intervals and extrapolated distances on Gaussians, whose true distances are known."""

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from torch import Tensor

from evagen.eval.frechet import GaussianStatistics, frechet_distance_between
from evagen.eval.uncertainty import bootstrap_interval, extrapolated_distance, paired_bootstrap

D = 6
TRUE_DISTANCE = D * 0.5**2 + D * (1.5 - 1) ** 2


def samples(count: int, seed: int, fake: bool) -> Tensor:
    features = torch.randn(count, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return 1.5 * features + 0.5 if fake else features


def distance(real: Tensor, fake: Tensor) -> float:
    return frechet_distance_between(GaussianStatistics.of(real), GaussianStatistics.of(fake)).item()


def test_intervals_enclose_what_other_videos_would_give():
    draws = [(samples(150, 2 * seed, False), samples(120, 2 * seed + 1, True)) for seed in range(120)]
    distances = torch.tensor([distance(*draw) for draw in draws])
    intervals = [bootstrap_interval(*draw, resamples=60, level=0.9) for draw in draws[:60]]
    enclosed = sum(interval.low <= distances.mean() <= interval.high for interval in intervals)
    assert 46 <= enclosed <= 60  # 54 expected, deviation 2.3
    mean_error = sum(interval.standard_error for interval in intervals) / len(intervals)
    assert mean_error == pytest.approx(distances.std().item(), rel=0.25)


def test_the_interval_is_that_of_the_value():
    real, fake = samples(80, 0, False), samples(70, 1, True)
    interval = bootstrap_interval(real, fake)
    assert interval.value == distance(real, fake)
    assert interval.low < interval.value < interval.high
    assert interval == bootstrap_interval(real, fake)
    assert interval.standard_error != bootstrap_interval(real, fake, seed=1).standard_error
    wide = bootstrap_interval(real, fake, level=0.99)
    assert wide.low < interval.low
    assert wide.high > interval.high


def test_a_real_side_of_statistics_is_certain():
    real, fake = samples(60, 0, False), samples(4000, 1, True)
    both = bootstrap_interval(real, fake, resamples=30)
    given = bootstrap_interval(GaussianStatistics.of(real), fake, resamples=30)
    assert given.value == pytest.approx(both.value, rel=1e-12)
    assert given.standard_error < both.standard_error / 2


def test_pairs_are_drawn_together():
    real = samples(60, 0, False)
    reconstruction = 0.9 * real + 0.1
    paired = bootstrap_interval(real, reconstruction, paired=True)
    apart = bootstrap_interval(real, reconstruction)
    assert paired.standard_error < apart.standard_error / 2
    with pytest.raises(ValueError, match="equally many"):
        bootstrap_interval(real, reconstruction[:50], paired=True)
    with pytest.raises(ValueError, match="no pairs"):
        bootstrap_interval(GaussianStatistics.of(real), reconstruction, paired=True)


def test_equal_pairs_have_no_error():
    real = samples(60, 0, False)
    interval = bootstrap_interval(real, real.clone(), paired=True, resamples=5)
    assert (interval.value, interval.low, interval.high, interval.standard_error) == (0, 0, 0, 0)
    extrapolation = extrapolated_distance(real, real.clone(), paired=True)
    assert (extrapolation.value, extrapolation.fit) == (0, 1)


def test_extrapolation_takes_away_what_finite_sets_add():
    plain, extrapolated = [], []
    for seed in range(30):
        real, fake = samples(100, 2 * seed, False), samples(100, 2 * seed + 1, True)
        plain.append(distance(real, fake))
        extrapolated.append(extrapolated_distance(real, fake, seed=seed).value)
    bias, rest = (abs(sum(values) / 30 - TRUE_DISTANCE) for values in (plain, extrapolated))
    assert bias > 0.15
    assert rest < bias / 2


def test_the_fitted_points_end_at_the_full_sets():
    real, fake = samples(200, 0, False), samples(200, 1, True)
    extrapolation = extrapolated_distance(real, fake, points=8)
    assert len(extrapolation.fractions) == len(extrapolation.distances) == 8
    assert extrapolation.fractions[-1] == 1
    assert extrapolation.distances[-1] == pytest.approx(distance(real, fake), rel=1e-9)
    assert extrapolation.distances[0] > extrapolation.value
    assert 0 <= extrapolation.fit <= 1


def test_bad_requests_are_refused():
    real, fake = samples(60, 0, False), samples(23, 1, True)
    with pytest.raises(ValueError, match=r"at least 24 videos .* got 23 videos"):
        extrapolated_distance(real, fake)
    with pytest.raises(ValueError, match="2 points"):
        extrapolated_distance(real, samples(60, 1, True), points=1)
    with pytest.raises(ValueError, match=r"level=1\.5"):
        bootstrap_interval(real, fake, level=1.5)
    with pytest.raises(ValueError, match="got 60 real and 1 generated"):
        bootstrap_interval(real, fake[:1])


def ratio(columns) -> Tensor:
    return 1 - columns["error"].sum() / columns["still"].sum()


def clips(seed: int, shift: float = 0.0) -> dict[str, Tensor]:
    """Errors of 80 clips; what is hard about each is the same with every shift."""
    random = torch.Generator().manual_seed(seed)
    still = torch.rand(80, generator=random, dtype=torch.float64) + 0.1
    noise = torch.rand(80, generator=random, dtype=torch.float64)
    return {"error": still * (0.4 - shift + 0.2 * noise), "still": still}


def test_the_paired_interval_is_scipys():
    scored, against = clips(0), clips(0, shift=0.05)
    found = paired_bootstrap(ratio, scored, against, level=0.9, resamples=4000)

    def difference(error, still, other):
        return 1 - error.sum() / still.sum() - (1 - other.sum() / still.sum())

    columns = [np.asarray(column) for column in (scored["error"], scored["still"], against["error"])]
    theirs = bootstrap(columns, difference, paired=True, vectorized=False, confidence_level=0.9, n_resamples=4000,
                       method="percentile", rng=0).confidence_interval  # fmt: skip
    assert found.value == pytest.approx(-0.05)
    spread = theirs.high - theirs.low
    assert (found.low, found.high) == (
        pytest.approx(theirs.low, abs=0.1 * spread),
        pytest.approx(theirs.high, abs=0.1 * spread),
    )


def test_what_is_hard_about_a_clip_counts_on_both_sides():
    alone, gain = paired_bootstrap(ratio, clips(1)), paired_bootstrap(ratio, clips(1, shift=0.05), clips(1))
    assert gain.high - gain.low < 0.1 * (alone.high - alone.low)
    assert paired_bootstrap(ratio, clips(1), clips(1)).high == 0


def test_paired_intervals_enclose_other_draws_as_often_as_they_say():
    truth = paired_bootstrap(
        ratio, {name: torch.cat([clips(s)[name] for s in range(300, 500)]) for name in ("error", "still")}
    ).value
    intervals = [paired_bootstrap(ratio, clips(seed), resamples=200, level=0.9) for seed in range(100)]
    assert 80 <= sum(interval.low <= truth <= interval.high for interval in intervals) <= 98


def test_sides_of_unequal_size_are_refused():
    with pytest.raises(ValueError, match=r"the same clips, in columns of one length; got lengths \[79, 80\]"):
        paired_bootstrap(ratio, clips(0), {name: column[1:] for name, column in clips(0).items()})
