"""The clips that a sampling run has finished: a line of JSON for each, written by any number of processes.

Each process appends to its own file; at the end they become `tokens.jsonl`, in the order of the clips' numbers. A run
that is started again finds all of them, whoever wrote them.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from evagen.errors import UserError
from evagen.kernels.files import atomic_write, json_object, write_whole
from evagen.kernels.names import path_inside
from evagen.run import MADE_FROM, check_same, read_made_from

MANIFEST = "manifest.json"


class SampleRows:
    """folder: the run's; process: this one's number. done: the clips that were finished when this was made."""

    def __init__(self, folder: Path, process: int):
        self.folder, self.process = folder, process
        self.own = folder / f"tokens.{process}.jsonl"
        data = self.own.read_bytes() if self.own.exists() else b""
        if data and not data.endswith(b"\n"):  # a process was killed in it; the next line begins on its own
            with atomic_write(self.own) as unfinished:  # other processes are reading the file at the same time
                unfinished.write_bytes(data[: data.rfind(b"\n") + 1])
        self.done = set(_places(folder))

    def begin(self, made_from: dict[str, str]) -> None:
        """For each process, before its first clip: what all clips are made from, which is kept beside them. Raises
        UserError where there are clips that were made from something else, as far as that is known: runs of before
        have it in the manifest alone, and not all of it."""
        paths = [path for path in (self.folder / MADE_FROM, self.folder / MANIFEST) if path.exists()]
        if self.done and paths:
            before = read_made_from(paths[0])
            check_same(self.folder, {name: before.get(name, made_from[name]) for name in made_from}, made_from)
        if self.process == 0:
            write_whole(self.folder / MADE_FROM, json.dumps(made_from, indent=1))

    def add(self, number: int, **values: Any) -> None:
        """A finished clip, whose files are written."""
        with self.own.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"number": number, **values}) + "\n")

    def count_all(self) -> int:
        """Clips finished up to now, by all processes."""
        return len(_places(self.folder))

    def join(self) -> None:
        """All rows into `tokens.jsonl`, one after another: with their tokens they may be more than memory holds."""
        places = _places(self.folder)
        with (
            atomic_write(self.folder / "tokens.jsonl") as unfinished,
            ExitStack() as opened,
            unfinished.open("wb") as out,
        ):
            files = {path: opened.enter_context(path.open("rb")) for path in {path for path, _ in places.values()}}
            for number in sorted(places):
                path, begin = places[number]
                files[path].seek(begin)
                out.write(files[path].readline())
        for path in self.folder.glob("tokens.*.jsonl"):
            path.unlink()

    @property
    def are_finished(self) -> bool:
        """Whether the manifest is there, which is written last."""
        return (self.folder / MANIFEST).exists()

    def write_manifest(self, values: dict[str, Any]) -> None:
        write_whole(self.folder / MANIFEST, json.dumps(values, indent=1))


def finished_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows that any process has finished, in the order in which they are found; a process that was killed while it
    joined the rows leaves some twice. Raises UserError for a file that is damaged."""
    return (row for _, _, row in _finished(folder))


def _places(folder: Path) -> dict[int, tuple[Path, int]]:
    """The file of each finished row, and where in it the row begins, by the clips' numbers."""
    return {int(row["number"]): (path, begin) for path, begin, row in _finished(folder)}


def _finished(folder: Path) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    for path in filter(Path.exists, [folder / "tokens.jsonl", *sorted(folder.glob("tokens.*.jsonl"))]):
        begin = 0
        with path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    yield path, begin, _row(path, line)
                begin += len(line)


def _row(path: Path, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
        int(row["number"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it, and the clips of its lines are written again"
        ) from error
    return row


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a finished sampling run, in the order of the clips' numbers. Raises UserError for one without, and
    for a line that is no JSON object."""
    return list(iterate_rows(folder))


def iterate_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The same, one by one: with their codes many of them take gigabytes."""
    path = folder / "tokens.jsonl"
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                yield _object(path, number, line)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}. It is what a finished `evagen sample` leaves") from error


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        return json_object(line)
    except ValueError as error:
        raise UserError(f"{path}, line {number}: {error}. `evagen sample` with another run.out writes it") from error


def file_of(folder: Path, row: Mapping[str, Any]) -> Path:
    """The video or picture of a clip. Raises UserError for a row that names none inside the run folder."""
    try:
        return path_inside(folder, str(row.get("path") or ""))
    except ValueError as error:
        raise UserError(f"a row of tokens.jsonl is not as `evagen sample` writes it: {error}") from error
