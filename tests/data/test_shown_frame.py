"""Videos are read as a player shows them, by both roads: whole RGB frames, and squares in 16 bits."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorTrc
from video_fixtures import quadrants, write_frames

from evagen.data.square_clips import read_square
from evagen.data.video_file import VideoError
from evagen.data.video_reader import iterate_frames, read_frames

ONE = 1 << 16
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(picture: np.ndarray) -> tuple:
    """The colours of the four quarters of a picture H W 3, in reading order, each channel 0 or 255."""
    height, width = picture.shape[:2]
    places = [(height // 4, width // 4), (height // 4, -width // 4), (-height // 4, width // 4)]
    places.append((-height // 4, -width // 4))
    return tuple(tuple(255 * (picture[place] > 127)) for place in places)


def read_both(path, size=32):
    """The first frame by each road, uint8 H W 3 and size x size x 3."""
    whole = read_frames(path, 0, 1)[0]
    square = ((read_square(path, 0, 1, 1, size)[:, 0] + 1) * 127.5).round().permute(1, 2, 0).byte().numpy()
    return whole, square


@pytest.fixture(scope="module")
def quadrants_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("quadrants") / "a.mp4"
    write_frames(path, [quadrants()] * 3)
    return path


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((-1, 0, 0, 1), (GREEN, RED, WHITE, BLUE)),  # a front camera
        ((1, 0, 0, -1), (BLUE, WHITE, RED, GREEN)),
        ((-1, 0, 0, -1), (WHITE, BLUE, GREEN, RED)),
        ((0, 1, -1, 0), (BLUE, RED, WHITE, GREEN)),  # a quarter turn to the right
        ((0, -1, 1, 0), (GREEN, WHITE, RED, BLUE)),
        ((0, 1, 1, 0), (RED, BLUE, GREEN, WHITE)),  # turned and mirrored
        ((0, -1, -1, 0), (WHITE, GREEN, BLUE, RED)),
        ((0, 0, 0, 0), (RED, GREEN, BLUE, WHITE)),  # says nothing
    ],
)
def test_the_whole_display_matrix_counts(quadrants_file, tmp_path, matrix, expected):
    data = bytearray(quadrants_file.read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = (ONE * value for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    whole, square = read_both(path)
    assert whole.shape == ((96, 64, 3) if matrix[1] else (64, 96, 3))
    assert corners(whole) == corners(square) == expected


@pytest.mark.parametrize(
    ("aspect", "shape"), [(Fraction(16, 11), (64, 140)), (Fraction(1, 2), (128, 96)), (Fraction(1), (64, 96))]
)
def test_pixels_become_square(tmp_path, aspect, shape):
    """A circle of the scene is one in what is read."""
    rows, columns = np.mgrid[:64, :96]
    wide, high = max(aspect, 1), max(1 / aspect, 1)
    circle = ((columns - 48) * float(wide)) ** 2 + ((rows - 32) * float(high)) ** 2 < 24**2
    write_frames(tmp_path / "a.mp4", [circle[..., None].repeat(3, -1).astype(np.uint8) * 255], aspect=aspect)
    whole, square = read_both(tmp_path / "a.mp4")
    assert whole.shape == (*shape, 3)
    for picture, diameter in ((whole, 48), (square, 48 * 32 / min(shape))):
        bright = picture[..., 1] > 127
        assert bright.any(0).sum() == pytest.approx(diameter, abs=2)
        assert bright.any(1).sum() == pytest.approx(diameter, abs=2)


def test_frames_of_absurd_shape_are_refused(tmp_path):
    write_frames(tmp_path / "a.mp4", [np.zeros((512, 600, 3), np.uint8)], aspect=Fraction(255))
    with pytest.raises(VideoError, match="has frames of 153000x512, more than 67108864 pixels"):
        read_frames(tmp_path / "a.mp4")


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "mp4"), ("mpeg2video", "mpg")])
def test_interlaced_frames_lose_their_combs(tmp_path, codec, suffix):
    """A bar that moves between the two fields of each frame."""
    frames = np.zeros((6, 64, 96, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[0::2, 8 * number : 8 * number + 24] = 255
        frame[1::2, 8 * number + 4 : 8 * number + 28] = 255
    write_frames(tmp_path / f"a.{suffix}", frames, codec, options={"flags": "+ilme+ildct"})
    read = read_frames(tmp_path / f"a.{suffix}").astype(int)
    assert np.abs(np.diff(read[:, 8:-8], axis=1)).mean() < 2  # the combs themselves have 21
    assert np.array_equal(read_frames(tmp_path / f"a.{suffix}", 3, 2), read[3:5])
    assert len(list(iterate_frames(tmp_path / f"a.{suffix}"))) == 6


def flat(levels, pixel_format: str = "yuv420p10le", **colours) -> av.VideoFrame:
    """Grey bars, 16 pixels wide, of these luma levels."""
    frame = av.VideoFrame(16 * len(levels), 64, pixel_format)
    deep = "10" in pixel_format
    for number, plane in enumerate(frame.planes):
        stored = np.frombuffer(memoryview(plane), np.uint16 if deep else np.uint8).reshape(plane.height, -1).copy()
        stored[:] = 512 if deep else 128
        if number == 0:
            stored[:, : frame.width] = np.repeat(levels, 16)
        plane.update(stored.tobytes())
    for name, value in colours.items():
        setattr(frame, name, value)
    return frame


def perceptual_quantizer(nits) -> np.ndarray:
    """SMPTE ST 2084: the signal in [0, 1] of a luminance."""
    power = (np.asarray(nits) / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def test_hdr_is_tone_mapped(tmp_path):
    """Black stays black, highlights stay apart, and what 8 bits show of a diffuse white is a light grey. Undone, 203
    nits are 148, one nit is 38, and black to 1 nit takes a sixth of the range."""
    levels = np.round(64 + 876 * perceptual_quantizer([0, 1, 203, 1000, 4000])).astype(int)
    colours = {"colorspace": 9, "color_range": 1, "color_trc": ColorTrc.SMPTE2084}
    pictures = [flat(levels, **colours, color_primaries=ColorPrimaries.BT2020)]
    write_frames(tmp_path / "a.mkv", pictures, "ffv1", "yuv420p10le")
    whole, square = read_both(tmp_path / "a.mkv", 64)
    shown = whole[32, 8::16].mean(-1)
    assert shown[0] == 0
    assert shown[1] < 30
    assert 140 < shown[2] < 190
    assert (np.diff(shown) > 15).all()
    assert np.abs(np.diff(whole[32, 8::16].astype(int))).max() <= 1  # grey
    assert np.abs(square[32, ::16].astype(int) - whole[32, 8:72:16]).max() <= 2


@pytest.mark.parametrize(
    ("pixel_format", "full", "levels"),
    [
        ("yuv420p", False, (16, 126, 235)), ("yuv420p", True, (0, 128, 255)), ("yuvj420p", True, (0, 128, 255)),
        ("yuv420p10le", False, (64, 504, 940)), ("yuv420p10le", True, (0, 512, 1023)),
        ("gray", True, (0, 128, 255)), ("gray10le", True, (0, 512, 1023)),
    ],
)  # fmt: skip
def test_black_grey_and_white_of_every_kind_of_pixel(tmp_path, pixel_format, full, levels):
    path = tmp_path / ("a.mkv" if "gray" in pixel_format else "a.mp4")
    codec = "ffv1" if "gray" in pixel_format else "libx264"
    options = {} if codec == "ffv1" else {"crf": "1"}
    write_frames(path, [flat(levels, pixel_format, color_range=2 if full else 1)], codec, pixel_format, options=options)
    whole, square = read_both(path)
    for row in (whole[32, 8::16], square[16, [2, 16, 30]]):
        assert np.abs(row - np.array([0, 128, 255])[:, None]).max() <= 2


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.mkv", "ffv1", "bgra"),
        ("a.mov", "qtrle", "argb"),
        ("a.mov", "png", "pal8"),
    ],
)
def test_alpha_and_palettes(tmp_path, name, codec, pixel_format):
    picture = quadrants()
    if pixel_format == "pal8":
        numbers = picture.argmax(-1).astype(np.uint8) + 3 * (picture.min(-1) > 0)  # 0 to 3
        palette = np.zeros((256, 4), np.uint8)
        palette[:4] = [(255, *colour) for colour in (RED, GREEN, BLUE, WHITE)]  # alpha first
        frame = av.VideoFrame.from_ndarray((numbers.astype(np.uint8), palette), format="pal8")
    else:
        frame = av.VideoFrame.from_ndarray(np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)]), "rgba")
    write_frames(tmp_path / name, [frame], codec, pixel_format)
    for read in read_both(tmp_path / name):
        assert corners(read) == (RED, GREEN, BLUE, WHITE)
