"""What was found out about files, remembered between runs: opening every file of a large data set takes minutes, and
every process of every run would do it again.

A memory is one SQLite file in the cache folder (see `evagen.kernels.files`). What it holds is true
of a file of the same path, size and time of change. Without a place to write, nothing is known and nothing is kept.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Sequence
from typing import Any

from evagen.data.video_file import VideoPath, holding_file
from evagen.kernels.files import cache_folder

State = tuple[int, int]
"""Size in bytes and time of change in nanoseconds."""
_ASKED_TOGETHER = 500
"""Files of a question; SQLite takes 999 at least."""


def file_state(video: VideoPath) -> State | None:
    """Of the file that holds a video; None where it cannot be looked at."""
    try:
        found = os.stat(holding_file(video))
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


class FileMemory:
    """Values (JSON) by file, of one kind: `with FileMemory("shown_frames") as memory`. Never raises: a memory that
    is damaged, locked or not to be had is an empty one."""

    def __init__(self, name: str):
        folder = cache_folder()
        self.connection = None
        with contextlib.suppress(OSError, sqlite3.Error):
            folder.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(folder / f"{name}.sqlite", timeout=30)
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INT, changed INT, value TEXT)"
            )

    def recall(self, paths: Sequence[str]) -> dict[str, tuple[State, Any]]:
        """What is known of some files, by path. No others are looked at: a memory is one for all data sets of a user,
        of which another may have millions."""
        known: dict[str, tuple[State, Any]] = {}
        if self.connection is None:
            return known
        try:
            for first in range(0, len(paths), _ASKED_TOGETHER):
                some = paths[first : first + _ASKED_TOGETHER]
                places = ", ".join("?" * len(some))
                rows = self.connection.execute(
                    f"SELECT path, size, changed, value FROM files WHERE path IN ({places})",  # noqa: S608
                    some,
                )
                known |= {path: ((size, changed), json.loads(value)) for path, size, changed, value in rows}
        except (sqlite3.Error, ValueError):  # not a database, locked for long, or on a read-only disk
            return {}
        return known

    def remember(self, found: Sequence[tuple[str, State, Any]]) -> None:
        """Path, state and value of each file."""
        if self.connection is None or not found:
            return
        rows = [(path, *state, json.dumps(value)) for path, state, value in found]
        with contextlib.suppress(sqlite3.Error), self.connection:
            self.connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)

    def __enter__(self) -> "FileMemory":
        return self

    def __exit__(self, *_: object) -> None:
        if self.connection is not None:
            self.connection.close()
