"""Where evagen keeps files for later runs, how a file is written so that nobody ever sees half of it, and how JSON that
somebody else wrote is read."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pydantic

LARGEST_JSON = 2**24
"""Bytes of JSON that are read of a file which describes others, such as a config.json."""


def cache_folder() -> Path:
    """The folder that EVAGEN_CACHE names, `~/.cache/evagen` if unset. It need not exist."""
    return Path(os.environ.get("EVAGEN_CACHE") or Path.home() / ".cache" / "evagen")


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
