"""Writing video files: what each format holds, and whole files or none."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from video_fixtures import moving_frames

from evagen.data.found_files import find_videos
from evagen.data.video_reader import count_frames, frame_rate, read_frames
from evagen.data.video_writer import join_videos, write_video
from evagen.errors import UserError


def test_xvid_is_what_the_avi_holds_and_it_is_faithful(tmp_path):
    frames = moving_frames(20, 240, 320)
    write_video(tmp_path / "clip.avi", frames, fps=25)
    with av.open(str(tmp_path / "clip.avi")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.codec_tag) == ("mpeg4", "XVID")
        assert stream.average_rate == 25
    error = read_frames(tmp_path / "clip.avi").astype(float) - frames
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 38
    assert np.abs(error.mean(axis=(0, 1, 2))).max() < 0.3  # neither darker nor tinted


@pytest.mark.parametrize(
    ("name", "fps"),
    [("a.gif", 1e-3), ("a.gif", 120), ("a.mkv", 1e5), ("a.avi", 1e5), ("a.mp4", 1e-9), ("a.mp4", np.nan)],
)
def test_a_rate_that_a_format_cannot_hold_is_refused(tmp_path, name, fps):
    with pytest.raises(UserError, match="frames a second, not"):
        write_video(tmp_path / name, np.zeros((3, 32, 32, 3), np.uint8), fps)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
@pytest.mark.parametrize("fps", [1e-3, 1000])
def test_the_rates_that_a_format_can_hold_are_written(tmp_path, suffix, fps):
    write_video(tmp_path / f"a{suffix}", np.zeros((3, 32, 32, 3), np.uint8), fps)
    assert frame_rate(tmp_path / f"a{suffix}") == pytest.approx(fps)


def test_ffv1_is_lossless_for_odd_sizes_too(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 37, 51, 3), dtype=np.uint8)
    write_video(tmp_path / "clip.mkv", frames, fps=12.5)
    assert np.array_equal(read_frames(tmp_path / "clip.mkv"), frames)


def test_an_mp4_says_by_which_colours_it_is_to_be_shown(tmp_path):
    """Players guess otherwise, and take HD for BT.709. The others have no room for it, or hold RGB."""
    frames = np.full((3, 720, 1280, 3), (220, 40, 40), np.uint8)
    write_video(tmp_path / "a.mp4", frames, 25)
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        said = context.colorspace, context.color_range, context.color_primaries, context.color_trc
    assert said == (Colorspace.ITU601, ColorRange.MPEG, ColorPrimaries.BT709, ColorTrc.IEC61966_2_1)
    assert np.abs(read_frames(tmp_path / "a.mp4").astype(int) - frames).max() <= 2


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_odd_sizes_gain_a_repeated_row_and_column(tmp_path, suffix):
    frames = moving_frames(6, 121, 161)
    write_video(tmp_path / f"clip{suffix}", frames, fps=25)
    padded = read_frames(tmp_path / f"clip{suffix}").astype(float)
    assert padded.shape == (6, 122, 162, 3)
    assert np.abs(padded[:, :121, :161] - frames).mean() < 3
    assert np.abs(padded[:, 121, :161] - frames[:, 120]).mean() < 6


def test_gif_shows_the_frames_at_the_asked_rate(tmp_path):
    frames = moving_frames(8)
    write_video(tmp_path / "clip.gif", frames, fps=10)
    shown = iio.imread(tmp_path / "clip.gif")
    assert np.abs(shown[..., :3].astype(float) - frames).mean() < 10
    assert iio.immeta(tmp_path / "clip.gif")["duration"] == 100


def bytes_in(folder: Path) -> int:
    """Files may go while they are looked at."""
    total = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def test_a_killed_writer_leaves_no_half_file(tmp_path):
    code = (
        "import itertools, sys; sys.path.insert(0, 'tests'); from video_fixtures import moving_frames\n"
        "from evagen.data.video_writer import write_video\n"
        "frames = itertools.cycle(moving_frames(4, 240, 320)); print('writing', flush=True)\n"
        f"write_video({str(tmp_path / 'clip.mp4')!r}, frames, 25)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline() == b"writing\n"
        while not bytes_in(tmp_path):
            assert writer.poll() is None
            time.sleep(0.01)
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    assert [path.name[0] for path in tmp_path.iterdir()] == ["."]
    assert not find_videos(tmp_path).videos


def test_impossible_frames_and_names_are_refused_and_leave_nothing(tmp_path):
    frames = moving_frames(2)
    with pytest.raises(ValueError, match="numpy arrays, not Tensor: video_to_frames"):
        write_video(tmp_path / "a.avi", torch.zeros(2, 48, 64, 3, dtype=torch.uint8), 25)
    with pytest.raises(ValueError, match=r"uint8 F H W 3, not float32 \(2, 48, 64, 3\)"):
        write_video(tmp_path / "clip.avi", frames.astype(np.float32), fps=25)
    with pytest.raises(UserError, match=r"clip.webm: the name should end in one of .avi, .mp4, .mkv, .gif"):
        write_video(tmp_path / "clip.webm", frames, fps=25)
    assert not list(tmp_path.iterdir())


def test_joined_parts_are_the_parts_one_after_another(tmp_path):
    frames, parts = moving_frames(75, 48, 64), []
    for number, (start, end) in enumerate([(0, 32), (32, 64), (64, 75)]):
        parts.append(tmp_path / f"{number}.mp4")
        write_video(parts[-1], frames[start:end], 25)
    join_videos(tmp_path / "whole.mp4", parts)
    whole = read_frames(tmp_path / "whole.mp4")
    assert np.array_equal(whole, np.concatenate([read_frames(part) for part in parts]))
    assert (count_frames(tmp_path / "whole.mp4"), frame_rate(tmp_path / "whole.mp4")) == (75, 25)
