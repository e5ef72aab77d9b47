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
