"""Opening video files, which may be damaged or made to hurt: one place, through which every reader goes.

    with opened("clip.mp4") as (container, stream):
        for shown in shown_frames("clip.mp4", container, stream): ...

Whatever PyAV or FFmpeg raise while a file is open becomes a VideoError. A file is only ever its own bytes: playlists
and lists of other files are not opened, and nothing is fetched from an address.
"""

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Protocol

import av
from av.stream import Disposition
from av.video.stream import VideoStream

from evagen.data.shown_frame import ShownFrame, square_shape

MAX_PIXELS = 2**26
"""Of a frame, as stored and as shown: twice those of 8K. A decoder keeps up to 17 frames in memory."""

MAX_FRAMES = 2**24
"""Of a file: six days at 30 a second."""

SECONDS_WITHOUT_FRAME = 300
"""Of a processor's time, after which a decoder that gives nothing is given up. One that hangs inside FFmpeg cannot be
ended from here: `evagen data scan` decodes in processes of their own."""

_SECONDS_FOR_BYTES = 60
"""Of waiting for a file's next bytes, as from a network that has gone."""

# What people keep videos in. Left out are FFmpeg's lists of other files and addresses (hls, dash, concat, sdp,
# image2, ...), devices, and formats of games and of single pictures. A file of sound is opened to say that it is one.
_FORMATS = (
    "amv,apng,asf,avi,av1,dirac,dv,flv,gif,gxf,h261,h263,h264,hevc,ivf,live_flv,m4v,matroska,mjpeg,mov,mpeg,mpegts,"
    "mpegvideo,mxf,nsv,nut,obu,ogg,rm,vc1,webm,wtv,yuv4mpegpipe,aac,flac,mp3,wav"
)

_DOLBY_ALONE = frozenset({"dvh1", "dvhe", "dav1"})
"""Tags of Dolby Vision without a picture that other decoders show rightly."""


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

    def __reduce__(self) -> tuple[type["VideoError"], tuple[str, str]]:
        return VideoError, (self.path, self.reason)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def holding_file(path: VideoPath) -> str:
    """The file on the disk in which a video is."""
    return str(path) if isinstance(path, str | Path) else path.file


@contextmanager
def opened(path: VideoPath) -> Iterator[tuple[av.container.InputContainer, VideoStream]]:
    """A video file and the stream that a player shows. Raises VideoError for a file that cannot be opened as a video,
    and for all that goes wrong with it before it is closed: damaged files make PyAV raise errors of nearly any type
    (UnicodeDecodeError, AttributeError, ValueError, MemoryError, EOFError, ...)."""
    try:
        with av.open(
            _source(path),
            "r",
            options={"max_pixels": str(MAX_PIXELS)},  # of the decoders that FFmpeg opens to learn of the streams
            container_options={"protocol_whitelist": "file", "format_whitelist": _FORMATS},
            metadata_errors="replace",
            timeout=_SECONDS_FOR_BYTES,
        ) as container:
            stream = _shown_stream(path, container)
            stream.codec_context.thread_count = 1  # data loading runs over files in parallel already
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            yield container, stream
    except VideoError:
        raise
    except Exception as error:
        raise VideoError(path, f"cannot be read as a video ({_words(error)})") from error


def shown_frames(
    path: VideoPath, container: av.container.InputContainer, stream: VideoStream, seconds: float = SECONDS_WITHOUT_FRAME
) -> Iterator[ShownFrame]:
    """What is decoded from here on, in the order of showing. Raises VideoError when the decoder works for so many
    seconds of a processor's time without giving a frame, and what PyAV raises."""
    pixel_aspect = _pixel_aspect(stream)
    since = time.thread_time()
    for packet in container.demux(stream):
        for frame in packet.decode():
            yield ShownFrame(frame, pixel_aspect)
            since = time.thread_time()
        if time.thread_time() - since > seconds:
            raise VideoError(path, f"gives no frame in {seconds:g} seconds of decoding")


def check_whole(path: VideoPath, shown: ShownFrame) -> None:
    """Raises VideoError for a frame that the decoder could not decode in full."""
    if shown.frame.is_corrupt:
        raise VideoError(path, f"the frame at {shown.frame.time or 0:.2f} s is damaged")


def _source(path: VideoPath) -> str | BinaryIO:
    """What FFmpeg is to open: a file by its name, never an address that the name looks like."""
    if not isinstance(path, str | Path):
        return path.open_stream()
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise VideoError(path, "is a folder, and a video file is needed")
    if not stat.S_ISREG(mode):  # a pipe would be waited for without end
        raise VideoError(path, "is not a file")
    return f"file:{path}"


def _shown_stream(path: VideoPath, container: av.container.InputContainer) -> VideoStream:
    """FFmpeg's choice among several, as its players', but for the pictures on covers."""
    streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError(path, "holds no video stream" + (", only a cover" if container.streams.video else ""))
    best = container.streams.best("video")
    stream = next((each for each in streams if best is not None and each.index == best.index), streams[0])
    context = stream.codec_context
    if context is None:
        raise VideoError(path, "is of a codec that is not known")
    if context.codec_tag in _DOLBY_ALONE:
        raise VideoError(path, "is Dolby Vision without a standard picture; convert it to SDR or HDR10")
    height, width = square_shape(context.height, context.width, _pixel_aspect(stream))
    if height * width > MAX_PIXELS:
        raise VideoError(path, f"has frames of {width}x{height}, more than {MAX_PIXELS} pixels; make it smaller")
    return stream


def _pixel_aspect(stream: VideoStream) -> Fraction:
    """Width of a pixel over its height, 1 where the file does not tell."""
    aspect = stream.sample_aspect_ratio
    return Fraction(aspect) if aspect and aspect > 0 else Fraction(1)


def _words(error: Exception) -> str:
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, av.error.ArgumentError) and words == "Invalid argument":
        return "broken, or of a format that is not opened, such as a playlist"
    return words
