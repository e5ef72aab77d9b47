"""Where evagen keeps files for later runs, and how a file is written so that nobody ever sees half of it."""

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a disk, or what one may use of it, is full."""


def num_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def home_folder() -> Path:
    """The user's; where none is known, as for a user without a name and without HOME, a private one for temporary
    files. It need not exist."""
    home = os.path.expanduser("~")
    return Path(tempfile.gettempdir(), f"evagen-{os.getuid()}") if home == "~" else Path(home)


def cache_folder() -> Path:
    """The folder that EVAGEN_CACHE names, `~/.cache/evagen` if unset. It need not exist."""
    named = os.environ.get("EVAGEN_CACHE")
    return Path(os.path.expanduser(named)) if named else home_folder() / ".cache" / "evagen"


def expand(text: str) -> str:
    """A path as people write it: `~` and `~/…` are the home folder, `$NAME` and `${NAME}` what the environment says,
    unless something lies under the name as it is.

    Raises ValueError for an empty one, for a variable that is not set, and where no home folder is known."""
    if not text or "\0" in text:
        raise ValueError("it is empty; the folder at hand is `.`" if not text else "no name holds a NUL")
    if text == "~" or text.startswith("~/"):
        home = os.path.expanduser("~")
        if home == "~":
            raise ValueError("`~` stands for the home folder, and none is known: set HOME")
        text = home + text[1:]
    if "$" not in text or os.path.lexists(text):
        return text

    def value_of(found: re.Match) -> str:
        name = found[1] or found[2]
        if name not in os.environ:
            raise ValueError(f"{found[0]} stands for a variable of the environment, and it is not set")
        return os.environ[name]

    return re.sub(r"\$(?:([A-Za-z_]\w*)|\{(\w+)\})", value_of, text, flags=re.ASCII)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside the target, for a `with` block to write a file at. When the block ends without an error, the file
    takes the target's place at once, with the permissions that `open` gives a new file. After an error the target is
    what it was before. Folders above the target are made, and nothing unfinished is left behind.

    The unfinished file is hidden, its name tells the process, and it ends as the target's does, since some writers go
    by the ending. Raises FileNotFoundError for a block that writes no file, and OSError as `written_whole` does."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the number alone does not do: machines that share a disk may have processes of the same number
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    with written_whole(path, unfinished):
        permissions = usual_permissions(unfinished)
        yield unfinished
        unfinished.chmod(permissions)  # some writers make files that are private
        os.replace(unfinished, path)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """`atomic_write` for a folder: an empty one beside the target, for a `with` block to fill. When the block ends
    without an error it takes the target's place, its files with the permissions that `open` gives a new file; after an
    error nothing is left of it. Raises FileExistsError where the target holds something by then."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    with written_whole(path, unfinished):
        unfinished.mkdir()
        yield unfinished
        make_readable(each for each in unfinished.rglob("*") if each.is_file())
        if path.exists():
            if any(path.iterdir()):
                raise FileExistsError(f"{path} is there by now")
            path.rmdir()
        os.replace(unfinished, path)


@contextmanager
def written_whole(target: Path, *unfinished: Path) -> Iterator[None]:
    """Around what writes unfinished files or folders on their way to a target: after an error they are deleted. Where
    the system would not let them be written, an OSError names the target, whatever the writer raised: safetensors and
    PyAV have errors of their own for a full disk."""
    try:
        yield
    except BaseException as error:
        for each in unfinished:
            shutil.rmtree(each, ignore_errors=True)
            with suppress(OSError):
                each.unlink(missing_ok=True)
        number = _refusal(error, unfinished)
        if number is not None:
            raise OSError(number, os.strerror(number), str(target)) from error
        raise


def _refusal(error: BaseException, unfinished: Iterable[Path]) -> int | None:
    """The system's number of an error that is about writing; None for any other."""
    number, name = getattr(error, "errno", None), getattr(error, "filename", None)
    if number is not None and (number in FULL or str(name).startswith(tuple(map(str, unfinished)))):
        return number
    return next((each for each in FULL if f"(os error {each})" in str(error)), None)  # as Rust says it


def usual_permissions(unused: Path) -> int:
    """Those that `open` gives a new file, which follow from the process's mask. It is tried under an unused name:
    to ask for the mask is to change it for a moment, for all threads."""
    unused.touch(exist_ok=False)
    permissions = unused.stat().st_mode & 0o777
    unused.unlink()
    return permissions


def make_readable(files: Iterable[Path]) -> None:
    """Gives files of one's own the permissions that `open` gives new ones; safetensors makes them private."""
    permissions: dict[Path, int] = {}
    for each in files:
        if each.parent not in permissions:
            permissions[each.parent] = usual_permissions(each.with_name(f".{secrets.token_hex(8)}"))
        each.chmod(permissions[each.parent])
