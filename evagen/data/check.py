"""Decoding videos from end to end to see whether they are whole, each within a time limit.

Damaged files can make a decoder hang or crash, which no exception tells. So each file is decoded in a process of its
own kind, a checker; one that takes too long is killed and replaced, and one that dies takes nobody with it.
"""

import contextlib
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from evagen.data.frame_times import count_frames
from evagen.data.shown_frame import ShownFrame
from evagen.data.video_file import VideoError, VideoPath
from evagen.data.video_reader import decoded_frames, read_frames

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext  # Windows has the second alone

_MOST_BYTES = 8 * 2**30
"""Of memory that a checker may take: a decoder with 17 frames of the most pixels in 10 bits needs 3.5 GB."""


SECONDS_A_MEGABYTE = 2.0
"""That a file is given beside its limit: half a minute of a telephone's 4K takes a core more than a minute. What is
small and takes long is made to."""


@dataclass(frozen=True)
class VideoFacts:
    """What decoding a video told. frames: that came out; counted: by `count_frames`; seconds: shown; width and
    height: of the first frame as shown, in pixels; codec: FFmpeg's name of its decoder; varying: whether frames are
    shown for different times."""

    frames: int
    counted: int
    seconds: float
    width: int
    height: int
    codec: str
    varying: bool


def check_video(video: VideoPath) -> VideoFacts:
    """Decodes all frames. Raises VideoError for a video that cannot be decoded to its end or holds no frame."""
    codec, rate, height, width = "", 25.0, 0, 0
    times: list[float | None] = []
    for (time_shown, shape), stream in decoded_frames(video, _look_at):
        if not times:
            read_frames(video, 0, 1)  # some can be decoded, and not be converted
            codec, rate = stream.codec_context.name, float(stream.average_rate or stream.guessed_rate or 25)
            height, width = shape
        times.append(time_shown)
    stamps = sorted(time for time in times if time is not None)
    steps = [after - before for before, after in pairwise(stamps)]
    step = statistics.median(steps) if steps else 1 / rate
    varying = len(stamps) == len(times) and any(abs(other - step) > 0.1 * step for other in steps)
    seconds = stamps[-1] - stamps[0] + step if varying else len(times) * step
    return VideoFacts(len(times), count_frames(video), seconds, width, height, codec, varying)


def _look_at(shown: ShownFrame) -> tuple[float | None, tuple[int, int]]:
    """When a frame is shown, and its height and width."""
    return shown.frame.time, shown.shape


def check_all(
    videos: Iterable[VideoPath], workers: int, seconds_per_file: float
) -> Iterator[tuple[VideoPath, VideoFacts | str]]:
    """Each video with what is known of it, or why it is bad, as they are done, in any order. seconds_per_file: to
    decode it in, and `SECONDS_A_MEGABYTE` more."""
    context = _process_context()
    queue = iter(videos)
    checkers: list[_Checker] = []
    try:
        for video in islice(queue, workers):
            checkers.append(_Checker(context, video, seconds_per_file))
        while checkers:
            first = min(checker.deadline for checker in checkers)
            wait([checker.connection for checker in checkers], max(0, first - time.monotonic()))
            for checker in list(checkers):
                result = checker.result()
                if result is None:
                    continue
                yield checker.video, result
                following = next(queue, None)
                if following is not None and checker.process.is_alive():
                    checker.start(following)
                    continue
                checker.end()
                checkers.remove(checker)
                if following is not None:
                    checkers.append(_Checker(context, following, seconds_per_file))
    finally:
        for checker in checkers:
            checker.end()


def _process_context() -> "ForkServerContext | SpawnContext":
    """Where a new checker is a copy of one that has imported everything; Windows has no such."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


class _Checker:
    """A process that checks one video after another."""

    def __init__(self, context: "ForkServerContext | SpawnContext", video: VideoPath, seconds: float):
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_check_until_told, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.seconds = seconds
        with contextlib.suppress(EOFError, OSError):  # it died at once; `result` will say so
            self.connection.recv()  # the time it takes to start is not the video's
        self.start(video)

    def start(self, video: VideoPath) -> None:
        self.video, self.allowed = video, self.seconds + SECONDS_A_MEGABYTE * _megabytes(video)
        self.deadline = time.monotonic() + self.allowed
        with contextlib.suppress(OSError):
            self.connection.send(video)

    def result(self) -> VideoFacts | str | None:
        """None while it is at work."""
        try:
            if self.connection.poll():
                return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return f"the decoder crashed (exit code {self.process.exitcode})"
        if time.monotonic() < self.deadline:
            return None
        self.process.kill()
        self.process.join()
        return f"not decoded within {self.allowed:.3g} seconds; --seconds-per-file gives more"

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def _megabytes(video: VideoPath) -> float:
    """Of a video; 0 where it cannot be read, as its checker will say."""
    with contextlib.suppress(OSError):
        if isinstance(video, str | Path):
            return os.stat(video).st_size / 1e6
        with video.open_stream() as stream:
            return stream.seek(0, os.SEEK_END) / 1e6
    return 0.0


def _check_until_told(connection: Connection) -> None:
    _bound_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends us
    connection.send(None)
    with contextlib.suppress(EOFError, OSError):  # the parent has gone
        while True:
            video = connection.recv()
            try:
                connection.send(check_video(video))
            except VideoError as error:
                connection.send(error.reason)


def _bound_memory() -> None:
    """A header may ask FFmpeg for any amount; what is refused becomes an error like others. Where systems can."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
