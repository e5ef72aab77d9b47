"""Video files: frames out. Decoding is FFmpeg's, through PyAV.

    frames = read_frames("clip.avi", start=10, count=16)        # uint8 F H W C, RGB
    video = frames_to_video(frames)                             # float32 C F H W in [-1, 1], of evagen.kernels.levels

A frame is counted as decoded: frame 7 is the eighth in the order of showing, whatever its time stamp,
so that videos with variable frame rates have the same frames for everybody (`evagen.data.frame_times` counts them).
It comes as a player shows it (`evagen.data.shown_frame`), from files that may be bad (`evagen.data.video_file`).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import DTypeLike

from evagen.data.frame_times import count_frames, frame_rate, frame_times
from evagen.data.shown_frame import ShownFrame
from evagen.data.video_file import SECONDS_WITHOUT_FRAME, VideoError, VideoPath, check_whole, opened, shown_frames
from evagen.kernels.strides import Stride, frame_offset

# Seeking costs a pass over the file's packets, about as long as decoding so many frames of 320x240: key frames before
# the first of these numbers are not worth it. The second is for files which do not tell where their key frames are.
_SEEK_FROM_FRAME = 8
_SEEK_WITHOUT_INDEX = 48

# FFmpeg's default conversion from 4:2:0 to RGB repeats chroma samples and darkens by a level: 31 dB on
# saturated colours, where these settings keep 47 dB for about a millisecond a frame.
_TO_RGB = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


Made = TypeVar("Made")


def read_frames(path: VideoPath, start: int = 0, count: int | None = None, stride: Stride = 1) -> np.ndarray:
    """Decodes the frames `start`, `start + stride`, ... of a video, or those nearest to them (`frame_offset`); nothing
    after the last one is decoded.

    Returns uint8 `F H W C` (RGB, 0 to 255, as shown: upright, with square pixels), F = `count`, or as
    many as there are for `count=None`. Raises VideoError when the file cannot be decoded, when a needed
    frame is damaged, or when the video is too short or changes its size; ValueError for impossible arguments."""
    return _stacked(path, decode(path, RgbConverter(), start, count, stride))


def read_numbered(path: VideoPath, numbers: Sequence[int]) -> np.ndarray:
    """The frames of these numbers, which rise or repeat, as `read_frames` returns them: uint8 `F H W C`, F =
    `len(numbers)`. Frames between them are decoded and not converted. Raises what `read_frames` raises."""
    distinct = sorted(set(numbers))
    if not distinct or distinct[0] < 0 or list(numbers) != sorted(numbers):
        raise ValueError(f"frame numbers should rise from at least 0, not {list(numbers)}")
    wanted = _Wanted(path, RgbConverter(), len(distinct), distinct.__getitem__)
    frames = _stacked(path, _decoded(wanted))  # distinct H W C
    return frames[np.searchsorted(distinct, numbers)]


def _stacked(path: VideoPath, frames: Sequence[np.ndarray]) -> np.ndarray:
    """Frames C H W → F H W C."""
    if any(frame.shape != frames[0].shape for frame in frames):
        raise VideoError(path, "has frames of several sizes")
    return np.stack(frames).transpose(0, 2, 3, 1)


def decode(
    path: VideoPath,
    convert: Callable[[ShownFrame], Made],
    start: int = 0,
    count: int | None = None,
    stride: Stride = 1,
) -> list[Made]:
    """What `convert` makes of each frame that `read_frames` would return; it is called before the next frame is
    decoded. Raises what `read_frames` raises."""
    if start < 0 or stride < 1 or (count is not None and count < 1):
        raise ValueError(f"start={start}, count={count}, stride={stride}: need start >= 0, count >= 1, stride >= 1")
    return _decoded(_Wanted(path, convert, count, lambda index: start + frame_offset(index, stride)))


def _decoded(wanted: "_Wanted[Made]") -> list[Made]:
    path = wanted.path
    with opened(path) as (container, stream):
        seeking = _seeking_pays(stream, wanted.start)
        made = (
            _decode_after_seek(wanted, container, stream)
            if seeking
            else wanted.take(shown_frames(path, container, stream))
        )
    if made is None:
        with opened(path) as (container, stream):
            made = wanted.take(shown_frames(path, container, stream))
    if not made or (wanted.count is not None and len(made) < wanted.count):
        last = wanted.number_of((wanted.count or 1) - 1)
        raise VideoError(path, f"too short: frame {last} was asked for, it has {count_frames(path)} frames")
    return made


class RgbConverter:
    """Makes uint8 `C H W` (RGB, as shown) of decoded frames, one after another."""

    def __init__(self) -> None:
        self.converter = VideoReformatter()

    def __call__(self, shown: ShownFrame) -> np.ndarray:
        frame, (height, width) = shown.plain, shown.square_shape
        # The same values as rgb24, three times as fast: FFmpeg has no vector code for accurate packed RGB.
        planar = frame.format.name.startswith("yuv")
        rgb = self.converter.reformat(
            frame, width, height, "gbrp" if planar else "rgb24", interpolation=_TO_RGB, threads=1
        )
        if planar:
            return np.stack(upright_planes(shown, rgb, np.uint8))
        return shown.upright(rgb.to_ndarray()).transpose(2, 0, 1)


def upright_planes(shown: ShownFrame, frame: av.VideoFrame, dtype: DTypeLike) -> list[np.ndarray]:
    """Red, green and blue `H W` as shown, of what was made of a frame in one of FFmpeg's `gbrp` formats; views of its
    memory, rows of which are padded."""
    planes = (np.frombuffer(memoryview(frame.planes[n]), dtype).reshape(frame.height, -1) for n in (2, 0, 1))
    return [shown.upright(plane[:, : frame.width]) for plane in planes]


def iterate_frames(path: VideoPath) -> Iterator[np.ndarray]:
    """All frames of a video in turn, uint8 `H W C` as from `read_frames`, one in memory at a time.

    Raises VideoError, on the way, when the file cannot be decoded to its end or when it holds no frame."""
    for frame, _ in decoded_frames(path, RgbConverter()):
        yield np.ascontiguousarray(frame.transpose(1, 2, 0))


def decoded_frames(path: VideoPath, convert: Callable[[ShownFrame], Made]) -> Iterator[tuple[Made, VideoStream]]:
    """What `convert` makes of each frame of a video as they are decoded, with the stream that they are from. Raises as
    `iterate_frames`."""
    empty = True
    with opened(path) as (container, stream):
        for shown in shown_frames(path, container, stream):
            empty = False
            check_whole(path, shown)
            yield convert(shown), stream
    if empty:
        raise VideoError(path, "holds no frame")


@dataclass(frozen=True)
class VideoHeader:
    """What a file says of its video, without decoding it. frames: that are there; promised_frames: by the header's
    count, or by its duration at a mean rate, so not quite; 0 where it says neither; width and height: as stored, in
    pixels."""

    frames: int
    promised_frames: int
    frames_per_second: float
    width: int
    height: int

    @property
    def seconds(self) -> float:
        return self.frames / self.frames_per_second


def read_header(path: VideoPath) -> VideoHeader:
    """Raises VideoError when the file cannot be opened as a video, or does not tell its frame rate."""
    rate = frame_rate(path)
    with opened(path) as (container, stream):
        promised = stream.frames
        if not promised and container.duration and len(container.streams) == 1:  # which sound could outlast
            promised = round(container.duration / 1e6 * rate)
        width, height = stream.codec_context.width, stream.codec_context.height
    return VideoHeader(count_frames(path), promised, rate, width, height)


@dataclass(frozen=True)
class _Wanted(Generic[Made]):
    """Which frames of a video are wanted, and what is to be made of them. count: how many, None for as many as the
    file has; number_of: the number in the file of the wanted frame of an index."""

    path: VideoPath
    convert: Callable[[ShownFrame], Made]
    count: int | None
    number_of: Callable[[int], int]

    @property
    def start(self) -> int:
        return self.number_of(0)

    def take(self, frames: Iterable[ShownFrame], first: int = 0) -> list[Made]:
        """From frames in the order of showing, of which the first is number `first`."""
        made: list[Made] = []
        due = self.start
        since = time.thread_time()
        for number, shown in enumerate(frames, start=first):
            if number != due:
                if time.thread_time() - since > SECONDS_WITHOUT_FRAME:
                    raise VideoError(self.path, f"frame {due} is not reached in {SECONDS_WITHOUT_FRAME} seconds")
                continue
            check_whole(self.path, shown)
            made.append(self.convert(shown))
            since = time.thread_time()
            if len(made) == self.count:
                break
            due = self.number_of(len(made))
        return made


def _seeking_pays(stream: VideoStream, start: int) -> bool:
    """Whether there is a key frame to start from that spares more than the seek costs."""
    entries = stream.index_entries
    if len(entries) <= start:
        return start >= _SEEK_WITHOUT_INDEX
    return any(entries[number].is_keyframe for number in range(start, _SEEK_FROM_FRAME - 1, -1))


class _UnexpectedTime(Exception):
    """Frames do not come with the time stamps that their packets had."""


def _decode_after_seek(
    wanted: _Wanted[Made], container: av.container.InputContainer, stream: VideoStream
) -> list[Made] | None:
    """Decodes from the last key frame shown at or before the first wanted frame. None when the time stamps that come
    out are not the ones expected, in which case only decoding from the beginning is sure to be right."""
    times = frame_times(wanted.path, container, stream)
    if times is None or wanted.start >= len(times.stamps):
        return None
    try:
        container.seek(times.stamps[wanted.start], stream=stream)
    except av.error.FFmpegError:  # not every format can
        return None
    frames = shown_frames(wanted.path, container, stream)
    try:
        return wanted.take(_from_time(frames, times.stamps, wanted.start), first=wanted.start)
    except _UnexpectedTime:
        return None


def _from_time(frames: Iterable[ShownFrame], times: Sequence[int], start: int) -> Iterator[ShownFrame]:
    """Frame number `start` and those after it, out of what is decoded after a seek to it."""
    position, after_key_frame = start, False
    for shown in frames:
        # Frames shown before the key frame may refer to ones from before the seek.
        after_key_frame = after_key_frame or shown.frame.key_frame
        pts = shown.frame.pts
        if position == start and pts is not None and pts < times[start]:
            continue
        if not after_key_frame or position >= len(times) or pts != times[position]:
            raise _UnexpectedTime
        yield shown
        position += 1
    if position < len(times):  # the seek went too far, or the end is damaged
        raise _UnexpectedTime
