"""Square clips: the quick conversion of YUV frames is the exact one up to rounding."""

import av
import numpy as np
import pytest
import torch
from video_fixtures import moving_frames, write_h264, write_uneven_h264

from evagen.data.square_clips import fit_square, iterate_square, iterate_whole, read_square
from evagen.data.video_reader import VideoError, read_frames
from evagen.data.video_writer import write_video


def levels_apart(path, size, place=None, start=0):
    """Difference of the two conversions, in levels of 255."""
    exact = fit_square(read_frames(path, start, 4), size, place)
    quick = read_square(path, start, 4, 1, size, place)
    assert quick.shape == exact.shape == (3, 4, size, size)
    assert quick.dtype == torch.float32
    assert quick.abs().max() <= 1
    return (quick - exact) * 127.5


@pytest.mark.parametrize(
    ("shape", "size", "place"),
    [((240, 320), 128, None), ((240, 320), 64, 0.9), ((60, 44), 96, 0.0), ((98, 150), 97, 0.5)],
)
def test_yuv_video_differs_from_the_exact_road_by_rounding(tmp_path, shape, size, place):
    write_video(tmp_path / "clip.avi", moving_frames(8, *shape), 25)
    apart = levels_apart(tmp_path / "clip.avi", size, place, start=2)
    assert apart.square().mean().sqrt() < 1.2  # these colours are as saturated as can be
    assert apart.mean().abs() < 0.1
    assert apart.abs().max() < 8


def test_grey_video_differs_by_less_than_a_level(tmp_path):
    write_video(tmp_path / "clip.avi", moving_frames(6, 240, 320)[..., :1].repeat(3, -1), 25)
    assert levels_apart(tmp_path / "clip.avi", 128).square().mean().sqrt() < 0.3


def test_white_black_and_grey_keep_their_levels(tmp_path):
    frames = np.repeat(np.array([0, 128, 255], np.uint8), 4)[:, None, None, None] * np.ones((1, 64, 96, 3), np.uint8)
    write_video(tmp_path / "clip.avi", frames, 25)
    square = (read_square(tmp_path / "clip.avi", 0, 12, 1, 32) + 1) * 127.5
    assert torch.allclose(square.mean(dim=(0, 2, 3)), torch.tensor([0, 128, 255]).repeat_interleave(4).float(), atol=1)


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_videos_filmed_sideways_are_cropped_upright(tmp_path, degrees):
    write_h264(tmp_path / "clip.mp4", moving_frames(6, 96, 160), rotation=degrees)
    assert levels_apart(tmp_path / "clip.mp4", 48, place=0.3).square().mean().sqrt() < 1.2


def test_odd_sizes_and_uneven_times(tmp_path):
    write_h264(tmp_path / "odd.mp4", moving_frames(6, 75, 101), pixel_format="yuv444p")
    assert levels_apart(tmp_path / "odd.mp4", 32).square().mean().sqrt() < 1.2
    write_uneven_h264(tmp_path / "uneven.mp4", moving_frames(40, 66, 118))
    assert levels_apart(tmp_path / "uneven.mp4", 32, start=29).square().mean().sqrt() < 1.2


@pytest.mark.parametrize(("suffix", "size"), [(".mkv", 32), (".gif", 32), (".avi", 64)])
def test_rgb_video_and_the_size_asked_for_take_the_exact_road(tmp_path, suffix, size):
    write_video(tmp_path / f"clip{suffix}", moving_frames(6, 64, 90), 25)
    assert not levels_apart(tmp_path / f"clip{suffix}", size).any()


def test_a_video_that_changes_its_size(tmp_path):
    """Two streams end to end, as some recorders leave them."""
    whole = b""
    for height, width in ((48, 64), (64, 96)):
        with av.open(str(tmp_path / "part.mpg"), "w", format="mpeg1video") as container:
            stream = container.add_stream("mpeg1video", rate=25)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for frame in moving_frames(4, height, width):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        whole += (tmp_path / "part.mpg").read_bytes()
    (tmp_path / "clip.mpg").write_bytes(whole)
    assert read_square(tmp_path / "clip.mpg", 0, 6, 1, 32).shape == (3, 6, 32, 32)
    with pytest.raises(VideoError, match="has frames of several sizes"):
        read_frames(tmp_path / "clip.mpg", 0, 6)


def test_too_short_says_so(tmp_path):
    write_video(tmp_path / "clip.avi", moving_frames(6), 25)
    with pytest.raises(VideoError, match="too short: frame 7 was asked for, it has 6 frames"):
        read_square(tmp_path / "clip.avi", 4, 4, 1, 32)


def test_frames_one_by_one_are_those_read_together(tmp_path):
    path = tmp_path / "a.mp4"
    write_h264(path, moving_frames(9, 48, 80), rotation=90)
    frames = torch.stack(list(iterate_square(path, 32)), dim=1)
    assert torch.equal(frames, read_square(path, 0, 9, 1, 32))


@pytest.mark.parametrize(("shape", "rotation", "whole"), [((96, 160), 0, (48, 80)), ((75, 102), 90, (65, 48))])
def test_whole_frames_are_square_ones_with_what_is_cropped(tmp_path, shape, rotation, whole):
    path = tmp_path / "clip.mp4"
    write_h264(path, moving_frames(6, *shape), pixel_format="yuv444p", rotation=rotation)
    frames = torch.stack(list(iterate_whole(path, 48)))
    assert frames.shape == (6, 3, *whole)
    top, left = ((side - 48) // 2 for side in whole)
    assert torch.equal(frames[..., top : top + 48, left : left + 48], torch.stack(list(iterate_square(path, 48))))


def test_whole_frames_that_are_strips_are_refused(tmp_path):
    write_video(tmp_path / "strip.mkv", moving_frames(4, 16, 400), 25)
    with pytest.raises(VideoError, match="frames of 400x16 pixels, with a side more than 8 times the other"):
        next(iterate_whole(tmp_path / "strip.mkv", 32))
