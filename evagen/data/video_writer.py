"""Video files: frames in. Encoding is FFmpeg's, through PyAV and imageio.

write_video("copy.mp4", video_to_frames(video), fps=25)     # video: C F H W in [-1, 1]; of evagen.kernels.levels
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import cast

import av
import imageio.v3 as iio
import numpy as np
from av.filter import Graph
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream

from evagen.data.frame_times import SLOWEST
from evagen.errors import UserError
from evagen.kernels.files import atomic_write


def write_video(path: str | Path, frames: np.ndarray | Iterable[np.ndarray], fps: float) -> None:
    """Writes uint8 `F H W C` (RGB) frames, or `H W C` frames one by one, which are written as they come (except
    to `.gif`), so that a long video need not fit in memory; the suffix of `path` chooses the encoding:

    `.avi` MPEG-4 part 2 as XviD writes it (quantiser 2, near the best it can); `.mp4` H.264, playable
    everywhere; `.mkv` FFV1, lossless; `.gif` (equal neighbouring frames become one that stays longer; frames last
    whole hundredths of a second, shared out so that the whole takes the time it should).
    In the first two an odd height or width gains a repeated row or column, since 4:2:0 video is even.

    The file appears under its name only when it is complete. Raises UserError for another suffix and
    ValueError for frames of another type or shape."""
    path = Path(path)
    check_name(path)
    if isinstance(frames, np.ndarray) and (
        frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size
    ):
        raise ValueError(f"frames should be uint8 F H W 3, not {frames.dtype} {tuple(frames.shape)}")
    check_rate(path, fps)
    with atomic_write(path) as unfinished:
        _WRITERS[path.suffix.lower()](unfinished, _alike(frames), Fraction(fps).limit_denominator(65535))


def join_videos(path: str | Path, parts: Sequence[Path]) -> None:
    """Writes videos that `write_video` wrote as `.mp4`, of one size and frame rate, one after another into another
    `.mp4`. Nothing is decoded or encoded anew, and one packet is in memory at a time."""
    with atomic_write(Path(path)) as unfinished, av.open(f"file:{unfinished}", "w", format="mp4") as joined:
        stream, shift = None, 0
        for part in parts:
            with av.open(f"file:{part}") as container:
                source = container.streams.video[0]
                stream = stream or joined.add_stream_from_template(source)
                for packet in container.demux(source):
                    if packet.dts is not None and packet.pts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        joined.mux(packet)
                shift += source.duration or 0


def check_name(path: Path) -> None:
    """Raises UserError for a suffix that no video is written by."""
    if path.suffix.lower() not in _WRITERS:
        raise UserError(f"cannot write {path}: the name should end in one of {', '.join(_WRITERS)}")


_LEAST = float(SLOWEST)
RATES = {".avi": (_LEAST, 65_535), ".mp4": (_LEAST, 100_000), ".mkv": (_LEAST, 1000), ".gif": (2e-3, 50)}
"""The lowest and the highest frame rate that each can hold: an .mkv counts milliseconds, a .gif hundredths of a second
in 16 bits, of which players take one for ten."""


def check_rate(path: Path, fps: float) -> None:
    """Raises UserError for a rate that the format cannot hold."""
    slowest, fastest = RATES[path.suffix.lower()]
    if not slowest <= fps <= fastest:  # false for NaN too
        raise UserError(
            f"cannot write {path}: {path.suffix} holds {slowest:g} to {fastest:,} frames a second, not {fps:g}; give "
            f"another of {', '.join(_WRITERS)}"
        )


def _alike(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames, each checked. Raises ValueError for one of another type or size than the first, or for none."""
    first = None
    for frame in frames:
        first = frame if first is None else first
        if not isinstance(frame, np.ndarray):
            raise ValueError(f"frames are numpy arrays, not {type(frame).__name__}: video_to_frames(video) makes them")
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or frame.shape != first.shape:
            raise ValueError(f"each frame should be uint8 H W 3 and of one size, not {frame.dtype} {frame.shape}")
        yield frame
    if first is None:
        raise ValueError("there is no frame to write")


def _write_avi(path: Path, frames: Iterator[np.ndarray], fps: Fraction) -> None:
    # bitexact: no version of the encoder in the file, so that equal frames make equal files.
    options = {"qmin": "2", "qmax": "2", "flags": "+bitexact"}
    rate = 1 / (1 / fps).limit_denominator(65535)  # MPEG-4 has no ticks shorter than 1/65535 s
    _encode(path, _even(frames), rate, "avi", "mpeg4", "yuv420p", options, tag="XVID")


def _write_mp4(path: Path, frames: Iterator[np.ndarray], fps: Fraction) -> None:
    # As good as crf 17 of the usual preset, in half the time, for files a fifth larger.
    options = {"preset": "veryfast", "crf": "15", "flags": "+bitexact"}
    _encode(path, _even(frames), fps, "mp4", "libx264", "yuv420p", options)


def _write_mkv(path: Path, frames: Iterator[np.ndarray], fps: Fraction) -> None:
    _encode(path, frames, fps, "matroska", "ffv1", "bgr0", {})


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: Fraction) -> None:
    stored = np.stack(list(frames))
    ends = [round(100 * number / fps) for number in range(len(stored) + 1)]  # hundredths of a second
    milliseconds = [10 * (end - begin) for begin, end in pairwise(ends)]
    duration = milliseconds if len(stored) > 1 else milliseconds[0]
    iio.imwrite(path, stored, extension=".gif", duration=duration, loop=0)


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
    # Without `file:` FFmpeg takes what stands before a colon for a protocol.
    with av.open(f"file:{path}", "w", format=container_format) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=fps, options=options))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        if pixel_format.startswith("yuv"):  # where nothing is said, players guess by the height of the picture
            _say_colours(stream.codec_context)
        if tag is not None:
            stream.codec_context.codec_tag = tag
        converter = _from_rgb(stream, fps)
        for number, frame in enumerate(chain([first], frames)):
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            image.pts, image.time_base = number, 1 / fps
            converter.push(image)
            container.mux(stream.encode(cast(av.VideoFrame, converter.pull())))
        container.mux(stream.encode(None))


def _say_colours(context: VideoCodecContext) -> None:
    """Into the file, where the format has room for it: sRGB, by the matrix and in the range of `_from_rgb`."""
    context.colorspace, context.color_range = Colorspace.ITU601, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.IEC61966_2_1


def _from_rgb(stream: VideoStream, fps: Fraction) -> Graph:
    """Converts RGB to the stream's pixels. Chroma is sampled on the left, where MPEG-4 and H.264 decoders
    take it to be; FFmpeg's default is the centre, which costs 7 dB on saturated colours."""
    graph = Graph()
    graph.threads = 1
    rgb = av.VideoFormat("rgb24")
    source = graph.add_buffer(width=stream.width, height=stream.height, format=rgb, time_base=1 / fps)
    conversion = "out_color_matrix=bt601:out_range=tv:out_chroma_loc=left"
    scale = graph.add("scale", f"flags=bicubic+accurate_rnd+full_chroma_inp:{conversion}")
    pixels = graph.add("format", f"pix_fmts={stream.pix_fmt}")
    graph.link_nodes(source, scale, pixels, graph.add("buffersink")).configure()
    return graph
