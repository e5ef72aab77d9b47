"""Reading video files: random access, uneven files, damaged files."""

import math
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from video_fixtures import (
    decode_all,
    moving_frames,
    write_begun_early,
    write_frames,
    write_h264,
    write_sound,
    write_uneven_h264,
)

from evagen.data.video_reader import VideoError, count_frames, read_frames, read_header, read_numbered
from evagen.data.video_writer import write_video

NUM_FRAMES = 130


@pytest.fixture(scope="module")
def long_videos(tmp_path_factory):
    """Long enough that reading seeks: XviD, H.264 even and uneven in time, FFV1, GIF, XviD and H.264 with B-frames,
    H.264 that begins with frames that cannot be decoded."""
    folder = tmp_path_factory.mktemp("videos")
    frames = moving_frames(NUM_FRAMES)
    for suffix in (".avi", ".mp4", ".mkv", ".gif"):
        write_video(folder / f"even{suffix}", frames, fps=25)
    write_uneven_h264(folder / "uneven.mp4", frames)
    write_begun_early(folder / "begun_early.mp4", moving_frames(20 + NUM_FRAMES))
    write_frames(folder / "h264.avi", frames, options={"x264-params": "keyint=30"})
    with av.open(str(folder / "b_frames.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"bf": "2", "g": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return {path.name: (path, decode_all(path)) for path in sorted(folder.iterdir())}


LONG_VIDEOS = (
    "even.avi", "even.mp4", "even.mkv", "even.gif", "uneven.mp4", "b_frames.avi", "h264.avi", "begun_early.mp4",
)  # fmt: skip


@pytest.mark.parametrize("name", LONG_VIDEOS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_access_equals_decoding_everything(name, data, long_videos):
    path, everything = long_videos[name]
    start = data.draw(st.integers(0, NUM_FRAMES - 1))
    stride = data.draw(st.integers(1, 5) | st.fractions(1, 5, max_denominator=9))
    count = data.draw(st.integers(1, int((NUM_FRAMES - 1 - start) / stride) + 1))
    numbers = [start + math.ceil(number * stride - Fraction(1, 2)) for number in range(count)]
    expected = everything[numbers]
    assert np.array_equal(read_frames(path, start, count, stride), expected)


@pytest.mark.parametrize("name", ["h264.avi", "begun_early.mp4"])
def test_every_frame_by_itself(name, long_videos):
    path, everything = long_videos[name]
    for start in range(30, 70):
        assert np.array_equal(read_frames(path, start, 1), everything[start : start + 1]), start


def test_all_frames_from_a_start(long_videos):
    for path, everything in long_videos.values():
        assert count_frames(path) == len(everything) == NUM_FRAMES
        assert np.array_equal(read_frames(path), everything)
        assert np.array_equal(read_frames(path, start=100, stride=3), everything[100::3])


def test_nothing_is_decoded_after_the_last_needed_frame(tmp_path):
    write_video(tmp_path / "whole.avi", moving_frames(60), fps=25)
    data = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: int(len(data) * 0.9)])
    with pytest.raises(VideoError):
        read_frames(tmp_path / "cut.avi", count=60)
    assert len(read_frames(tmp_path / "cut.avi", count=40)) == 40


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_a_video_filmed_sideways_is_turned_upright(tmp_path, degrees):
    frames = np.zeros((3, 32, 64, 3), dtype=np.uint8)
    frames[:, :16, :16] = 255  # a white square in the upper left corner
    write_h264(tmp_path / "turned.mp4", frames, rotation=degrees)
    upright = read_frames(tmp_path / "turned.mp4")[0]
    # Counter-clockwise turns take the upper left corner to the lower left, the lower right, the upper right.
    corner = {90: np.s_[-16:, :16], 180: np.s_[-16:, -16:], -90: np.s_[:16, -16:]}[degrees]
    assert upright.shape == ((32, 64, 3) if degrees == 180 else (64, 32, 3))
    assert upright[corner].mean() > 240
    assert upright.mean() < 255 / 8 + 5


@pytest.mark.parametrize("content", [b"", bytes(5000), b"this is a text, not a video\n" * 50])
def test_what_is_not_a_video_says_so(tmp_path, content):
    path = tmp_path / "fake.avi"
    path.write_bytes(content)
    for use in (count_frames, read_frames):
        with pytest.raises(VideoError, match=r"fake.avi: cannot be read as a video"):
            use(path)


def test_missing_files_and_sound_without_a_picture(tmp_path):
    with pytest.raises(VideoError, match="No such file"):
        count_frames(tmp_path / "absent.avi")
    with pytest.raises(VideoError, match="No such file"):
        read_frames(tmp_path / "absent.avi", start=100)
    write_sound(tmp_path / "sound.wav")
    with pytest.raises(VideoError, match="holds no video stream"):
        count_frames(tmp_path / "sound.wav")


def test_a_truncated_file_has_the_frames_it_has_not_those_it_claims(tmp_path):
    write_video(tmp_path / "whole.avi", moving_frames(60), fps=25)
    data = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    assert 10 < count_frames(tmp_path / "cut.avi") < 40
    with pytest.raises(VideoError, match=r"too short: frame 59 was asked for, it has \d\d frames"):
        read_frames(tmp_path / "cut.avi", start=50, count=10)


def test_a_truncated_file_with_its_index_in_front_is_not_believed_either(tmp_path):
    path = tmp_path / "clip.mp4"
    write_uneven_h264(path, moving_frames(60), index_in_front=True)
    assert count_frames(path) == 60
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    assert count_frames(path) < 60


def test_a_later_clip_is_found_without_decoding_what_comes_before(tmp_path):
    path = tmp_path / "clip.mp4"
    write_uneven_h264(path, moving_frames(NUM_FRAMES))
    expected = decode_all(path)[100:108]
    with av.open(str(path)) as container:
        damaged = [packet for packet in container.demux(video=0) if packet.size][5]
        position, size = damaged.pos, damaged.size
    data = path.read_bytes()
    path.write_bytes(data[:position] + b"\xff" * size + data[position + size :])
    with pytest.raises(VideoError):
        read_frames(path, count=16)
    assert np.array_equal(read_frames(path, start=100, count=8), expected)


def test_too_short_counts_with_the_stride(tmp_path):
    write_video(tmp_path / "clip.avi", moving_frames(10), fps=25)
    assert len(read_frames(tmp_path / "clip.avi", start=1, count=5, stride=2)) == 5
    with pytest.raises(VideoError, match="frame 10 was asked for, it has 10 frames"):
        read_frames(tmp_path / "clip.avi", start=2, count=5, stride=2)
    with pytest.raises(VideoError, match="frame 200 was asked for"):
        read_frames(tmp_path / "clip.avi", start=200)


@pytest.mark.parametrize("numbers", [(0,), (3, 3, 4), (20, 31, 31, 46), (5, 129)])
def test_frames_by_their_numbers(long_videos, numbers):
    for path, everything in long_videos.values():
        assert np.array_equal(read_numbered(path, numbers), everything[list(numbers)])


def test_numbers_of_no_frame_are_refused(long_videos):
    path, _ = long_videos["even.avi"]
    with pytest.raises(VideoError, match="too short: frame 130 was asked for, it has 130 frames"):
        read_numbered(path, (3, NUM_FRAMES))
    for numbers in ((), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="frame numbers should rise from at least 0"):
            read_numbered(path, numbers)


def test_impossible_arguments(tmp_path):
    with pytest.raises(ValueError, match="start=-1"):
        read_frames(tmp_path / "clip.avi", start=-1)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_header_tells_what_is_there_and_what_was_promised(tmp_path, name):
    path = tmp_path / name
    write_video(path, moving_frames(60), 25)
    header = read_header(path)
    assert (header.frames, header.width, header.height, header.seconds) == (60, 64, 48, 2.4)
    assert header.promised_frames == 60
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if name != "a.mp4":  # which has its index at the end, and cannot be read
        assert read_header(path).frames < 50 < read_header(path).promised_frames
