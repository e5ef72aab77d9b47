"""How many frames each video file has, remembered between runs (see `file_memory`)."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from evagen.data.file_memory import FileMemory, State, file_state
from evagen.data.video_reader import VideoError, VideoPath, count_frames


def count_all_frames(videos: Sequence[VideoPath]) -> list[int | VideoError]:
    """The number of frames of each video, or why it cannot be opened. Errors are not remembered."""
    names = [str(video) for video in videos]
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as threads, FileMemory("frame_counts") as memory:
        states = list(threads.map(file_state, videos))
        known = memory.recall()
        counts = list(threads.map(_count, videos, states, [known.get(name) for name in names]))
        memory.remember(
            [
                (name, state, count)
                for name, state, count in zip(names, states, counts)
                if state and isinstance(count, int) and known.get(name) != (state, count)
            ]
        )
    return counts


def _count(video: VideoPath, state: State | None, known: tuple[State, int] | None) -> int | VideoError:
    if known is not None and known[0] == state:
        return known[1]
    try:
        return count_frames(video)
    except VideoError as error:
        return error
