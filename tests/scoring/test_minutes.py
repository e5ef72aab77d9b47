"""Generated minutes beside real ones: of the same classes, at both ends."""

import json
from pathlib import Path

import pytest
from tiny_models import random_clips

from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.levels import video_to_frames
from evagen.scoring.minutes import compare_minutes

LONG, SHORT = 24, 12
"""Frames, at one a second."""


def videos(*named: tuple[int, str | None], frames: int = LONG):
    return [(random_clips(1, number, frames=frames)[0], name) for number, name in named]


def sampled(folder: Path, *named: tuple[int, str | None]) -> Path:
    """A run folder of `evagen sample` with these videos."""
    rows = []
    for number, (video, name) in enumerate(videos(*named)):
        write_video(folder / f"{number}.mkv", video_to_frames(video), 15)
        rows.append(json.dumps({"number": number, "path": f"{number}.mkv", "class": name}) + "\n")
    (folder / "tokens.jsonl").write_text("".join(rows))
    return folder


def test_classes_that_one_side_lacks_are_left_out(tmp_path):
    few = sampled(tmp_path / "few", (1, "Boxing"), (2, "Tennis"))
    more = sampled(tmp_path / "more", (1, "Boxing"), (3, "Skiing"), (2, "Tennis"))
    real = videos((4, "Boxing"), (5, "Tennis"))
    alone = compare_minutes(few, real, 1)
    assert (alone.videos, alone.real_videos) == (2, 2)
    assert compare_minutes(more, [*real, *videos((6, "Frogger"))], 1) == alone


def test_without_classes_all_are_compared(tmp_path):
    samples = sampled(tmp_path / "samples", (1, "Boxing"), (2, "Tennis"))
    assert compare_minutes(samples, videos((4, None), (5, None), (6, None)), 1).videos == 2


def test_a_single_clip_is_told(tmp_path):
    with pytest.raises(UserError, match="10 seconds of 1 video are a single clip of 10 frames"):
        compare_minutes(sampled(tmp_path / "samples", (1, "Boxing")), videos((4, "Boxing")), 1)


def test_no_class_on_both_sides_is_told(tmp_path):
    samples = sampled(tmp_path / "samples", *enumerate(("Boxing", "Pong", "Skiing", "Tennis")))
    message = "are of Boxing, Pong, Skiing and 1 more, the real videos of Frogger: no class is on both sides"
    with pytest.raises(UserError, match=message):
        compare_minutes(samples, videos((4, "Frogger")), 1)


def test_the_same_videos_are_as_far_apart_as_their_own_ends(tmp_path):
    samples = sampled(tmp_path / "samples", (1, "Boxing"), (2, "Tennis"))
    same = compare_minutes(samples, videos((1, "Boxing"), (2, "Tennis")), 1)
    assert same.frechet_first_to_last == pytest.approx(same.frechet_real, rel=0.01)
    assert same.frechet_last_to_real == pytest.approx(same.frechet_real, rel=0.01)
    assert same.frechet_first_to_real < 0.01 * same.frechet_real
    assert same.moving_first == pytest.approx(same.moving_real, rel=0.01)
    assert f"of real videos {same.frechet_real:.1f}" in same.table()


def test_real_videos_too_short_for_two_ends_are_not_held_against_themselves(tmp_path):
    samples = sampled(tmp_path / "samples", (1, "Boxing"), (2, "Boxing"))
    found = compare_minutes(samples, videos((1, "Boxing"), (2, "Boxing"), frames=SHORT), 1)
    assert found.frechet_real is None
    assert "of real videos" not in found.table()


def test_real_videos_of_less_than_ten_seconds_are_told(tmp_path):
    samples = sampled(tmp_path / "samples", (1, "Boxing"), (2, "Boxing"))
    with pytest.raises(UserError, match="real videos of 8 frames are less than the 10 seconds, 10 frames"):
        compare_minutes(samples, videos((1, "Boxing"), frames=8), 1)
