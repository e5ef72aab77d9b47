"""How many frames each video file has, and at which rate, remembered between runs (see `file_memory`)."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

from evagen.data.file_memory import FileMemory, State, file_state
from evagen.data.frame_times import count_frames, exact_frame_rate
from evagen.data.video_file import VideoError, VideoPath
from evagen.kernels.files import num_cores
from evagen.kernels.names import as_text


def count_all_frames(videos: Sequence[VideoPath]) -> list[int | VideoError]:
    """The number of frames of each video, or why it cannot be opened. Errors are not remembered."""
    return _of_all("decoded_frames", videos, count_frames)


def all_frame_rates(videos: Sequence[VideoPath]) -> list[Fraction | VideoError]:
    """Frames a second of each video, on average where it varies, or why it is not known, likewise. In a memory of its
    own, since most runs need the counts alone."""
    rates = _of_all("mean_rates", videos, lambda video: str(exact_frame_rate(video)))
    return [rate if isinstance(rate, VideoError) else Fraction(rate) for rate in rates]


def _of_all(name: str, videos: Sequence[VideoPath], measure: Callable[[VideoPath], Any]) -> list[Any]:
    """What `measure` makes of each video, or the VideoError that it raised."""
    names = [as_text(str(video)) for video in videos]
    with ThreadPoolExecutor(min(32, 4 * num_cores())) as threads, FileMemory(name) as memory:
        states = list(threads.map(file_state, videos))
        known = memory.recall()
        found = list(
            threads.map(lambda *of_one: _of_one(measure, *of_one), videos, states, [known.get(name) for name in names])
        )
        memory.remember(
            [
                (name, state, value)
                for name, state, value in zip(names, states, found)
                if state and not isinstance(value, VideoError) and known.get(name) != (state, value)
            ]
        )
    return found


def _of_one(
    measure: Callable[[VideoPath], Any], video: VideoPath, state: State | None, known: tuple[State, Any] | None
) -> Any:
    if known is not None and known[0] == state:
        return known[1]
    try:
        return measure(video)
    except VideoError as error:
        return error
