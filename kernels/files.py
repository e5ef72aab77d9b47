"""Where files of ours are kept between runs, and how files appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """The folder that EVAGEN_CACHE names, `~/.cache/evagen` if unset; it need not be there yet."""
    return Path(os.environ.get("EVAGEN_CACHE") or Path.home() / ".cache" / "evagen")


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Gives the path of an unfinished file beside `path`, to be written in the block; the file appears under its own
    name when the block ends, and not at all where it ends with an error.

    The unfinished file has a hidden name with this process's number in it and `path`'s suffix. Folders that are not
    there are made. The permissions are those that `open` gives, whatever writes the file. Raises OSError where there
    is no place to write."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        unfinished.touch()
        permissions = unfinished.stat().st_mode & 0o777
        yield unfinished
        unfinished.chmod(permissions)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
