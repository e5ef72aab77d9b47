"""Names that come from files: of classes, videos, clips. Whatever a name holds, it is never a path, and never more than
a line of text."""

import hashlib
import os
import re
import shlex
from pathlib import Path
from typing import Annotated

import pydantic

LONGEST_FILE_NAME, LONGEST_LINE = 100, 200
"""Bytes in UTF-8, and characters. File systems take 255 bytes, of which what a caller appends needs some."""
_FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
"""By one file system or another."""
_OF_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
"""What Windows keeps for itself."""
_OF_RUNS = re.compile(r".*\.(jsonl?|ya?ml)", re.DOTALL | re.IGNORECASE)
"""Such as `config.yaml`: a run folder has files of its own."""
_MARKED = re.compile(r".*~[0-9a-f]{12}", re.DOTALL)
"""What `file_name_of` makes of the others."""


def file_name_of(name: str) -> str:
    """A name as that of a file or folder, on any file system. It has no separator and is neither `.` nor `..`.

    An ordinary name stays as it is: `mountain climber (exercise)`, `café`. Any other keeps its readable characters and
    gets a mark that follows from the whole name: `a/b` becomes `a_b~c14cddc033f6`. So two names never share a file."""
    if _is_ordinary(name):
        return name
    readable = "".join(each if _is_plain(each) else "_" for each in name)
    readable = re.sub(r"_+", "_", readable).strip("._- ~")
    cut = readable.encode()[: LONGEST_FILE_NAME - 13].decode(errors="ignore")
    return f"{cut or '_'}~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _is_ordinary(name: str) -> bool:
    return (
        bool(name)
        and all(map(_is_plain, name))
        and name[0] not in ".-~ "
        and name[-1] not in ". "
        and len(name.encode()) <= LONGEST_FILE_NAME
        and not any(pattern.fullmatch(name) for pattern in (_OF_DEVICES, _OF_RUNS, _MARKED))
    )


def _is_plain(character: str) -> bool:
    return character.isprintable() and not _FORBIDDEN.match(character)


def path_inside(folder: str | Path, name: str) -> Path:
    """The file that a list in or about a folder names. Raises ValueError for a name that leads out of the folder, as
    `../x.avi` and `/x.avi` do."""
    if not name or "\0" in name or Path(name).anchor or ".." in re.split(r"[/\\]", name):
        raise ValueError(f"{as_line(name)!r} leads out of {folder}")
    return Path(folder, name)


def as_argument(path: str | os.PathLike[str]) -> str:
    """A path or name as one word of a command that can be copied into a shell: quoted where that is needed, and never
    an option, as one with a dash in front would be."""
    path = os.fspath(path)
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def as_text(name: str | os.PathLike[str]) -> str:
    """A path or name as text that can be written anywhere: bytes that are not UTF-8, which Python keeps as surrogates,
    are written `\\xca`. Other names stay as they are."""
    name = os.fspath(name)
    try:
        name.encode()
    except UnicodeEncodeError:
        escaped = (rf"\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c for c in name)
        return "".join(escaped).encode(errors="backslashreplace").decode()
    return name


Text = Annotated[str, pydantic.AfterValidator(as_text)]
"""In what is written as JSON: a string that may hold a name or path. pydantic reads and writes no surrogates there."""


def check_utf8(path: str | os.PathLike[str]) -> None:
    """Raises ValueError for a path of other bytes, under which safetensors and Arrow read no file."""
    if as_text(path) != os.fspath(path):
        raise ValueError(
            f"weights and tables are read under names in UTF-8 alone, which {as_text(path)} is not: give it another"
        )


def as_line(name: str, longest: int = LONGEST_LINE) -> str:
    """A name on one line, for people: what cannot be printed is escaped (`\\n`), and a long one is cut."""
    line = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in as_text(name))
    return line if len(line) <= longest else line[: longest - 1] + "…"
