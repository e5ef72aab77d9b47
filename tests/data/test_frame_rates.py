"""Clips at a rate of their own, from files of several rates."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from video_fixtures import config, decode_all, moving_frames, write_uneven_h264

from evagen.config import check_config
from evagen.data import frame_counts
from evagen.data.clips import ClipDataset
from evagen.data.file_memory import FileMemory, file_state
from evagen.data.frame_counts import all_frame_rates, count_all_frames
from evagen.data.frame_times import exact_frame_rate, frame_rate
from evagen.data.sources import DataConfig
from evagen.data.video_file import VideoError
from evagen.data.video_reader import read_frames
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.strides import frame_offset

NUM_FRAMES = 150
RATES = {"24": Fraction(24), "25": Fraction(25), "29.97": Fraction(30000, 1001), "30": Fraction(30), "uneven": None}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder for each rate with one H.264 video, long enough that reading seeks, and all frames of it."""
    root, found = tmp_path_factory.mktemp("rates"), {}
    for name, rate in RATES.items():
        (root / name).mkdir()
        path, frames = root / name / "video.mp4", moving_frames(NUM_FRAMES, 32, 32)
        write_even_h264(path, frames, rate) if rate else write_uneven_h264(path, frames)
        with av.open(str(path)) as container:
            average = container.streams.video[0].average_rate
        assert rate in (average, None)
        found[name] = path, average, decode_all(path)
    return found


def write_even_h264(path: Path, frames: np.ndarray, rate: Fraction) -> None:
    """With B-frames, and a key frame every 12 frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"g": "12", "bf": "3", "sc_threshold": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def nearest(rate: Fraction, asked: Fraction, number: int) -> int:
    """The frame whose time is nearest to that of frame `number` of a clip which begins with frame 0, the earlier of
    two: by trying all."""
    return min(range(NUM_FRAMES), key=lambda frame: (abs(Fraction(frame) / rate - Fraction(number) / asked), frame))


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("asked", [3.0, 7.5, 10.0, 20.0])
@pytest.mark.parametrize("clip", ["first", "centre", "all", "random"])
def test_clips_are_the_frames_nearest_in_time_picked_out_of_the_whole_video(videos, name, asked, clip):
    path, rate, everything = videos[name]
    dataset = ClipDataset(config(path.parent, frames=5, frames_per_second=asked, clip=clip))
    offsets = [nearest(rate, Fraction(asked), number) for number in range(5)]
    assert len(set(offsets)) == 5
    for key in range(len(dataset) * (4 if clip == "random" else 1)):
        found = dataset[key]
        expected = everything[[found.start + offset for offset in offsets]]
        assert torch.allclose(found.video, torch.from_numpy(expected).permute(3, 0, 1, 2) / 127.5 - 1, atol=1e-6)
        assert np.array_equal(read_frames(path, found.start, 5, rate / Fraction(asked)), expected)


def test_two_frames_equally_near_give_the_earlier():
    """24 a second read at 16: after 1.5 frames, 3, 4.5, 6."""
    assert [frame_offset(number, Fraction(24, 16)) for number in range(5)] == [0, 1, 3, 4, 6]
    assert [frame_offset(number, 3) for number in range(4)] == [0, 3, 6, 9]


def test_windows_and_random_starts_go_as_far_as_the_video(videos):
    path, _, _ = videos["25"]  # at 3 a second frames 0, 8, 17, 25, 33, and 42 of the next window
    settings = {"frames": 5, "frames_per_second": 3.0}
    starts = [clip.start for clip in ClipDataset(config(path.parent, clip="all", **settings))]
    assert starts == [0, 42, 84]  # the last possible first frame is 116
    assert ClipDataset(config(path.parent, clip="centre", **settings))[0].start == 58
    dataset = ClipDataset(config(path.parent, clip="random", **settings))
    drawn = [dataset[key].start for key in range(100)]
    assert min(drawn) in range(10)
    assert max(drawn) in range(107, 117)


def test_a_whole_multiple_is_a_stride(videos):
    path, _, _ = videos["30"]
    for clip in ("all", "random"):
        rate, stride = (
            ClipDataset(config(path.parent, clip=clip, **{key: value}))
            for key, value in (("frames_per_second", 10.0), ("stride", 3))
        )
        assert len(rate) == len(stride)
        for key in range(len(rate)):
            assert rate[key].start == stride[key].start
            assert torch.equal(rate[key].video, stride[key].video)


def test_a_file_of_a_lower_rate_is_left_out_and_one_that_is_nearly_as_fast_gives_every_frame(videos, tmp_path):
    for name in ("24", "29.97", "30"):
        os.link(videos[name][0], tmp_path / f"{name}.mp4")
    dataset = ClipDataset(config(tmp_path, frames=100, frames_per_second=30.0, clip="first"))
    assert [os.path.basename(path) for path in dataset.paths] == ["29.97.mp4", "30.mp4"]
    (skipped,) = dataset.skipped
    assert skipped.path.endswith("24.mp4")
    assert skipped.reason == (
        "too slow: 24 frames a second, frames_per_second=30 needs as many; give 24 or less to read it"
    )
    every_frame = ClipDataset(config(tmp_path, frames=100, clip="first"))
    assert torch.equal(dataset[0].video, every_frame[1].video)
    with pytest.raises(UserError, match=r"(?s)no usable video in .*3 of 3 files skipped.*too slow: 24 frames"):
        ClipDataset(config(tmp_path, frames_per_second=31.0))
    with pytest.raises(UserError, match="too short: 150 frames, a clip needs 151"):
        ClipDataset(config(videos["30"][0].parent, frames=16, frames_per_second=3.0))


def test_what_comes_before_and_after_is_not_decoded(videos, tmp_path):
    """48 is a key frame, and the clip from there ends with frame 81."""
    path, rate, everything = videos["25"]
    with av.open(str(path)) as container:
        packets = sorted((packet.pts, packet.pos, packet.size) for packet in container.demux(video=0) if packet.size)
    data = bytearray(path.read_bytes())
    for _, position, size in (*packets[1:5], *packets[84:]):
        data[position + 5 : position + size] = b"\xff" * (size - 5)
    (tmp_path / "damaged.mp4").write_bytes(data)
    stride = rate / 3
    with pytest.raises(VideoError):
        read_frames(tmp_path / "damaged.mp4", 0, 5, stride)
    expected = everything[[48 + frame_offset(number, stride) for number in range(5)]]
    assert np.array_equal(read_frames(tmp_path / "damaged.mp4", 48, 5, stride), expected)


# The rates of files, remembered


def test_rates_are_remembered_beside_the_counts_and_older_counts_stay_good(videos, tmp_path, monkeypatch):
    monkeypatch.setenv("EVAGEN_CACHE", str(tmp_path / "cache"))
    paths = [str(path) for path, _, _ in videos.values()]
    with FileMemory("shown_frames") as memory:  # as before rates were known
        memory.remember([(path, file_state(path), NUM_FRAMES) for path in paths])
    opened = []

    def watched(path):
        opened.append(path)
        return exact_frame_rate(path)

    monkeypatch.setattr(frame_counts, "count_frames", None)  # nothing is counted again
    monkeypatch.setattr(frame_counts, "exact_frame_rate", watched)
    expected = [rate for _, rate, _ in videos.values()]
    for _ in range(2):
        assert count_all_frames(paths) == [NUM_FRAMES] * 5
        assert all_frame_rates(paths) == expected
    assert sorted(opened) == sorted(paths)  # once
    assert [frame_rate(path) for path in paths] == [float(rate) for rate in expected]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    assert isinstance(all_frame_rates([str(broken)])[0], VideoError)


def test_the_fingerprint_knows_the_rate_only_where_it_matters(tmp_path):
    seen = {}
    for rate in (24, 25):
        write_video(tmp_path / "a.avi", moving_frames(40, 32, 32), rate)
        for asked in (None, 3.0, 5.0):
            dataset = ClipDataset(config(tmp_path, clip="first", frames_per_second=asked))
            seen[rate, asked] = dataset.fingerprint()
        assert exact_frame_rate(tmp_path / "a.avi") == rate
    assert seen[24, None] == seen[25, None]
    assert len(set(seen.values())) == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stride": 2, "frames_per_second": 3}, "stride=2 and frames_per_second=3 both say how far apart"),
        ({"frames_per_second": 0}, "'frames_per_second' is 0: input should be greater than 0"),
    ],
)
def test_what_makes_no_rate_is_explained(values, message):
    with pytest.raises(UserError, match=message):
        check_config(DataConfig, {"root": "videos", "layout": "folder", **values}, "test")
