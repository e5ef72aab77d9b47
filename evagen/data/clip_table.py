"""Tables with rows for each clip, computed by any number of processes, which an interruption costs next to nothing.

    fill_table(out / "record", dataset, rows_of, about, accelerator, batch_size=4)      # in every process
    table, about = open_table(out / "record", "curation record", "curate")    # in whatever reads it

The unit of work is the batch: batch b holds the clips [b B, (b + 1) B) of the data set, whoever computes it and when.
Sums of floating point numbers depend on what stands beside in a batch, so this is what makes the finished table the
same to the last bit for one process, for several, and after any interruption, with as many threads in each.

Every process writes the rows of its batches as parts (`table_parts.py`). In the end one of them streams the parts into
a `datasets` table, in the order of the data set, with `about.json` inside.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset, load_from_disk
from pydantic import ValidationError
from tqdm.auto import tqdm

from evagen.config import Section
from evagen.data.clips import Clip, SkippedClip, report_skipped
from evagen.data.loader import ClipBatch, clip_loader
from evagen.data.lost_clips import TRIES
from evagen.data.table_parts import (
    BatchInfo,
    PartWriter,
    parts_folder,
    progress,
    read_parts,
    tidy_parts,
)
from evagen.errors import UserError
from evagen.kernels.files import read_json, words_of, write_through, written_whole
from evagen.run import check_same

RowsOf = Callable[[ClipBatch], list[dict[str, Any]]]
"""The rows of a batch's clips, in the clips' order: numbers, strings and 1D arrays by column name."""


class NumberedClips(Protocol):
    """What rows are computed of: clips by number, such as a `ClipDataset`. `fingerprint` changes where a number no
    longer means the same clip; `skipped` and `num_files` are for the report in the end."""

    skipped: list[SkippedClip]

    @property
    def num_files(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: int) -> Clip | SkippedClip: ...

    def fingerprint(self) -> str: ...


LARGEST_ABOUT = 2**28
"""Bytes of `about.json`, which lists what was skipped."""
COPIED_TOGETHER = 256
"""Batches whose rows are copied at once from the parts into the table, which bounds memory."""


class About(Section):
    """What a finished table says of itself, `about.json`. made_from: what its rows follow from; contents: what its
    readers need besides; skipped: clips that have no rows."""

    rows: int
    skipped: list[SkippedClip]
    made_from: dict[str, Any]
    contents: dict[str, Any]


def fill_table(
    table: Path,
    dataset: NumberedClips,
    rows_of: RowsOf,
    about: dict[str, Any],
    accelerator: Accelerator,
    batch_size: int,
    num_workers: int = 0,
    save_seconds: float = 60,
    contents: dict[str, Any] | None = None,
) -> None:
    """Computes the rows that are not there yet and makes the table of them; to be called by all processes alike. It
    returns when the table is there. Clips that cannot be decoded have no rows and are reported once, in the end.

    about: what the rows are made from, as JSON values; kept with the table.
    contents: what else readers of the table need, likewise.
    save_seconds: time between parts. A process that is killed loses what it computed since; one that fails or is
        interrupted (Ctrl-C) loses nothing.

    Raises UserError where an earlier run made rows from something else, no clip could be decoded, or so many files in
    a row that they are gone rather than damaged: clips of these are computed when the same call is made again."""
    about = check_rows(table, dataset, about, accelerator, batch_size)
    if table.exists():
        return
    accelerator.wait_for_everyone()
    done = {batch.number for part in read_parts(table) for batch in part.info.batches}
    accelerator.wait_for_everyone()  # nobody adds parts while another still looks which there are
    keys = [range(first, min(first + batch_size, len(dataset))) for first in range(0, len(dataset), batch_size)]
    pending = [number for number in range(len(keys)) if number not in done]
    mine = pending[accelerator.process_index :: accelerator.num_processes]
    loader = clip_loader(dataset, [keys[number] for number in mine], num_workers)  # type: ignore[arg-type]
    writer = PartWriter(table, len(dataset), about, save_seconds)
    bar = tqdm(
        total=len(dataset), initial=len(dataset) - sum(len(keys[number]) for number in pending), unit="clip",
        desc=table.parent.name, disable=not accelerator.is_local_main_process, dynamic_ncols=True,
    )  # fmt: skip
    with bar, writer:
        for number, batch in _while_there(zip(mine, loader)):
            writer.add(number, rows_of(batch) if batch else [], batch.skipped)
            bar.update(min(len(keys[number]) * accelerator.num_processes, bar.total - bar.n))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        skipped = _join(table, len(keys), about, contents or {})
        report_skipped(dataset.skipped + skipped, dataset.num_files)
    accelerator.wait_for_everyone()


def _while_there(batches: Iterable[tuple[int, ClipBatch]]) -> Iterator[tuple[int, ClipBatch]]:
    """Numbered batches, those of which nothing can be read only together with the next of which something can: a table
    would say for ever that their clips are damaged. Raises UserError where that does not come."""
    held: list[tuple[int, ClipBatch]] = []
    for numbered in batches:
        held.append(numbered)
        if numbered[1]:
            yield from held
            held.clear()
        elif len(files := {clip.path: clip.reason for _, batch in held for clip in batch.skipped}) > TRIES:
            path, reason = list(files.items())[-1]
            raise UserError(
                f"{len(files)} files in a row cannot be read, the last {path}: {reason}. See whether the data set is "
                "still there; the same command goes on where it was. Where they are damaged, `evagen data scan` makes "
                "a list of such files, which is then left out: give another run.out"
            )
    yield from held


def check_rows(
    table: Path, dataset: NumberedClips, about: dict[str, Any], accelerator: Accelerator, batch_size: int
) -> dict[str, Any]:
    """All that the rows follow from. Raises UserError where an earlier run made rows, all or some, from something else,
    or where other processes would; to be called by all of them alike, before anything is computed."""
    about = {"videos": dataset.fingerprint(), "batch_size": batch_size, **about}
    everywhere = gather_object([about])
    if differing := [name for name in about if any(other.get(name) != about[name] for other in everywhere)]:
        raise UserError(
            f"the processes do not find the same {', '.join(differing)}: give all of them the same files, under the "
            "same names"
        )
    if table.exists():
        try:
            made_from = About.model_validate(read_json(table / "about.json", LARGEST_ABOUT)).made_from
        except (OSError, ValueError) as error:
            raise UserError(f"{table} is damaged: {error}. Delete it and give the same command again") from error
        check_same(table, made_from, about)
    elif accelerator.is_main_process:
        tidy_parts(table, about)
    return about


def open_table(table: Path, what: str, command: str) -> tuple[Dataset, About]:
    """A finished table, memory-mapped, and what it says of itself. `what` it holds and the `command` that makes it are
    for the message of the UserError that is raised when it is missing, unfinished or damaged."""
    if not table.is_dir():
        raise unfinished(table, what, command)
    try:
        about = About.model_validate(read_json(table / "about.json", LARGEST_ABOUT))
        for each in read_json(table / "state.json").get("_data_files", []):  # nothing but what lies in the folder
            if Path(each["filename"]).name != each["filename"]:
                raise ValueError(f"state.json names a file elsewhere, {each['filename']}")
        rows = load_from_disk(table)
        if len(rows) != about.rows:
            raise ValueError(f"{len(rows)} of {about.rows} rows are there")
    except ValidationError as error:
        raise damaged(table, what, command, words_of(error)) from error
    except Exception as error:  # the readers raise a dozen kinds on damaged files
        raise damaged(table, what, command, error) from error
    return rows, about


def damaged(table: Path, what: str, command: str, error: object) -> UserError:
    """The error that says what is wrong with a table and how to make it again."""
    return UserError(
        f"the {what} in {table} is damaged: {error}. Delete {table} and run `evagen {command}` with "
        f"{table.parent / 'config.yaml'} to make it again"
    )


def check_lists(rows: pa.Table, name: str, length: int | None, whole: bool) -> np.ndarray:
    """How many numbers each row has in a column of lists, int64 (rows,). Their values are not read, and stay on disk.
    length: which all have to have; whole: whether they have to be integers. Raises ValueError for another column, for
    lists of other lengths and for numbers that are missing."""
    column = rows[name] if name in rows.column_names else None
    if column is None or not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise ValueError(f"it has no column {name} of lists of numbers")
    column.validate(full=True)  # pyarrow itself believes whatever a damaged file says
    found = pc.list_value_length(column).to_numpy()
    if column.null_count or (length is not None and not (found == length).all()):
        raise ValueError(f"rows of {name} do not have {length} numbers each")
    kind = column.type.value_type
    is_number = pa.types.is_integer(kind) or (pa.types.is_floating(kind) and not whole)
    if not is_number or any(chunk.flatten().null_count for chunk in column.chunks):
        raise ValueError(f"{name} holds what is no {'whole' if whole else 'finite'} number")
    return found


def numbers_of(rows: pa.Table, name: str, length: int, whole: bool) -> np.ndarray:
    """All numbers of a column of lists of one length, one list after another. Raises ValueError as `check_lists` does,
    and for numbers that are not finite."""
    check_lists(rows, name, length, whole)
    numbers = rows[name].combine_chunks().flatten().to_numpy()
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} holds what is no finite number")
    return numbers


def unfinished(table: Path, what: str, command: str) -> UserError:
    """The error that says how far an unfinished table is and how to finish it."""
    out, parts = table.parent, read_parts(table)
    if not parts:
        return UserError(f"{out} holds no finished {what}; run `evagen {command}` with run.out={out}")
    return UserError(
        f"{out} holds no finished {what}: {progress(parts)} clips done; run `evagen {command}` with the same config, "
        f"{out / 'config.yaml'}, to finish it"
    )


def _join(table: Path, num_batches: int, about: dict[str, Any], contents: dict[str, Any]) -> list[SkippedClip]:
    """Streams the parts into the table and deletes them; returns the clips that have no rows."""
    skipped = _write_table(table, num_batches, about, contents)
    shutil.rmtree(parts_folder(table))  # none of its files is mapped by now: Windows would not delete one that is
    return skipped


def _write_table(table: Path, num_batches: int, about: dict[str, Any], contents: dict[str, Any]) -> list[SkippedClip]:
    """The table of the parts, which stay."""
    tidy_parts(table, about)
    parts, folder = read_parts(table), parts_folder(table)
    places: dict[int, tuple[BatchInfo, pa.Table, int]] = {}  # a batch's rows: of which part, and from where on
    for info, rows in parts:
        starts = accumulate((batch.rows for batch in info.batches), initial=0)
        places |= {batch.number: (batch, rows, start) for batch, start in zip(info.batches, starts)}
    if len(places) < num_batches:
        raise UserError(f"{progress(parts)} clips are in {folder}, the rest was lost; run the same command again")
    in_order = [places[number] for number in range(num_batches)]
    skipped = [clip for batch, _, _ in in_order for clip in batch.skipped]
    pieces = [(rows, start, batch.rows) for batch, rows, start in in_order if batch.rows]
    if not pieces:
        raise UserError(f"none of {len(skipped)} clips could be decoded, {skipped[0].path}: {skipped[0].reason}")
    joined, partial = folder / "joined.partial", table.with_name(f"{table.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with written_whole(table, joined, partial):
        with joined.open("wb") as file, pa.ipc.new_stream(file, pieces[0][0].schema) as stream:
            for first in range(0, len(pieces), COPIED_TOGETHER):
                slices = [rows.slice(start, count) for rows, start, count in pieces[first : first + COPIED_TOGETHER]]
                stream.write_table(pa.concat_tables(slices).combine_chunks())
        rows = Dataset.from_file(str(joined))
        rows.save_to_disk(partial)
        made = {
            "rows": len(rows), "skipped": [asdict(clip) for clip in skipped], "made_from": about, "contents": contents,
        }  # fmt: skip
        (partial / "about.json").write_text(json.dumps(made, indent=1), encoding="utf-8")
        write_through(partial)  # all of it is on the disk before the parts go
        partial.rename(table)
    return skipped
