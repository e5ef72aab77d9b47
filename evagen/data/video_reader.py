"""Video files: frames out. Decoding is FFmpeg's, through PyAV.

    frames = read_frames("clip.avi", start=10, count=16)        # uint8 F H W C, RGB
    video = frames_to_video(frames)                             # float32 C F H W in [-1, 1], of evagen.kernels.levels

A frame is counted as stored: frame 7 is the eighth in the order of showing, whatever its time stamp,
so that videos with variable frame rates have the same frames for everybody.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Generic, Protocol, TypeVar

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import DTypeLike

from evagen.kernels.strides import Stride, frame_offset

# Seeking costs a pass over the file's packets, about as long as decoding so many frames of 320x240: key frames before
# the first of these numbers are not worth it. The second is for files which do not tell where their key frames are.
_SEEK_FROM_FRAME = 8
_SEEK_WITHOUT_INDEX = 48

# FFmpeg's default conversion from 4:2:0 to RGB repeats chroma samples and darkens by a level: 31 dB on
# saturated colours, where these settings keep 47 dB for about a millisecond a frame.
_TO_RGB = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


Made = TypeVar("Made")


class StoredVideo(Protocol):
    """A video inside another file, such as a row of a table; `str()` names it. Equal ones are the same video."""

    @property
    def file(self) -> str:
        """The file that holds it."""

    def open_stream(self) -> BinaryIO:
        """The bytes of a video file. Raises OSError."""


VideoPath = str | Path | StoredVideo


class VideoError(Exception):
    """A file that cannot be used as a video. `path` says which, `reason` says why."""

    def __init__(self, path: VideoPath, reason: str):
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def read_frames(path: VideoPath, start: int = 0, count: int | None = None, stride: Stride = 1) -> np.ndarray:
    """Decodes the frames `start`, `start + stride`, ... of a video, or those nearest to them (`frame_offset`); nothing
    after the last one is decoded.

    Returns uint8 `F H W C` (RGB, 0 to 255, turned upright where the file says so), F = `count`, or as
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
    convert: Callable[[av.VideoFrame], Made],
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
    with _opened(path) as (container, stream):
        seeking = _seeking_pays(stream, wanted.start)
        made = _decode_after_seek(wanted, container, stream) if seeking else wanted.take(container.decode(stream))
    if made is None:
        with _opened(path) as (container, stream):
            made = wanted.take(container.decode(stream))
    if not made or (wanted.count is not None and len(made) < wanted.count):
        last = wanted.number_of((wanted.count or 1) - 1)
        raise VideoError(path, f"too short: frame {last} was asked for, it has {count_frames(path)} frames")
    return made


class RgbConverter:
    """Makes uint8 `C H W` (RGB, upright) of decoded frames, one after another."""

    def __init__(self) -> None:
        self.converter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        if frame.format.name.startswith("yuv"):
            # The same values as rgb24, three times as fast: FFmpeg has no vector code for accurate packed RGB.
            rgb = self.converter.reformat(frame, format="gbrp", interpolation=_TO_RGB, threads=1)
            return np.stack(upright_planes(rgb, np.uint8, frame.rotation))
        rgb = self.converter.reformat(frame, format="rgb24", interpolation=_TO_RGB, threads=1)
        return np.rot90(rgb.to_ndarray(), k=round(frame.rotation / 90)).transpose(2, 0, 1)


def upright_planes(frame: av.VideoFrame, dtype: DTypeLike, rotation: float) -> list[np.ndarray]:
    """Red, green and blue `H W` of a frame of one of FFmpeg's `gbrp` formats, turned by as many degrees; views of the
    frame's memory, rows of which are padded."""
    planes = (np.frombuffer(memoryview(frame.planes[n]), dtype).reshape(frame.height, -1) for n in (2, 0, 1))
    return [np.rot90(plane[:, : frame.width], k=round(rotation / 90)) for plane in planes]


def iterate_frames(path: VideoPath) -> Iterator[np.ndarray]:
    """All frames of a video in turn, uint8 `H W C` as from `read_frames`, one in memory at a time.

    Raises VideoError, on the way, when the file cannot be decoded to its end or when it holds no frame."""
    converter = RgbConverter()
    for frame, _ in decoded_frames(path):
        yield np.ascontiguousarray(converter(frame).transpose(1, 2, 0))


def decoded_frames(path: VideoPath) -> Iterator[tuple[av.VideoFrame, VideoStream]]:
    """All frames of a video as they are decoded, with the stream that they are from. Raises as `iterate_frames`."""
    empty = True
    with _opened(path) as (container, stream):
        for frame in container.decode(stream):
            empty = False
            check_whole(path, frame)
            yield frame, stream
    if empty:
        raise VideoError(path, "holds no frame")


def frame_rate(path: VideoPath) -> float:
    """`exact_frame_rate`, as a number to write down."""
    return float(exact_frame_rate(path))


def exact_frame_rate(path: VideoPath) -> Fraction:
    """Frames a second, on average where it varies. Raises VideoError when the file does not tell."""
    with _opened(path) as (_, stream):
        rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise VideoError(path, "does not tell its frame rate")
    return Fraction(rate)


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
    with _opened(path) as (container, stream):
        promised = stream.frames
        if not promised and container.duration and len(container.streams) == 1:  # which sound could outlast
            promised = round(container.duration / 1e6 * rate)
        width, height = stream.codec_context.width, stream.codec_context.height
        frames = _indexed_frames(container, stream) or sum(1 for _ in _packets(container, stream))
    return VideoHeader(frames, promised, rate, width, height)


def count_frames(path: VideoPath) -> int:
    """The number of frames, without decoding any: from the container's index where that is complete,
    otherwise by counting packets. Raises VideoError when the file cannot be opened as a video."""
    with _opened(path) as (container, stream):
        return _indexed_frames(container, stream) or sum(1 for _ in _packets(container, stream))


def holding_file(path: VideoPath) -> str:
    """The file on the disk in which a video is."""
    return str(path) if isinstance(path, str | Path) else path.file


def check_whole(path: VideoPath, frame: av.VideoFrame) -> None:
    """Raises VideoError for a frame that the decoder could not decode in full."""
    if frame.is_corrupt:
        raise VideoError(path, f"the frame at {frame.time or 0:.2f} s is damaged")


@contextmanager
def _opened(path: VideoPath) -> Iterator[tuple[av.container.InputContainer, VideoStream]]:
    try:
        file = str(path) if isinstance(path, str | Path) else path.open_stream()
        with av.open(file, "r") as container:
            if not container.streams.video:
                raise VideoError(path, "holds no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # data loading runs over files in parallel already
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:  # includes FFmpeg's FileNotFoundError and PermissionError
        raise VideoError(path, f"cannot be read as a video ({error.strerror or error})") from error


def _packets(container: av.container.InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    return (packet for packet in container.demux(stream) if packet.size and not packet.is_discard)


def _indexed_frames(container: av.container.InputContainer, stream: VideoStream) -> int | None:
    """The frame count in the header, if the index has as many entries and the file reaches to the end
    of the last one (headers of truncated files still claim all frames)."""
    entries = stream.index_entries
    if not stream.frames or len(entries) != stream.frames:
        return None
    end = 0
    for entry in entries:
        if entry.is_discard or not entry.size:
            return None
        end = max(end, entry.pos + entry.size)
    return stream.frames if end <= container.size else None


@dataclass(frozen=True)
class _Wanted(Generic[Made]):
    """Which frames of a video are wanted, and what is to be made of them. count: how many, None for as many as the
    file has; number_of: the number in the file of the wanted frame of an index."""

    path: VideoPath
    convert: Callable[[av.VideoFrame], Made]
    count: int | None
    number_of: Callable[[int], int]

    @property
    def start(self) -> int:
        return self.number_of(0)

    def take(self, frames: Iterable[av.VideoFrame], first: int = 0) -> list[Made]:
        """From frames in the order of showing, of which the first is number `first`."""
        made: list[Made] = []
        due = self.start
        for number, frame in enumerate(frames, start=first):
            if number != due:
                continue
            check_whole(self.path, frame)
            made.append(self.convert(frame))
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


_TIMES: dict[tuple[str, int], tuple[int, ...] | None] = {}
"""Results of `_presentation_times` for the files read last, by name and time of change."""


def _presentation_times(
    path: VideoPath, container: av.container.InputContainer, stream: VideoStream
) -> tuple[int, ...] | None:
    """Time stamps of all frames in the order of showing; None when they do not tell the frames apart. Leaves the
    container at its end."""
    try:
        key = str(path), os.stat(holding_file(path)).st_mtime_ns
    except OSError as error:
        raise VideoError(path, f"cannot be read ({error.strerror})") from error
    if key not in _TIMES:
        stamps = _indexed_times(container, stream) or [packet.pts for packet in _packets(container, stream)]
        times = sorted({stamp for stamp in stamps if stamp is not None})
        while len(_TIMES) >= 512:
            del _TIMES[next(iter(_TIMES))]
        _TIMES[key] = tuple(times) if len(times) == len(stamps) else None
    return _TIMES[key]


def _indexed_times(container: av.container.InputContainer, stream: VideoStream) -> list[int | None] | None:
    """What the packets of an AVI file would tell, where its index tells it already: AVI stores frames in the order of
    decoding, which without B-frames is that of showing, and no other times."""
    if container.format.name != "avi" or stream.codec_context.has_b_frames or not _indexed_frames(container, stream):
        return None
    return [entry.timestamp for entry in stream.index_entries]


class _UnexpectedTime(Exception):
    """Frames do not come with the time stamps that their packets had."""


def _decode_after_seek(
    wanted: _Wanted[Made], container: av.container.InputContainer, stream: VideoStream
) -> list[Made] | None:
    """Decodes from the last key frame shown at or before the first wanted frame. None when the time stamps that come
    out are not the ones expected, in which case only decoding from the beginning is sure to be right."""
    times = _presentation_times(wanted.path, container, stream)
    if times is None or wanted.start >= len(times):
        return None
    container.seek(times[wanted.start], stream=stream)
    try:
        return wanted.take(_from_time(container.decode(stream), times, wanted.start), first=wanted.start)
    except _UnexpectedTime:
        return None


def _from_time(frames: Iterable[av.VideoFrame], times: Sequence[int], start: int) -> Iterator[av.VideoFrame]:
    """Frame number `start` and those after it, out of what is decoded after a seek to it."""
    position, after_key_frame = start, False
    for frame in frames:
        # Frames shown before the key frame may refer to ones from before the seek.
        after_key_frame = after_key_frame or frame.key_frame
        if position == start and frame.pts is not None and frame.pts < times[start]:
            continue
        if not after_key_frame or position >= len(times) or frame.pts != times[position]:
            raise _UnexpectedTime
        yield frame
        position += 1
