"""How many frames each video file has, remembered between runs: opening every file of a large data set takes
minutes, and every process of every run would do it again.

The memory is one SQLite file, `frame_counts.sqlite` in the folder that EVAGEN_CACHE names (`~/.cache/evagen` if
unset). A count holds for a file of the same path, size and time of change. Without a place to write, files are opened
as if nothing were known.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evagen.data.video import VideoError, count_frames

State = tuple[int, int]
"""Size in bytes and time of change in nanoseconds."""


def count_all_frames(paths: Sequence[str]) -> list[int | VideoError]:
    """The number of frames of each file, or why it cannot be opened. Errors are not remembered."""
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as threads:
        states = list(threads.map(_state, paths))
        with _memory() as memory:
            known = _read(memory)
            counts = list(threads.map(lambda path, state: _count(path, state, known.get(path)), paths, states))
            new = [
                (path, *state, count)
                for path, state, count in zip(paths, states, counts)
                if state and isinstance(count, int) and known.get(path) != (state, count)
            ]
            _write(memory, new)
    return counts


def _state(path: str) -> State | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _count(path: str, state: State | None, known: tuple[State, int] | None) -> int | VideoError:
    if known is not None and known[0] == state:
        return known[1]
    try:
        return count_frames(path)
    except VideoError as error:
        return error


@contextlib.contextmanager
def _memory() -> Iterator[sqlite3.Connection | None]:
    folder = Path(os.environ.get("EVAGEN_CACHE") or Path.home() / ".cache" / "evagen")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(folder / "frame_counts.sqlite", timeout=30)
    except (OSError, sqlite3.Error):
        yield None
        return
    with contextlib.closing(connection):
        yield connection


def _read(memory: sqlite3.Connection | None) -> dict[str, tuple[State, int]]:
    if memory is None:
        return {}
    try:
        memory.execute("CREATE TABLE IF NOT EXISTS counts (path TEXT PRIMARY KEY, size INT, changed INT, frames INT)")
        rows = memory.execute("SELECT path, size, changed, frames FROM counts")
        return {path: ((size, changed), frames) for path, size, changed, frames in rows}
    except sqlite3.Error:  # not a database, locked for long, or on a read-only disk
        return {}


def _write(memory: sqlite3.Connection | None, rows: list[tuple[str, int, int, int]]) -> None:
    if memory is None or not rows:
        return
    with contextlib.suppress(sqlite3.Error), memory:
        memory.executemany("INSERT OR REPLACE INTO counts VALUES (?, ?, ?, ?)", rows)
