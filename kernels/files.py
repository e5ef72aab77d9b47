"""Where evagen keeps files for later runs, how a file is written so that nobody ever sees half of it, and how JSON that
somebody else wrote is read."""

import errno
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import pydantic

LARGEST_JSON = 2**24
"""Bytes of JSON that are read of a file which describes others, such as a config.json."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a disk, or what one may use of it, is full."""


def num_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def user_number() -> int:
    """Of whom this process works for, as `stat` gives it for files; on Windows 0 for everybody."""
    return os.getuid() if hasattr(os, "getuid") else 0


def home_folder() -> Path:
    """The user's; where none is known, as for a user without a name and without HOME, a private one for temporary
    files. It need not exist."""
    home = os.path.expanduser("~")
    return Path(tempfile.gettempdir(), f"evagen-{user_number()}") if home == "~" else Path(home)


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


def _unfinished_beside(path: Path) -> Path:
    """A name that nobody has: the process's number alone does not do, machines that share a disk may have processes of
    the same number."""
    return path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside the target, for a `with` block to write a file at. When the block ends without an error, the file
    takes the target's place at once, with the permissions that `open` gives a new file. After an error the target is
    what it was before. Folders above the target are made, and nothing unfinished is left behind.

    The unfinished file is hidden, its name tells the process, and it ends as the target's does, since some writers go
    by the ending. Raises FileNotFoundError for a block that writes no file, and OSError as `written_whole` does."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished_beside(path)
    with written_whole(path, unfinished):
        permissions = usual_permissions(unfinished)
        yield unfinished
        unfinished.chmod(permissions)  # some writers make files that are private
        os.replace(unfinished, path)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises the OSError that `atomic_write` would, before there is something to write. Folders above are made."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished_beside(path)
    with written_whole(path, unfinished):
        usual_permissions(unfinished)


def write_whole(path: str | os.PathLike[str], text: str, errors: str = "strict") -> None:
    """A file of text, by `atomic_write`. errors: as `open` takes it."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors=errors)


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


def write_through(folder: Path) -> None:
    """Waits until a folder and its files are on the disk: a machine that loses its power then keeps them."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("r+b") as file:  # Windows wants to be able to write it
                os.fsync(file.fileno())
    write_names_through(folder)


def write_names_through(folder: Path) -> None:
    """Waits until the disk has which files a folder holds, and opens none of them: to close a file is to give up the
    lock that this process has on it."""
    if hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def json_object(text: str | bytes, most: int = LARGEST_JSON) -> dict[str, Any]:
    """The object that JSON holds. Raises ValueError for anything else, and for what Python's reader lets pass: a name
    given twice, numbers that are none (NaN), nesting that is too deep, and more than `most` bytes."""
    if len(text) > most:
        raise ValueError(f"{len(text):,} bytes of JSON, at most {most:,} are read")
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"the JSON should be an object with names, not a {type(found).__name__}")
    return found


def read_json(path: str | os.PathLike[str], most: int = LARGEST_JSON) -> dict[str, Any]:
    """`json_object` of a file, of which no more is read than that. Raises ValueError likewise, OSError where there is
    no such file."""
    with Path(path).open("rb") as file:
        return json_object(file.read(most + 1), most)


def words_of(error: pydantic.ValidationError) -> str:
    """What is wrong with values that were read, in one line: the first five of them."""
    wrong = [f"{'.'.join(map(str, each['loc'])) or 'together'}: {each['msg']}" for each in error.errors()]
    return "; ".join(wrong[:5]) + f" and {len(wrong) - 5} more" * (len(wrong) > 5)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{max(names, key=names.count)!r} is given twice in the JSON")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number that JSON knows")


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
    if number is not None and str(name).startswith(tuple(map(str, unfinished))):
        return number
    return no_room(error)


def no_room(error: BaseException) -> int | None:
    """The system's number of an error because the disk, or what one may use of it, is full; None for any other."""
    number = getattr(error, "errno", None)
    if number is not None and number in FULL:
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
