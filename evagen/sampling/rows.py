"""The clips that a sampling run has finished: a line of JSON for each, written by any number of processes.

Each process appends to its own file; at the end they become `tokens.jsonl`, in the order of the clips' numbers. A run
that is started again finds all of them, whoever wrote them.
"""

import json
from pathlib import Path
from typing import Any

from evagen.errors import UserError
from evagen.kernels.files import atomic_write, json_object


class SampleRows:
    """folder: the run's; process: this one's number. done: the clips that were finished when this was made."""

    def __init__(self, folder: Path, process: int):
        self.folder = folder
        self.own = folder / f"tokens.{process}.jsonl"
        if self.own.exists():  # a line that a process was killed in is taken out, so that the next begins on its own
            whole = [line for line in self.own.read_text().splitlines(keepends=True) if line.endswith("\n")]
            self.own.write_text("".join(whole))
        self.done = set(self._all())

    def add(self, number: int, **values: Any) -> None:
        """A finished clip, whose files are written."""
        with self.own.open("a") as file:
            file.write(json.dumps({"number": number, **values}) + "\n")

    def count_all(self) -> int:
        """Clips finished up to now, by all processes."""
        return len(self._all())

    def join(self) -> None:
        """All rows into `tokens.jsonl`."""
        rows = self._all()
        with atomic_write(self.folder / "tokens.jsonl") as unfinished:
            unfinished.write_text("".join(json.dumps(rows[number]) + "\n" for number in sorted(rows)))
        for path in self.folder.glob("tokens.*.jsonl"):
            path.unlink()

    def write_manifest(self, values: dict[str, Any]) -> None:
        (self.folder / "manifest.json").write_text(json.dumps(values, indent=1))

    def _all(self) -> dict[int, dict]:
        rows = {}
        for path in [self.folder / "tokens.jsonl", *self.folder.glob("tokens.*.jsonl")]:
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            for line in lines:
                if line.endswith("\n"):
                    row = json.loads(line)
                    rows[row["number"]] = row
        return rows


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a finished sampling run, in the order of the clips' numbers. Raises UserError for a line that is no
    JSON object."""
    path, rows = folder / "tokens.jsonl", []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            rows.append(json_object(line))
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: {error}. `evagen sample` with another run.out writes it"
            ) from error
    return rows
