"""Where evagen keeps files for later runs, and how a file is written so that nobody ever sees half of it."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """The folder that EVAGEN_CACHE names, `~/.cache/evagen` if unset. It need not exist."""
    return Path(os.environ.get("EVAGEN_CACHE") or Path.home() / ".cache" / "evagen")


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
    by the ending. Raises FileNotFoundError for a block that writes no file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the number alone does not do: machines that share a disk may have processes of the same number
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        unfinished.touch(exist_ok=False)
        permissions = unfinished.stat().st_mode & 0o777
        unfinished.unlink()
        yield unfinished
        unfinished.chmod(permissions)  # some writers make files that are private
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """`atomic_write` for a folder: an empty one beside the target, for a `with` block to fill. When the block ends
    without an error it takes the target's place, its files with the permissions that `open` gives a new file; after an
    error nothing is left of it. Raises FileExistsError where the target holds something by then."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    unfinished.mkdir()
    try:
        yield unfinished
        (probe := unfinished / f".{secrets.token_hex(4)}").touch()
        permissions = probe.stat().st_mode & 0o777
        probe.unlink()
        for each in unfinished.rglob("*"):
            if each.is_file():
                each.chmod(permissions)
        if path.exists():
            if any(path.iterdir()):
                raise FileExistsError(f"{path} is there by now")
            path.rmdir()
        os.replace(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
