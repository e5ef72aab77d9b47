"""One process at a time in a folder."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""The file in the folder that is locked. It stays when the lock is gone."""
_held: dict[Path, IO[str]] = {}


@contextmanager
def locks_end() -> Iterator[None]:
    """At its end the folders are free again that were locked within it."""
    before = set(_held)
    try:
        yield
    finally:
        for path in set(_held) - before:
            _held.pop(path).close()


def lock_folder(folder: Path) -> str | None:
    """Locks a folder for this process until it ends, however it ends, or until `locks_end` does; a process that has it
    locked may do so again.
    Returns None, or, where another process has it, who that is. The lock does not pass on to processes that are forked:
    those that outlive this one for a moment do not keep it."""
    path = folder.resolve() / LOCK
    if fcntl is None or (
        path in _held and path.exists() and os.path.samestat(os.fstat(_held[path].fileno()), path.stat())
    ):
        return None
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        return file.read().strip() or "another process"
    except OSError:  # a file system without locks
        return None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}\n")
    file.flush()
    _held[path] = file
    return None
