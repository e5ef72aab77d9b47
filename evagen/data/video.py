"""Video files: frames in, frames out. Decoding and encoding are FFmpeg's, through PyAV and imageio.

    frames = read_frames("clip.avi", start=10, count=16)        # uint8 F H W C, RGB
    video = frames_to_video(frames)                             # float32 C F H W in [-1, 1]
    write_video("copy.mp4", video_to_frames(video), fps=25)

A frame is counted as stored: frame 7 is the eighth in the order of showing, whatever its time stamp,
so that videos with variable frame rates have the same frames for everybody.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import cast

import av
import imageio.v3 as iio
import numpy as np
import torch
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from evagen.errors import UserError

VIDEO_SUFFIXES = frozenset({".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})

# Seeking costs a pass over the file's packets; below this many frames plain decoding is as fast.
_SEEK_FROM_FRAME = 48

# FFmpeg's default conversion from 4:2:0 to RGB repeats chroma samples and darkens by a level: 31 dB on
# saturated colours, where these settings keep 47 dB for about a millisecond a frame.
_TO_RGB = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class VideoError(Exception):
    """A file that cannot be used as a video. `path` says which, `reason` says why."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def read_frames(path: str | Path, start: int = 0, count: int | None = None, stride: int = 1) -> np.ndarray:
    """Decodes the frames `start`, `start + stride`, ... of a video; nothing after the last one is decoded.

    Returns uint8 `F H W C` (RGB, 0 to 255, turned upright where the file says so), F = `count`, or as
    many as there are for `count=None`. Raises VideoError when the file cannot be decoded, when a needed
    frame is damaged, or when the video is too short; ValueError for impossible arguments."""
    if start < 0 or stride < 1 or (count is not None and count < 1):
        raise ValueError(f"start={start}, count={count}, stride={stride}: need start >= 0, count >= 1, stride >= 1")
    frames = _decode_after_seek(path, start, count, stride) if start >= _SEEK_FROM_FRAME else None
    if frames is None:
        frames = _decode_from_beginning(path, start, count, stride)
    if not frames or (count is not None and len(frames) < count):
        last = start + ((count or 1) - 1) * stride
        raise VideoError(path, f"too short: frame {last} was asked for, it has {count_frames(path)} frames")
    return np.stack(frames)


def iterate_frames(path: str | Path) -> Iterator[np.ndarray]:
    """All frames of a video in turn, uint8 `H W C` as from `read_frames`, one in memory at a time.

    Raises VideoError, on the way, when the file cannot be decoded to its end or when it holds no frame."""
    converter = VideoReformatter()
    empty = True
    with _opened(path) as (container, stream):
        for frame in container.decode(stream):
            empty = False
            yield np.ascontiguousarray(_rgb(path, frame, converter))
    if empty:
        raise VideoError(path, "holds no frame")


def frame_rate(path: str | Path) -> float:
    """Frames a second, on average where it varies. Raises VideoError when the file does not tell."""
    with _opened(path) as (_, stream):
        rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise VideoError(path, "does not tell its frame rate")
    return float(rate)


def count_frames(path: str | Path) -> int:
    """The number of frames, without decoding any: from the container's index where that is complete,
    otherwise by counting packets. Raises VideoError when the file cannot be opened as a video."""
    with _opened(path) as (container, stream):
        return _indexed_frames(container, stream) or sum(1 for _ in _packets(container, stream))


def write_video(path: str | Path, frames: np.ndarray | Iterable[np.ndarray], fps: float) -> None:
    """Writes uint8 `F H W C` (RGB) frames, or `H W C` frames one by one, which are written as they come (except
    to `.gif`), so that a long video need not fit in memory; the suffix of `path` chooses the encoding:

    `.avi` MPEG-4 part 2 as XviD writes it (quantiser 2, near the best it can); `.mp4` H.264, playable
    everywhere; `.mkv` FFV1, lossless; `.gif` (equal neighbouring frames become one that stays longer).
    In the first two an odd height or width gains a repeated row or column, since 4:2:0 video is even.

    The file appears under its name only when it is complete. Raises UserError for another suffix and
    ValueError for frames of another type or shape."""
    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        raise UserError(f"cannot write {path}: the name should end in one of {', '.join(_WRITERS)}")
    if isinstance(frames, np.ndarray) and (
        frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size
    ):
        raise ValueError(f"frames should be uint8 F H W 3, not {frames.dtype} {tuple(frames.shape)}")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _WRITERS[path.suffix.lower()](unfinished, _alike(frames), Fraction(fps).limit_denominator(65535))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def frames_to_video(frames: np.ndarray) -> torch.Tensor:
    """uint8 `F H W C` in 0...255 to float32 `C F H W` in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2).contiguous().float().div_(127.5).sub_(1)


def video_to_frames(video: torch.Tensor) -> np.ndarray:
    """Float `C F H W` in [-1, 1] (clamped) to uint8 `F H W C`; the inverse of `frames_to_video`."""
    levels = video.detach().float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return levels.permute(1, 2, 3, 0).contiguous().cpu().numpy()


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[av.container.InputContainer, VideoStream]]:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(path, "holds no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # data loading runs over files in parallel already
            yield container, stream
    except av.error.FFmpegError as error:  # includes its FileNotFoundError and PermissionError
        raise VideoError(path, f"cannot be read as a video ({error.strerror})") from error


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


@lru_cache(maxsize=512)
def _presentation_times(path: str, modified_ns: int) -> tuple[int, ...] | None:
    """Time stamps of all frames in the order of showing; None when they do not tell the frames apart."""
    with _opened(path) as (container, stream):
        stamps = [packet.pts for packet in _packets(container, stream)]
    times = sorted({stamp for stamp in stamps if stamp is not None})
    return tuple(times) if len(times) == len(stamps) else None


def _decode_after_seek(path: str | Path, start: int, count: int | None, stride: int) -> list[np.ndarray] | None:
    """Decodes from the last key frame shown at or before `start`. None when the time stamps that come
    out are not the ones expected, in which case only decoding from the beginning is sure to be right."""
    try:
        times = _presentation_times(str(path), os.stat(path).st_mtime_ns)
    except OSError as error:
        raise VideoError(path, f"cannot be read ({error.strerror})") from error
    if times is None or start >= len(times):
        return None
    frames: list[np.ndarray] = []
    converter = VideoReformatter()
    position = None
    with _opened(path) as (container, stream):
        container.seek(times[start], stream=stream)
        after_key_frame = False
        for frame in container.decode(stream):
            # Frames shown before the key frame may refer to ones from before the seek.
            after_key_frame = after_key_frame or frame.key_frame
            if position is None and after_key_frame and frame.pts == times[start]:
                position = start
            if position is None:
                if frame.pts is None or frame.pts >= times[start]:
                    return None
                continue
            if position >= len(times) or frame.pts != times[position]:
                return None
            if (position - start) % stride == 0:
                frames.append(_rgb(path, frame, converter))
            if len(frames) == count:
                break
            position += 1
    return frames


def _decode_from_beginning(path: str | Path, start: int, count: int | None, stride: int) -> list[np.ndarray]:
    frames: list[np.ndarray] = []
    converter = VideoReformatter()
    with _opened(path) as (container, stream):
        for position, frame in enumerate(container.decode(stream)):
            if position >= start and (position - start) % stride == 0:
                frames.append(_rgb(path, frame, converter))
            if len(frames) == count:
                break
    return frames


def _rgb(path: str | Path, frame: av.VideoFrame, converter: VideoReformatter) -> np.ndarray:
    if frame.is_corrupt:
        raise VideoError(path, f"the frame at {frame.time or 0:.2f} s is damaged")
    rgb = converter.reformat(frame, format="rgb24", interpolation=_TO_RGB, threads=1)
    return np.rot90(rgb.to_ndarray(), k=round(frame.rotation / 90))


def _alike(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames, each checked. Raises ValueError for one of another type or size than the first, or for none."""
    first = None
    for frame in frames:
        first = frame if first is None else first
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or frame.shape != first.shape:
            raise ValueError(f"each frame should be uint8 H W 3 and of one size, not {frame.dtype} {frame.shape}")
        yield frame
    if first is None:
        raise ValueError("there is no frame to write")


def _write_avi(path: Path, frames: Iterator[np.ndarray], fps: Fraction) -> None:
    # bitexact: no version of the encoder in the file, so that equal frames make equal files.
    options = {"qmin": "2", "qmax": "2", "flags": "+bitexact"}
    _encode(path, _even(frames), fps, "avi", "mpeg4", "yuv420p", options, tag="XVID")


def _write_mp4(path: Path, frames: Iterator[np.ndarray], fps: Fraction) -> None:
    _encode(path, _even(frames), fps, "mp4", "libx264", "yuv420p", {"crf": "17", "flags": "+bitexact"})


def _write_mkv(path: Path, frames: Iterator[np.ndarray], fps: Fraction) -> None:
    _encode(path, frames, fps, "matroska", "ffv1", "bgr0", {})


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: Fraction) -> None:
    iio.imwrite(path, np.stack(list(frames)), extension=".gif", duration=float(1000 / fps), loop=0)


_WRITERS: dict[str, Callable[[Path, Iterator[np.ndarray], Fraction], None]] = {
    ".avi": _write_avi,
    ".mp4": _write_mp4,
    ".mkv": _write_mkv,
    ".gif": _write_gif,
}


def _even(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for frame in frames:
        height, width = frame.shape[:2]
        yield np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _encode(
    path: Path,
    frames: Iterator[np.ndarray],
    fps: Fraction,
    container_format: str,
    codec: str,
    pixel_format: str,
    options: dict[str, str],
    tag: str | None = None,
) -> None:
    first = next(frames)
    with av.open(str(path), "w", format=container_format) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=fps, options=options))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        if tag is not None:
            stream.codec_context.codec_tag = tag
        converter = _from_rgb(stream, fps)
        for number, frame in enumerate(chain([first], frames)):
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            image.pts, image.time_base = number, 1 / fps
            converter.push(image)
            container.mux(stream.encode(cast(av.VideoFrame, converter.pull())))
        container.mux(stream.encode(None))


def _from_rgb(stream: VideoStream, fps: Fraction) -> Graph:
    """Converts RGB to the stream's pixels. Chroma is sampled on the left, where MPEG-4 and H.264 decoders
    take it to be; FFmpeg's default is the centre, which costs 7 dB on saturated colours."""
    graph = Graph()
    graph.threads = 1
    rgb = av.VideoFormat("rgb24")
    source = graph.add_buffer(width=stream.width, height=stream.height, format=rgb, time_base=1 / fps)
    scale = graph.add("scale", "flags=bicubic+accurate_rnd+full_chroma_inp:out_chroma_loc=left")
    pixels = graph.add("format", f"pix_fmts={stream.pix_fmt}")
    graph.link_nodes(source, scale, pixels, graph.add("buffersink")).configure()
    return graph
