"""Fréchet distance against scipy, torchmetrics and closed forms; its streaming and its processes."""

# isort: split
import warnings

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from feature_sets import PixelDetector, clips, in_two_processes, random
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchmetrics.image.fid import _compute_fid

from evagen.eval.detectors import ImageNetworkDetector
from evagen.eval.frechet import (
    FewSamplesWarning,
    FrechetVideoDistance,
    GaussianStatistics,
    frechet_distance,
    frechet_distance_between,
)
from evagen.eval.kernel import KernelVideoDistance

pytestmark = pytest.mark.filterwarnings("ignore::evagen.eval.frechet.FewSamplesWarning")


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.mean(0), torch.cov(features.T, correction=0)


def test_equals_scipy_and_torchmetrics_on_well_conditioned_features():
    a, b = random(500, 40), 1.5 * random(400, 40, seed=1) @ random(40, 40, seed=2) / 6 + 0.3
    (mean1, cov1), (mean2, cov2) = moments(a), moments(b)
    root = scipy.linalg.sqrtm(cov1.numpy() @ cov2.numpy())
    by_scipy = ((mean1 - mean2) ** 2).sum() + cov1.trace() + cov2.trace() - 2 * np.trace(root).real
    ours = frechet_distance(mean1, cov1, mean2, cov2)
    assert ours.item() == pytest.approx(by_scipy.item(), rel=1e-9)
    assert ours.item() == pytest.approx(_compute_fid(mean1, cov1, mean2, cov2).item(), rel=1e-9)


def test_gaussians_with_common_axes_have_a_closed_form_at_any_rank():
    basis = torch.linalg.qr(random(30, 30)).Q
    variances1 = torch.linspace(0, 2, 30, dtype=torch.float64).pow(4)
    variances1[5:12] = 0
    variances2 = random(30, seed=1).square()
    variances2[10:20] = 0
    mean = random(30, seed=2)
    expected = mean.square().sum() + (variances1.sqrt() - variances2.sqrt()).square().sum()
    ours = frechet_distance(mean, (basis * variances1) @ basis.T, 0 * mean, (basis * variances2) @ basis.T)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-9)


@given(st.integers(2, 12), st.integers(2, 12), st.integers(2, 40), st.integers(0, 1000), st.floats(1e-4, 1e4))
@settings(max_examples=40, deadline=None)
def test_fewer_samples_than_features_equals_the_small_problem(count1, count2, width, seed, scale):
    # With centred samples X, Y the trace of the root is the sum of singular values of X Yᵀ / √(n m).
    a, b = random(count1, width, seed=seed), scale * random(count2, width, seed=seed + 1) + 1
    x, y = a - a.mean(0), b - b.mean(0)
    trace = torch.linalg.svdvals(x @ y.T).sum() / (count1 * count2) ** 0.5
    total = (a.mean(0) - b.mean(0)).square().sum() + x.square().sum() / count1 + y.square().sum() / count2
    ours = frechet_distance(*moments(a), *moments(b))
    assert ours >= 0
    assert abs(ours.item() - (total - 2 * trace).item()) <= 1e-9 * total.item()


@pytest.mark.parametrize(("count1", "count2"), [(5, 5), (4, 30), (30, 6)])
def test_fewer_samples_than_features_equals_fifty_digits(count1, count2):
    a, b = random(count1, 10), 1.5 * random(count2, 10, seed=1) + 0.2
    (mean1, cov1), (mean2, cov2) = moments(a), moments(b)
    with mpmath.workdps(50):
        # Tr (Σ₁^½ Σ₂ Σ₁^½)^½ is the sum of the roots of the eigenvalues of the symmetric matrix itself.
        values, vectors = mpmath.eigsy(mpmath.matrix(cov1.tolist()))
        half = vectors * mpmath.diag([mpmath.sqrt(max(value, 0)) for value in values]) * vectors.T
        product = mpmath.eigsy(half * mpmath.matrix(cov2.tolist()) * half, eigvals_only=True)
        trace = sum(mpmath.sqrt(max(value, 0)) for value in product)
        gap = sum((mpmath.mpf(x) - mpmath.mpf(y)) ** 2 for x, y in zip(mean1.tolist(), mean2.tolist()))
        expected = gap + sum(mpmath.mpf(x) for x in (cov1.diag() + cov2.diag()).tolist()) - 2 * trace
    assert frechet_distance(mean1, cov1, mean2, cov2).item() == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("count", [300, 5])
def test_equal_sets_are_at_distance_zero(count):
    features = random(count, 60) @ torch.diag(torch.logspace(-6, 3, 60, dtype=torch.float64)) + 5
    mean, covariance = moments(features)
    assert frechet_distance(mean, covariance, mean, covariance).item() == 0
    shuffled = moments(features[torch.randperm(count, generator=torch.Generator().manual_seed(0))])
    assert 0 <= frechet_distance(mean, covariance, *shuffled) <= 1e-10 * covariance.trace()


@given(st.integers(2, 30), st.integers(2, 30), st.integers(2, 20), st.integers(0, 1000), st.floats(0, 1e6))
@settings(max_examples=40, deadline=None)
def test_never_negative_and_symmetric(count1, count2, width, seed, offset):
    a, b = moments(random(count1, width, seed=seed) + offset), moments(random(count2, width, seed=seed + 1) + offset)
    there, back = frechet_distance(*a, *b), frechet_distance(*b, *a)
    assert there >= 0
    torch.testing.assert_close(there, back, rtol=1e-6, atol=1e-9)


def test_constant_sets_differ_by_their_means_alone():
    zero = torch.zeros(3, 3)
    assert frechet_distance(torch.ones(3), zero, torch.zeros(3), zero).item() == 3


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(-1e6, 1e6), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_statistics_of_batches_merge_to_those_of_all(batch_sizes, offset, seed):
    features = random(sum(batch_sizes), 5, seed=seed) + offset
    parts = [GaussianStatistics.of(batch) for batch in features.split(batch_sizes)]
    merged = GaussianStatistics.merged(parts[::-1])
    assert merged.count == sum(batch_sizes)
    np.testing.assert_allclose(merged.mean, features.mean(0), rtol=1e-12, atol=1e-12)
    expected = np.cov(features.numpy(), rowvar=False, ddof=0)
    np.testing.assert_allclose(merged.covariance(), expected, rtol=1e-7, atol=1e-8)
    for again in (GaussianStatistics.unpacked(merged.packed()), GaussianStatistics.from_tensors(merged.as_tensors())):
        assert torch.equal(again.scatter, merged.scatter)
        assert torch.equal(again.mean, merged.mean)
        assert again.count == merged.count


def test_ddof_is_that_of_numpy():
    a, b = random(30, 4), 2 * random(20, 4, seed=1)
    statistics = [GaussianStatistics.of(features) for features in (a, b)]
    for ddof in (0, 1):
        covariances = [torch.from_numpy(np.cov(x.numpy(), rowvar=False, ddof=ddof)) for x in (a, b)]
        expected = frechet_distance(a.mean(0), covariances[0], b.mean(0), covariances[1])
        assert frechet_distance_between(*statistics, ddof=ddof).item() == pytest.approx(expected.item(), rel=1e-10)


def test_statistics_survive_a_file(tmp_path):
    statistics = GaussianStatistics.of(random(30, 4))
    save_file(statistics.as_tensors(), tmp_path / "real.safetensors")
    again = GaussianStatistics.from_tensors(load_file(tmp_path / "real.safetensors"))
    assert frechet_distance_between(statistics, again).item() == 0
    with pytest.raises(ValueError, match="count, mean and scatter"):
        GaussianStatistics.from_tensors({"mean": statistics.mean})
    with pytest.raises(ValueError, match="float64"):
        GaussianStatistics.from_tensors({**statistics.as_tensors(), "mean": statistics.mean.float()})
    with pytest.raises(ValueError, match=r"\(D, D\)"):
        GaussianStatistics.from_tensors({**statistics.as_tensors(), "mean": statistics.mean[:3]})


def test_metric_in_batches_equals_all_at_once():
    real, generated = clips(64, 0), 1.3 * clips(48, 1) + 0.2
    metric = FrechetVideoDistance(PixelDetector())
    for batch in real.split(7):
        metric.update(batch, real=True)
    for batch in generated.split(10):
        metric.update(batch, real=False)
    features = [metric.detector(videos).detach().double() for videos in (real, generated)]
    expected = frechet_distance(*moments(features[0]), *moments(features[1]))
    assert metric.compute().item() == pytest.approx(expected.item(), rel=1e-9)


def test_cached_statistics_stand_for_their_clips():
    fed, filled = FrechetVideoDistance(PixelDetector()), FrechetVideoDistance(PixelDetector())
    for metric in (fed, filled):
        metric.update(2 * clips(12, 1), real=False)
    for batch in clips(20, 0).split(6):
        fed.update(batch, real=True)
    filled.update(fed.statistics(real=True), real=True)
    assert filled.compute() == fed.compute()
    filled.update(fed.detector(clips(5, 3)), real=False)
    fed.update(clips(5, 3), real=False)
    assert filled.compute() == fed.compute()


def test_the_same_clips_in_the_same_batches_are_at_distance_zero():
    metric = FrechetVideoDistance(PixelDetector())
    for batch in clips(30, 0).split(7):
        for real in (True, False):
            metric.update(batch, real=real)
    assert metric.compute().item() == 0


def test_reset_forgets():
    metric = FrechetVideoDistance(PixelDetector())
    metric.update(100 * clips(5, 3), real=True)
    metric.reset()
    for real in (True, False):
        metric.update(clips(5, 0), real=real)
    assert metric.compute() < 1e-10


def test_merged_metrics_equal_one():
    one, other, both = (FrechetVideoDistance(PixelDetector()) for _ in range(3))
    for metric, seed in ((one, 0), (other, 2)):
        for target in (metric, both):
            target.update(clips(9 + seed, seed), real=True)
            target.update(2 * clips(5 + seed, seed + 1), real=False)
    one.merge_state(other)
    assert one.compute().item() == pytest.approx(both.compute().item(), rel=1e-9)


def distance_as_process(rank: int) -> float:
    metric = FrechetVideoDistance(PixelDetector())
    metric.update(clips(20, 0)[rank::2], real=True)
    if rank == 1:  # the other process sees no generated clip at all
        metric.update(2 * clips(12, 1) + 1, real=False)
    return metric.compute().item()


def test_two_processes_equal_one(tmp_path):
    distances = in_two_processes(distance_as_process, str(tmp_path / "rendezvous"))
    alone = FrechetVideoDistance(PixelDetector())
    alone.update(clips(20, 0), real=True)
    alone.update(2 * clips(12, 1) + 1, real=False)
    assert distances == pytest.approx([alone.compute().item()] * 2, rel=1e-9)


def test_too_few_videos_are_counted():
    metric = FrechetVideoDistance(PixelDetector())
    metric.update(clips(3, 0), real=True)
    metric.update(clips(1, 0), real=False)
    with pytest.raises(ValueError, match=r"at least 2 .* got 3 real and 1 generated .* full rank from 9 videos on"):
        metric.compute()
    strict = FrechetVideoDistance(PixelDetector(), min_videos=10)
    strict.update(GaussianStatistics.of(random(9, 8)), real=True)
    strict.update(GaussianStatistics.of(random(50, 8)), real=False)
    with pytest.raises(ValueError, match="at least 10 real and 10 generated videos, got 9 real and 50 generated"):
        strict.compute()


@pytest.mark.parametrize(("count", "warns"), [(8, True), (9, False)])
def test_covariances_without_full_rank_are_warned_of(count, warns, recwarn):
    warnings.simplefilter("always")
    few, many = GaussianStatistics.of(random(count, 8)), GaussianStatistics.of(random(40, 8, seed=1))
    for pair in ((few, many), (many, few)):
        recwarn.clear()
        assert frechet_distance_between(*pair).isfinite()
        assert [warning.category for warning in recwarn] == [FewSamplesWarning] * warns


def test_features_that_are_not_finite_are_refused():
    metric = FrechetVideoDistance(PixelDetector())
    with pytest.raises(ValueError, match="detector pixels gave features"):
        metric.update(torch.full((2, 3, 2, 4, 4), float("nan")), real=True)


@pytest.mark.parametrize("distance", [FrechetVideoDistance, KernelVideoDistance])
def test_what_is_no_detector_is_told(distance):
    with pytest.raises(ValueError, match="a Linear lacks name, fingerprint, num_features"):
        distance(nn.Linear(2, 2))


def test_what_is_no_video_and_statistics_of_another_detector_are_told():
    metric = FrechetVideoDistance(PixelDetector())
    for wrong, words in (([torch.zeros(3, 2, 4, 4)], "got a list"), (np.zeros((2, 3, 2, 4, 4)), "got a ndarray")):
        with pytest.raises(ValueError, match=words):
            metric.update(wrong, real=True)
    other = GaussianStatistics.of(random(9, 5))
    with pytest.raises(ValueError, match="statistics of 5 features are not of detector pixels, which has 8"):
        metric.update(other, real=True)
    with pytest.raises(ValueError, match="8 and 5 features do not compare"):
        frechet_distance_between(GaussianStatistics.of(random(9, 8)), other)


def test_detector_weights_are_not_in_the_metric():
    metric = FrechetVideoDistance(PixelDetector())
    metric.persistent(True)
    assert sorted(metric.state_dict()) == ["generated", "real"]


def test_image_network_detector_sees_appearance_and_motion():
    detector = ImageNetworkDetector()
    generator = torch.Generator().manual_seed(0)
    pictures = nn.functional.interpolate(torch.rand(2, 3, 6, 6, generator=generator) * 2 - 1, (48, 48))
    moving = torch.stack([pictures.roll(4 * f, dims=-1) for f in range(5)], dim=2)  # (2, 3, 5, 48, 48)
    still = moving[:, :, :1].expand_as(moving)
    features = detector(moving)
    assert features.shape == (2, detector.num_features)
    assert (features[:, 112:].mean(1) > 0.1).all()
    assert detector(still)[:, 112:].abs().max() < 1e-4
    torch.testing.assert_close(detector(moving.flip(2)), features, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(detector(moving[1:]), features[1:], rtol=1e-3, atol=1e-4)
    shuffled = detector(moving[:, :, [0, 3, 1, 4, 2]])
    torch.testing.assert_close(shuffled[:, :112], features[:, :112], rtol=1e-3, atol=1e-4)
    assert (shuffled[:, 112:].mean(1) > features[:, 112:].mean(1)).all()
    assert (detector.name, detector.fingerprint) == ("efficientnet-lite0-framewise", "153bf98ba91b079c")
    torch.testing.assert_close(detector(moving.bfloat16()), detector(moving.bfloat16().float()))
    for wrong, words in (
        (moving[:, :, :1], "at least 2 frames"),
        (moving * 127.5 + 127.5, r"values in \[-1, 1\]"),
        (moving[:0], "at least one; got"),
    ):
        with pytest.raises(ValueError, match=words):
            detector(wrong)
