"""Motion explained: by hand with numpy, and what trivial answers get."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from evagen.eval.motion import MotionExplained, frame_change, motion_explained, moving_errors, moving_share
from evagen.eval.reconstruction import psnr
from evagen.kernels.motion import still_background


def walkers(count: int = 3, frames: int = 8) -> Tensor:
    """A bright square of 3 × 3 pixels that walks over a picture of its own; `B 3 F 24 32`."""
    generator = torch.Generator().manual_seed(0)
    video = (torch.rand(count, 3, 1, 24, 32, generator=generator) * 1.4 - 0.9).repeat(1, 1, frames, 1, 1)
    for b in range(count):
        for f in range(frames):
            video[b, :, f, 4 * b : 4 * b + 3, 3 * f : 3 * f + 3] = 1.0
    return video


def noisy(video: Tensor, amount: float) -> Tensor:
    return (video + amount * torch.randn(video.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)


def by_hand(reconstruction: Tensor, original: Tensor) -> float:
    x, again = original.numpy().astype(np.float64), reconstruction.numpy().astype(np.float64)
    background = np.percentile(x, 50, axis=2, method="lower", keepdims=True)
    moves = np.broadcast_to((np.abs(x - background) > 0.2).any(1, keepdims=True), x.shape)
    return 1 - ((again - x) ** 2)[moves].sum() / ((background - x) ** 2)[moves].sum()


@pytest.mark.parametrize("frames", [2, 5, 8])
@pytest.mark.parametrize("amount", [0.05, 0.5])
def test_numpy_by_hand(frames, amount):
    video = walkers(frames=frames)
    metric = MotionExplained()
    metric.update(noisy(video, amount), video)
    assert metric.compute().item() == pytest.approx(by_hand(noisy(video, amount), video), abs=1e-5)


def test_perfect_is_one_and_a_still_background_zero_however_good_its_psnr():
    video = walkers()
    still = still_background(video).expand_as(video)
    assert motion_explained(*moving_errors(video, video)) == 1
    assert motion_explained(*moving_errors(still, video)) == 0
    black = torch.full_like(video, -1.0)
    assert motion_explained(*moving_errors(black, video)) < 0
    assert psnr(still, video).min() > 15 > psnr(black, video).max()  # which PSNR cannot tell


def test_sums_over_all_videos_whatever_the_batches_or_processes():
    video = walkers(5)
    again = noisy(video, 0.2)
    at_once, one, other = MotionExplained(), MotionExplained(), MotionExplained()
    at_once.update(again, video)
    one.update(again[:1], video[:1])
    other.update(again[1:], video[1:])
    one.merge_state(other)
    assert one.compute().item() == pytest.approx(at_once.compute().item())
    still = video[:, :, :1].expand_as(video)
    at_once.update(noisy(still, 0.2), still)  # still clips neither help nor harm
    assert one.compute().item() == pytest.approx(at_once.compute().item())


def test_where_nothing_moves_it_is_not_defined():
    for still in (walkers()[:, :, :1], walkers()[:, :, :1].repeat(1, 1, 6, 1, 1)):
        metric = MotionExplained()
        metric.update(noisy(still, 0.1), still)
        assert math.isnan(metric.compute())
        assert motion_explained(*moving_errors(still, still)) is None


def test_flashes_and_cuts_stay_finite():
    flash = torch.full((1, 3, 9, 8, 8), -1.0)
    flash[:, :, ::2] = 1.0
    cut = torch.cat([flash[:, :, 1:2].repeat(1, 1, 5, 1, 1), flash[:, :, :1].repeat(1, 1, 3, 1, 1)], dim=2)
    for video in (flash, cut):
        assert motion_explained(*moving_errors(video * 0.5, video)) == pytest.approx(15 / 16)


def test_how_much_moves_by_hand():
    video = walkers(count=1)
    background = still_background(video)
    changed = ((video - background).abs().amax(1) > 0.2).sum().item()
    assert moving_share(video).item() == pytest.approx(changed / (8 * 24 * 32))
    assert 0.005 < changed / (8 * 24 * 32) <= 9 / (24 * 32)
    steps = (video[:, :, 1:] - video[:, :, :-1]).abs()
    assert frame_change(video).item() == pytest.approx(steps.mean().item())
    assert frame_change(video[:, :, :1]).item() == 0
    assert moving_share(background.repeat(1, 1, 4, 1, 1)).item() == 0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="B 3 F H W"):
        moving_errors(walkers(2), walkers(3))
    for measure in (frame_change, moving_share):
        for wrong, words in (
            (walkers(2)[0], "B 3 F H W"),
            (walkers(2)[:0], "at least one"),
            (walkers(2).byte(), "uint8"),
            (walkers(2) * 127.5 + 127.5, r"values in \[-1, 1\]"),
        ):
            with pytest.raises(ValueError, match=words):
                measure(wrong)
