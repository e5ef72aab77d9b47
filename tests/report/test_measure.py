"""What the report measures of generated clips, against results worked out by hand."""

import pytest
import torch

from evagen.eval import frame_change, moving_share
from evagen.report.measure import compare_movement, count_length_patterns


def blinking(levels: list[float], frames: int = 4) -> torch.Tensor:
    """For each level a clip `3 F 4 4` that is black but for one pixel, which has that brightness above black in the
    last frame."""
    video = torch.full((len(levels), 3, frames, 4, 4), -1.0)
    for clip, level in zip(video, levels):
        clip[:, -1, 0, 0] += level
    return video


def test_movement_is_the_mean_over_clips_of_each_set():
    real, generated = blinking([1.0, 1.0, 1.0, 2.0]), blinking([0.5, 0.0])
    change = compare_movement(frame_change, generated, real)
    pixels = 3 * 16  # of three steps from frame to frame
    assert change == pytest.approx({"generated": 0.25 / pixels, "real": 1.25 / pixels, "ratio": 0.2})
    share = compare_movement(moving_share, generated, real)
    places = 4 * 16
    assert share == pytest.approx({"generated": 0.5 / places, "real": 1 / places, "ratio": 0.5})


def test_without_movement_in_real_clips_there_is_no_ratio():
    for measure in (frame_change, moving_share):
        found = compare_movement(measure, blinking([1.0]), blinking([0.0, 0.0]))
        assert found["generated"] > 0
        assert (found["real"], found["ratio"]) == (0.0, None)


def test_length_patterns_are_counted_within_each_class():
    chosen = [("a", [4, 16]), ("a", [16, 4]), ("a", [4, 16]), ("b", [4, 16])]
    rows = [{"class": name, "lengths": lengths, "codes": []} for name, lengths in chosen]
    assert count_length_patterns(rows) == {"a": 2, "b": 1}
