"""What a program is started in: its output, its home folder, its arguments; and words for what the system refuses."""

import codecs
import ctypes
import errno
import io
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evagen.kernels.files import FULL, home_folder, user_number


def prepare_surroundings() -> None:
    """Makes any surroundings do: output that is closed or knows few letters, no home folder, a user without a name,
    and a `~` that the shell has left, as it does in `--out=~/clips`."""
    codecs.register_error("shown", _shown)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, as a service manager may do
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="shown")
    if os.path.expanduser("~") == "~":
        _take_a_home()
    sys.argv[1:] = [_with_home(argument) for argument in sys.argv[1:]]


FREE_MEMORY_KEPT = 256 << 20
"""Bytes, at most; pieces larger than `LARGE_PIECE` go back at once all the same."""
LARGE_PIECE = 32 << 20


def keep_freed_memory() -> None:
    """Lets the process keep what it frees for what it asks for next. glibc gives it back to the system, which then
    clears every page of the next tensors: 40 MB in each step of the quickstart's tokenizer (docs/log.md). Elsewhere
    than under glibc nothing changes."""
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    glibc = ctypes.CDLL(None)
    glibc.mallopt(mmap_threshold, LARGE_PIECE)
    glibc.mallopt(trim_threshold, FREE_MEMORY_KEPT)


def _shown(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a file's name that are no UTF-8 go out as they are; other letters that cannot be said are `?`."""
    assert isinstance(error, UnicodeEncodeError)
    part = error.object[error.start : error.end]
    bytes_of_names = all("\udc80" <= letter <= "\udcff" for letter in part)
    return part.encode(errors="surrogateescape") if bytes_of_names else "?" * len(part), error.end


def _take_a_home() -> None:
    home = home_folder()
    home.mkdir(mode=0o700, exist_ok=True)
    if home.is_symlink() or home.stat().st_uid != user_number():
        raise PermissionError(errno.EACCES, "no home folder is known, and this one is not ours: set HOME", str(home))
    os.environ["HOME"] = str(home)
    os.environ.setdefault("USER", str(user_number()))  # which libraries name folders by
    print(f"no home folder is known: {home} is taken; HOME would name another", file=sys.stderr)


def _with_home(argument: str) -> str:
    found = re.fullmatch(r"(--[\w-]+=)?(~(?:/.*)?)", argument, re.DOTALL)
    return (found[1] or "") + os.path.expanduser(found[2]) if found else argument


@contextmanager
def whole_output() -> Iterator[None]:
    """Around a program: where nobody reads its output any more, as in `evagen configs | head -1`, it ends with status 1
    and without a word. Raises OSError, with words for its name, where the output could not be written."""
    try:
        yield
    except BrokenPipeError:
        _drop_output()
        sys.exit(1)
    except BaseException:
        _finish_output()
        raise
    _finish_output()


def _finish_output() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        _drop_output()
        if error.errno == errno.EPIPE:
            sys.exit(1)
        raise OSError(error.errno, error.strerror, "standard output") from error


def _drop_output() -> None:
    """What is left of it would fail again as Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def in_words(error: OSError) -> str | None:
    """What was refused, and what to do; None for an error that does not name a file, which is no user's."""
    place = error.filename
    if error.errno in FULL:
        return (
            f"no space is left for {place or 'what was to be written'}{_disk_of(place)}. Nothing half-written stays, "
            "and what was finished before is kept: make room, and give the same command again"
        )
    if place is None or not isinstance(error.errno, int):
        return None
    what = {
        errno.EACCES: "this user may not read or write it: choose another place, or change its permissions",
        errno.EPERM: "this user may not change it: choose another place, or change its owner",
        errno.EROFS: "it is on a disk that can only be read: choose another place",
        errno.ENOTDIR: "a part of this path is a file where a folder is needed: choose another place",
        errno.EEXIST: "it is there already, as something else than is needed: choose another place",
        errno.EISDIR: "it is a folder where a file is needed: give the name of a file",
        errno.ENOENT: "there is no such file or folder: look at its spelling, or whether it was deleted meanwhile",
        errno.ENAMETOOLONG: "the name is too long for this disk: give a shorter one",
    }.get(error.errno)
    name = os.fsdecode(place) if isinstance(place, (str, bytes)) else str(place)
    return f"{name}: {what or error.strerror}"


OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")
"""In the messages of torch's RuntimeErrors."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a computer's memory or a GPU's did not suffice, as Python or torch says it."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(part in str(error) for part in OUT_OF_MEMORY)
    )


def _disk_of(place: object) -> str:
    """Which disk holds a path, as words behind its name; empty where that cannot be said."""
    if not isinstance(place, (str, Path)):
        return ""
    folder = Path(place).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    while not folder.is_mount() and folder != folder.parent:
        folder = folder.parent
    return f" on the disk at {folder}"
