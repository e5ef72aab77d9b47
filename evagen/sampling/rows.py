"""The clips that a sampling run has finished: a line of JSON for each, written by any number of processes.

Each process appends to its own file; at the end they become `tokens.jsonl`, in the order of the clips' numbers. A run
that is started again finds all of them, whoever wrote them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evagen.data.table_parts import check_same
from evagen.errors import UserError
from evagen.kernels.files import atomic_write, json_object, read_json, write_whole
from evagen.kernels.names import path_inside
from evagen.run import MADE_FROM

MANIFEST = "manifest.json"


class SampleRows:
    """folder: the run's; process: this one's number. done: the clips that were finished when this was made."""

    def __init__(self, folder: Path, process: int):
        self.folder, self.process = folder, process
        self.own = folder / f"tokens.{process}.jsonl"
        lines = self.own.read_bytes().splitlines(keepends=True) if self.own.exists() else []
        if lines and not lines[-1].endswith(b"\n"):  # a process was killed in it; the next line begins on its own
            with atomic_write(self.own) as unfinished:  # other processes are reading the file at the same time
                unfinished.write_bytes(b"".join(lines[:-1]))
        self.done = set(finished_rows(folder))

    def begin(self, made_from: dict[str, str]) -> None:
        """For each process, before its first clip: what all clips are made from, which is kept beside them. Raises
        UserError where there are clips that were made from something else, as far as that is known: runs of before
        have it in the manifest alone, and not all of it."""
        paths = [path for path in (self.folder / MADE_FROM, self.folder / MANIFEST) if path.exists()]
        if self.done and paths:
            try:
                before = read_json(paths[0])
            except ValueError as error:
                raise UserError(f"{paths[0]} is damaged ({error}): delete {self.folder} to start afresh") from error
            check_same(self.folder, {name: before.get(name, made_from[name]) for name in made_from}, made_from)
        if self.process == 0:
            write_whole(self.folder / MADE_FROM, json.dumps(made_from, indent=1))

    def add(self, number: int, **values: Any) -> None:
        """A finished clip, whose files are written."""
        with self.own.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"number": number, **values}) + "\n")

    def count_all(self) -> int:
        """Clips finished up to now, by all processes."""
        return len(finished_rows(self.folder))

    def join(self) -> None:
        """All rows into `tokens.jsonl`."""
        rows = finished_rows(self.folder)
        write_whole(self.folder / "tokens.jsonl", "".join(json.dumps(rows[number]) + "\n" for number in sorted(rows)))
        for path in self.folder.glob("tokens.*.jsonl"):
            path.unlink()

    @property
    def are_finished(self) -> bool:
        """Whether the manifest is there, which is written last."""
        return (self.folder / MANIFEST).exists()

    def write_manifest(self, values: dict[str, Any]) -> None:
        write_whole(self.folder / MANIFEST, json.dumps(values, indent=1))


def finished_rows(folder: Path) -> dict[int, dict[str, Any]]:
    """The rows that any process has finished, by the clips' numbers. Raises UserError for a file that is damaged."""
    rows = {}
    for path in [folder / "tokens.jsonl", *sorted(folder.glob("tokens.*.jsonl"))]:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for line in lines:
            if line.endswith(b"\n"):
                try:
                    row = json.loads(line)
                    rows[int(row["number"])] = row
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise UserError(
                        f"{path} is damaged ({error}): delete it, and the clips of its lines are written again"
                    ) from error
    return rows


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a finished sampling run, in the order of the clips' numbers. Raises UserError for one without, and
    for a line that is no JSON object."""
    path, rows = folder / "tokens.jsonl", []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}. It is what a finished `evagen sample` leaves") from error
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json_object(line))
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: {error}. `evagen sample` with another run.out writes it"
            ) from error
    return rows


def file_of(folder: Path, row: Mapping[str, Any]) -> Path:
    """The video or picture of a clip. Raises UserError for a row that names none inside the run folder."""
    try:
        return path_inside(folder, str(row.get("path") or ""))
    except ValueError as error:
        raise UserError(f"a row of tokens.jsonl is not as `evagen sample` writes it: {error}") from error
