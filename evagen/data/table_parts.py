"""What a clip table is made of, beside it until it is finished: `record.parts/` for `record`.

A part is an Arrow file with the rows of some batches. It gets its name when it is whole, and says in its metadata which
batches these are and what the rows are made from.
"""

import errno
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from evagen.config import Section
from evagen.data.clips import SkippedClip
from evagen.errors import UserError
from evagen.kernels.files import written_whole
from evagen.run import check_same


class BatchInfo(Section):
    """What a part says of a batch: its number in the data set, how many rows it has, and clips without rows."""

    number: int
    rows: int
    skipped: list[SkippedClip]


class PartInfo(Section):
    """What a part says of itself. batches: in the order of their rows; clips: of the whole data set."""

    batches: list[BatchInfo]
    clips: int
    about: dict[str, Any]


class Part(NamedTuple):
    """rows: memory-mapped."""

    info: PartInfo
    rows: pa.Table


class PartWriter:
    """Keeps finished batches and writes them as a part when `save_seconds` have passed, and when its `with` ends.
    clips: of the whole data set; about: what rows are made from."""

    def __init__(self, table: Path, clips: int, about: dict[str, Any], save_seconds: float):
        self.folder, self.clips, self.about, self.save_seconds = parts_folder(table), clips, about, save_seconds
        self.batches: list[tuple[BatchInfo, list[dict]]] = []
        self.saved = time.monotonic()

    def add(self, number: int, rows: list[dict], skipped: list[SkippedClip]) -> None:
        self.batches.append((BatchInfo(number=number, rows=len(rows), skipped=skipped), rows))
        if time.monotonic() - self.saved >= self.save_seconds:
            self.save()

    def save(self) -> None:
        if not self.batches:
            return
        info = PartInfo(batches=[batch for batch, _ in self.batches], clips=self.clips, about=self.about)
        rows = pa.Table.from_pylist([row for _, rows in self.batches for row in rows])
        rows = rows.replace_schema_metadata({"evagen": info.model_dump_json()})
        path = self.folder / f"{info.batches[0].number:08d}.arrow"
        partial = path.with_suffix(".partial")
        with written_whole(path, partial):
            with partial.open("wb") as file:
                with pa.ipc.new_stream(file, rows.schema) as stream:
                    stream.write_table(rows)
                os.fsync(file.fileno())
            partial.replace(path)
        self.batches, self.saved = [], time.monotonic()

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self.save()


def parts_folder(table: Path) -> Path:
    return table.with_name(f"{table.name}.parts")


def read_parts(table: Path) -> list[Part]:
    """Those that are whole."""
    parts = [_read_part(path) for path in sorted(parts_folder(table).glob("*.arrow"))]
    return [part for part in parts if part is not None]


def _read_part(path: Path) -> Part | None:
    """None for a file that is not whole, which only a crash of the machine can leave, or is gone by now. Raises
    UserError for one that the system does not give: it may be whole, so it must not be taken for torn."""
    try:
        with pa.memory_map(str(path)) as file:
            rows = pa.ipc.open_stream(file).read_all()
        info = PartInfo.model_validate_json(rows.schema.metadata[b"evagen"])
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        number = getattr(error, "errno", None)  # pyarrow's own errors have none
        if number not in (None, errno.ENOENT):
            raise UserError(
                f"{path} cannot be read ({os.strerror(number)}); it holds finished clips and stays: see to the disk, "
                "or to what one may map of it, and give the same command again"
            ) from error
        return None
    whole = len(rows) == sum(batch.rows for batch in info.batches)
    return Part(info, rows.replace_schema_metadata(None)) if whole else None


def progress(parts: list[Part]) -> str:
    """How many clips of all have been computed, in words."""
    if not parts:
        return "no"
    info = parts[0].info
    size, numbers = info.about["batch_size"], {batch.number for part in parts for batch in part.info.batches}
    return f"{sum(min(size, info.clips - number * size) for number in numbers)} of {info.clips}"


def tidy_parts(table: Path, about: dict[str, Any]) -> None:
    """Takes out files that are not whole, whose clips are then computed again."""
    folder = parts_folder(table)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.partial"):
        path.unlink()
    for path in sorted(folder.glob("*.arrow")):
        part = _read_part(path)
        if part is None:
            path.unlink()
        else:
            check_same(folder, part.info.about, about)
