"""How many frames each video file has, and at which rate, remembered between runs (see `file_memory`)."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import chain
from typing import Any

from tqdm.auto import tqdm

from evagen.data.file_memory import FileMemory, State, file_state
from evagen.data.frame_times import count_frames, exact_frame_rate
from evagen.data.video_file import VideoError, VideoPath
from evagen.kernels.files import num_cores
from evagen.kernels.names import as_text


def count_all_frames(videos: Sequence[VideoPath]) -> list[int | VideoError]:
    """The number of frames of each video, or why it cannot be opened. Errors are not remembered."""
    return _of_all("shown_frames", videos, count_frames)


def all_frame_rates(videos: Sequence[VideoPath]) -> list[Fraction | VideoError]:
    """Frames a second of each video, on average where it varies, or why it is not known, likewise. In a memory of its
    own, since most runs need the counts alone."""
    rates = _of_all("shown_rates", videos, lambda video: str(exact_frame_rate(video)))
    return [rate if isinstance(rate, VideoError) else Fraction(rate) for rate in rates]


_TOGETHER = 4096
"""Videos after which what was found is remembered. A process that is killed while it opens the files of a large data
set, which may take minutes, loses no more, and neither memory nor waiting calls grow with the data set."""
_LOOKED_AT_TOGETHER = 64
"""Files whose states a thread asks for in one call, which takes longer than the asking."""
_SECONDS_WITHOUT_A_WORD = 5
"""After which a bar says what takes so long."""


def _of_all(name: str, videos: Sequence[VideoPath], measure: Callable[[VideoPath], Any]) -> list[Any]:
    """What `measure` makes of each video, or the VideoError that it raised."""
    found: dict[int, list[Any]] = {}
    bar = tqdm(
        total=len(videos), desc="looking at files", unit="file", delay=_SECONDS_WITHOUT_A_WORD, dynamic_ncols=True
    )
    with ThreadPoolExecutor(min(32, 4 * num_cores())) as threads, FileMemory(name) as memory, bar:
        for first in _from_own_share(range(0, len(videos), _TOGETHER)):
            some = videos[first : first + _TOGETHER]
            found[first] = _of_some(some, measure, threads, memory)
            bar.update(len(some))
    return list(chain.from_iterable(found[first] for first in sorted(found)))


def _from_own_share(parts: Sequence[int]) -> list[int]:
    """Processes of one machine begin with different parts, so that each looks at its share of the files and finds the
    others' in the memory."""
    begin = len(parts) * int(os.environ.get("LOCAL_RANK", 0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return [*parts[begin:], *parts[:begin]]


def _of_some(
    videos: Sequence[VideoPath], measure: Callable[[VideoPath], Any], threads: ThreadPoolExecutor, memory: FileMemory
) -> list[Any]:
    """Of videos that are few enough to be in work together."""
    names = [as_text(str(video)) for video in videos]
    parts = [videos[first : first + _LOOKED_AT_TOGETHER] for first in range(0, len(videos), _LOOKED_AT_TOGETHER)]
    states = list(chain.from_iterable(threads.map(_states, parts)))
    known = memory.recall(names)
    new = [i for i, name in enumerate(names) if name not in known or known[name][0] != states[i]]
    measured = dict(zip(new, threads.map(lambda i: _measured(measure, videos[i]), new)))
    memory.remember(
        [
            (names[i], state, value)
            for i, value in measured.items()
            if (state := states[i]) and not isinstance(value, VideoError)
        ]
    )
    return [measured[i] if i in measured else known[name][1] for i, name in enumerate(names)]


def _states(videos: Sequence[VideoPath]) -> list[State | None]:
    return [file_state(video) for video in videos]


def _measured(measure: Callable[[VideoPath], Any], video: VideoPath) -> Any:
    try:
        return measure(video)
    except VideoError as error:
        return error
