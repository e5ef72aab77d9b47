"""How many frames each video file has, and how many a second, remembered between runs (see `file_memory`)."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from evagen.data.file_memory import FileMemory, State, file_state
from evagen.data.video_reader import VideoError, VideoPath, count_frames, frame_rate

Fact = TypeVar("Fact", int, float)


def count_all_frames(videos: Sequence[VideoPath]) -> list[int | VideoError]:
    """The number of frames of each video, or why it cannot be opened. Errors are not remembered."""
    return _of_all(videos, "frame_counts", count_frames)


def all_frame_rates(videos: Sequence[VideoPath]) -> list[float | VideoError]:
    """Frames a second of each video, on average where it varies, or why that cannot be told. Errors are not
    remembered."""
    return _of_all(videos, "frame_rates", frame_rate)


def _of_all(videos: Sequence[VideoPath], name: str, look: Callable[[VideoPath], Fact]) -> list[Fact | VideoError]:
    """What `look` finds in each file; name: of the memory that keeps it."""

    def fact(video: VideoPath, state: State | None, known: tuple[State, Fact] | None) -> Fact | VideoError:
        if known is not None and known[0] == state:
            return known[1]
        try:
            return look(video)
        except VideoError as error:
            return error

    names = [str(video) for video in videos]
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as threads, FileMemory(name) as memory:
        states = list(threads.map(file_state, videos))
        known = memory.recall()
        facts = list(threads.map(fact, videos, states, [known.get(each) for each in names]))
        memory.remember(
            [
                (each, state, found)
                for each, state, found in zip(names, states, facts)
                if state and not isinstance(found, VideoError) and known.get(each) != (state, found)
            ]
        )
    return facts
