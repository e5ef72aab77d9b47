"""PSNR, SSIM and perceptual distance of videos, against torchmetrics and by hand."""

# isort: split
import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from evagen.eval.detectors import ImageNetworkDetector
from evagen.eval.frechet import GaussianStatistics, frechet_distance_between
from evagen.eval.kernel import kernel_distance
from evagen.eval.motion import frame_change, moving_errors, moving_share
from evagen.eval.network_input import NetworkInput
from evagen.eval.perceptual import PerceptualDistance
from evagen.eval.reconstruction import MeanOverVideos, perceptual_distance, psnr, reconstruction_metrics, ssim


@pytest.fixture(scope="module")
def perceptual():
    return PerceptualDistance()


def videos(count: int = 3, frames: int = 4) -> tuple[Tensor, Tensor]:
    """Reconstructions, each video worse than the one before, and originals; `B 3 F H W`."""
    generator = torch.Generator().manual_seed(0)
    original = torch.rand(count, 3, frames, 24, 32, generator=generator) * 1.6 - 0.8
    noise = torch.randn(original.shape, generator=generator)
    return original + noise * torch.linspace(0.02, 0.2, count).view(-1, 1, 1, 1, 1), original


def test_psnr_by_hand():
    original = torch.zeros(2, 3, 2, 4, 4)
    reconstruction = original.clone()
    reconstruction[0, :, 0] = 0.2  # half of the frames wrong by 0.2: mean squared error 0.02
    reconstruction[1] = 2  # counts as 1: mean squared error 1
    expected = torch.tensor([10 * math.log10(4 / 0.02), 10 * math.log10(4)])
    torch.testing.assert_close(psnr(reconstruction, original), expected)


def test_psnr_is_torchmetrics_on_each_video():
    reconstruction, original = videos()
    expected = [peak_signal_noise_ratio(r, o, data_range=(-1.0, 1.0)) for r, o in zip(reconstruction, original)]
    torch.testing.assert_close(psnr(reconstruction, original), torch.stack(expected))


def test_ssim_is_torchmetrics_on_each_frame_between_0_and_1():
    reconstruction, original = videos()
    expected = torch.empty(3, 4)
    for b in range(3):
        for f in range(4):
            pair = ((video[b : b + 1, :, f].clamp(-1, 1) + 1) / 2 for video in (reconstruction, original))
            expected[b, f] = structural_similarity_index_measure(*pair, data_range=1.0)
    torch.testing.assert_close(ssim(reconstruction, original), expected.mean(1), rtol=1e-4, atol=1e-5)


def test_equal_videos_do_not_poison_the_mean(perceptual):
    reconstruction, original = videos(2)
    reconstruction[0] = original[0]
    metrics = reconstruction_metrics(perceptual)
    metrics.update(reconstruction, original)
    values = metrics.compute()
    second = psnr(reconstruction[1:], original[1:]).item()
    assert values["psnr"].item() == pytest.approx((100 + second) / 2)

    metrics.reset()
    metrics.update(original, original)
    values = {key: value.item() for key, value in metrics.compute().items()}
    assert values == {"psnr": 100, "ssim": pytest.approx(1), "perceptual": 0, "motion": 1}


def test_means_are_over_videos_whatever_the_batches(perceptual):
    reconstruction, original = videos(5)
    at_once, batched = reconstruction_metrics(perceptual), reconstruction_metrics(perceptual)
    at_once.update(reconstruction, original)
    for part in (slice(0, 1), slice(1, 5)):
        batched.update(reconstruction[part], original[part])
    expected = {
        "psnr": psnr(reconstruction, original).mean(),
        "ssim": ssim(reconstruction, original).mean(),
        "perceptual": perceptual.video_distance(reconstruction.clamp(-1, 1), original).mean(),
    }
    assert set(batched.compute()) == {*expected, "motion"}
    for key, value in expected.items():
        assert batched.compute()[key].item() == pytest.approx(value.item(), rel=1e-4)
        assert at_once.compute()[key].item() == pytest.approx(value.item(), rel=1e-4)


def test_worse_videos_score_worse(perceptual):
    reconstruction, original = videos(4)
    metrics = reconstruction_metrics(perceptual)
    scores = [metrics(reconstruction[b : b + 1], original[b : b + 1]) for b in range(4)]
    for key, best_first in (("psnr", True), ("ssim", True), ("perceptual", False), ("motion", True)):
        values = [score[key].item() for score in scores]
        assert values == sorted(values, reverse=best_first)


def test_merged_metrics_equal_one():
    reconstruction, original = videos()
    one, other = MeanOverVideos(psnr), MeanOverVideos(psnr)
    one.update(reconstruction[:1], original[:1])
    other.update(reconstruction[1:], original[1:])
    one.merge_state(other)
    assert one.compute().item() == pytest.approx(psnr(reconstruction, original).mean().item())


def test_half_precision_is_measured_in_full():
    reconstruction, original = (video.bfloat16() for video in videos())
    torch.testing.assert_close(psnr(reconstruction, original), psnr(reconstruction.float(), original.float()))


MEASURES = {
    "psnr": psnr,
    "ssim": ssim,
    "perceptual": lambda x, y: perceptual_distance(PerceptualDistance(), x, y),
    "motion": lambda x, y: torch.stack(moving_errors(x, y)),
    "movement": lambda x, y: torch.cat([moving_share(x), frame_change(x)]),
    "kernel": lambda x, y: kernel_distance(ImageNetworkDetector()(y), ImageNetworkDetector()(x)),
    "frechet": lambda x, y: frechet_distance_between(*(GaussianStatistics.of(v.flatten(1)[:, :99]) for v in (y, x))),
    "input": lambda x, y: NetworkInput(20, "nearest", 16)(x),
}


@pytest.mark.parametrize("name", MEASURES)
def test_autocast_around_a_measure_changes_nothing(name):
    """A model's half precision is not the measure's: of smooth videos SSIM would exceed 1."""
    _, original = videos()
    smooth = torch.nn.functional.interpolate(original, scale_factor=(1, 2, 2), mode="trilinear")  # (3, 3, 4, 48, 64)
    pair = (smooth + 0.02 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1)), smooth)
    expected = MEASURES[name](*pair)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(MEASURES[name](*pair), expected)


def test_bad_input_is_refused(perceptual):
    reconstruction, original = videos()
    frames_first = reconstruction.transpose(1, 2), original.transpose(1, 2)
    for measure in (psnr, ssim, moving_errors):
        for pair in (
            (reconstruction[:1], original),
            (reconstruction[0], original[0]),
            frames_first,
            (reconstruction[:0], original[:0]),
        ):
            with pytest.raises(ValueError, match="B 3 F H W"):
                measure(*pair)
    with pytest.raises(ValueError, match="uint8"):
        psnr(original.byte(), original.byte())
    with pytest.raises(ValueError, match=r"values in \[-1, 1\]"):  # where all would be clipped to white
        psnr(original * 127.5 + 127.5, original * 127.5 + 127.5)
    with pytest.raises(ValueError, match="11×11"):
        ssim(reconstruction[..., :10], original[..., :10])
    with pytest.warns(UserWarning, match="before the"), pytest.raises(ValueError, match="at least 1 video"):
        reconstruction_metrics(perceptual).compute()
