"""Levels 0…255 and the range [-1, 1]."""

import numpy as np
import pytest
import torch

from evagen.kernels.levels import floats_to_levels, frames_to_video, video_to_frames


def test_bytes_to_model_range_and_back_is_exact():
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    video = frames_to_video(frames)
    assert video.shape == (3, 1, 16, 16)
    assert (video.min(), video.max()) == (-1, 1)
    assert np.array_equal(video_to_frames(video), frames)
    assert video_to_frames(torch.full((3, 1, 2, 2), 7.0)).max() == 255


def test_mirrored_frames_are_taken():
    frames = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    assert torch.equal(frames_to_video(frames[:, :, ::-1]), frames_to_video(frames).flip(-1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), r"got a ndarray of float32 \(2, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), np.uint8), r"uint8, F H W 3; got a ndarray of uint8 \(4, 4, 3\)"),
        (np.zeros((2, 3, 4, 4), np.uint8), r"\(2, 3, 4, 4\)"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), r"got a Tensor of torch\.uint8"),
        ([np.zeros((4, 4, 3), np.uint8)], "got a list"),
    ],
)
def test_what_are_no_frames_is_told(wrong, message):
    with pytest.raises(ValueError, match=message):
        frames_to_video(wrong)


@pytest.mark.parametrize("wrong", [torch.zeros(1, 3, 2, 4, 4), torch.zeros(3, 2, 4, 4, dtype=torch.uint8), np.zeros(3)])
def test_what_is_no_video_is_told(wrong):
    with pytest.raises(ValueError, match=r"a floating point tensor 3 F H W in \[-1, 1\]; got a"):
        video_to_frames(wrong)


@pytest.mark.parametrize("rounding", ["nearest", "nearest even", "truncate"])
def test_whole_levels_stay_whatever_the_rounding(rounding):
    levels = torch.arange(256, dtype=torch.uint8)
    for floats in (levels.float() / 127.5 - 1, levels.float() / 255 * 2 - 1):
        assert torch.equal(floats_to_levels(floats, rounding), levels)


def test_roundings_differ_between_levels():
    between = torch.tensor([-2.0, 100.4, 100.6, 254.7, 300.0]) / 127.5 - 1
    assert floats_to_levels(between, "nearest").tolist() == [0, 100, 101, 255, 255]
    assert floats_to_levels(between, "truncate").tolist() == [0, 100, 100, 254, 255]
    halfway = torch.tensor([100.5, 101.5]) / 127.5 - 1
    assert floats_to_levels(halfway, "nearest").tolist() == [101, 102]
    assert floats_to_levels(halfway, "nearest even").tolist() == [100, 102]
