"""Data sets of the `datasets` library with a column of videos: saved with `save_to_disk`, or anything that
`load_dataset` can load, by folder or by its name on the hub.

A video is a file named in its row, or the bytes of one in the row itself (a Video column or a binary one). Bytes stay
in the memory-mapped table: reading a clip touches those of its own row only. Decoding is PyAV's as for all videos.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict, Value, Video, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from evagen.data.layouts import SPLIT_NAMES, SPLIT_OF, LeftOut, Listing, Split, VideoFile, remarks_on_split, splits_for
from evagen.errors import UserError
from evagen.kernels.words import counted


@dataclass(frozen=True, slots=True)
class TableVideo:
    """The video in a cell of an Arrow file, as `datasets` writes them."""

    file: str
    column: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}#{self.column}[{self.row}]"

    def open_stream(self) -> BinaryIO:
        """The cell's bytes, not copied. Raises OSError for one without."""
        cell = _column(self.file, self.column)[self.row]
        content = cell["bytes"] if pa.types.is_struct(cell.type) else cell
        if not content.is_valid:
            raise OSError(f"{self} holds no bytes")
        return cast(BinaryIO, pa.BufferReader(content.as_buffer()))


def list_huggingface(root: Path, split: Split, video_column: str | None, label_column: str | None) -> Listing:
    """The videos of a data set in its order, and its class names: those of a ClassLabel column, or the different
    values of another one, sorted, in all splits, so that a label means the same in each.

    `root`: a folder or a name on the hub. `video_column`: the only one of videos if None. `label_column`: `label`,
    where there is one, if None. A data set without splits is all `train`.
    Raises UserError when it cannot be loaded or has no such split or column."""
    tables = _load(root)
    chosen = splits_for(split, tables)
    if not chosen:
        raise UserError(
            f"{root} has no {split} split, it has {', '.join(tables)}; data.split=all takes every row, and holds none "
            "out"
        )
    some = tables[chosen[0]]
    videos = video_column or _only_video_column(root, some)
    labels = label_column or ("label" if "label" in some.column_names else None)
    for name in filter(None, (videos, labels)):
        if name not in some.column_names:
            raise UserError(f"{root} has no column {name!r}; it has {', '.join(some.column_names)}")
    class_names, number_of = _classes(root, tables, labels)
    listing = Listing([], class_names, remarks=_remarks_on_parts(root, tables, split, chosen))
    for part in chosen:
        if videos not in tables[part].column_names:
            raise UserError(f"the part {part} of {root} has no column {videos!r}, as others have: give another split")
        values = _values(tables[part], labels)
        for cell, value in zip(_cells(tables[part], videos), values):
            label = number_of.get(value, -1)
            if isinstance(cell, LeftOut):
                listing.left_out.append(cell._replace(label=label))
            else:
                listing.files.append(VideoFile(cell, label))
    if listing.left_out:
        rows = counted(len(listing.left_out), f"row of {root} holds", f"rows of {root} hold")
        listing.remarks.append(f"{rows} no video that is on this machine")
    if not listing.files:
        raise UserError(f"no row of {root} holds a video in column {videos!r} that is on this machine")
    return listing


def is_saved(folder: Path) -> bool:
    """Whether a folder is what `save_to_disk` leaves."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _load(root: Path) -> dict[str, Dataset]:
    """The data set's splits by our names for them, under their own where they have another."""
    try:
        loaded = load_from_disk(str(root)) if is_saved(root) else load_dataset(str(root))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, DatasetsError) as error:
        # `datasets` says of a damaged file only that it failed, and keeps the reason beneath
        reason = f"{error} ({error.__cause__})" if error.__cause__ else str(error)
        raise UserError(
            f"{root} cannot be loaded as a data set of the `datasets` library, neither saved with `save_to_disk` nor "
            f"from the hub: {type(error).__name__}: {reason}"
        ) from error
    if isinstance(loaded, Dataset):
        return {"train": loaded}
    parts: dict[str, Dataset] = {}
    for name, table in cast(DatasetDict, loaded).items():
        part = SPLIT_OF.get(str(name).lower(), str(name))
        parts[str(name) if part in parts else part] = table
    return parts


def _remarks_on_parts(root: Path, tables: Collection[str], split: Split, chosen: Sequence[str]) -> list[str]:
    """Which parts of the data set a request does not mean by a name that is no split's."""
    others = [name for name in tables if name not in SPLIT_NAMES]
    told = [f"of {root} the parts {', '.join(others)} are left out: no split is called so"] if others else []
    return told + remarks_on_split(root, split, chosen)


def _only_video_column(root: Path, table: Dataset) -> str:
    found = [name for name, feature in table.features.items() if isinstance(feature, Video)]
    if len(found) != 1:
        raise UserError(
            f"{root} has {len(found) or 'no'} columns of type Video; say with video_column which holds the videos, "
            f"of {', '.join(table.column_names)}"
        )
    return found[0]


def _classes(root: Path, tables: Mapping[str, Dataset], column: str | None) -> tuple[list[str], dict[Any, int]]:
    """Class names, and the label of each value of the column."""
    if column is None:
        return [], {}
    features = [table.features[column] for table in tables.values() if column in table.column_names]
    kinds = {str(feature) for feature in features}
    if len(kinds) > 1:
        raise UserError(
            f"the column {column!r} of {root} is not the same in {', '.join(tables)}: {'; '.join(sorted(kinds))}. A "
            "label would mean another class in each; give label_column another one, or make it the same"
        )
    if isinstance(features[0], ClassLabel):
        return list(features[0].names), {number: number for number in range(features[0].num_classes)}
    if not isinstance(features[0], Value):
        raise UserError(
            f"the column {column!r} of {root} holds several values a row ({features[0]}), but a video has one class; "
            "give label_column a column of single values, or make one"
        )
    values = sorted({value for table in tables.values() for value in _values(table, column) if value is not None})
    return [str(value) for value in values], {value: label for label, value in enumerate(values)}


def _values(table: Dataset, column: str | None) -> list[Any]:
    """Of each row, None where there is no such column."""
    if column is None or column not in table.column_names:
        return [None] * len(table)
    return table.data.column(column).to_pylist()


def _cells(table: Dataset, column: str) -> Iterator[str | TableVideo | LeftOut]:
    """Where each row's video is; a LeftOut has no label yet."""
    files = [str(found["filename"]) for found in table.cache_files]
    if sum(len(_column(file, column)) for file in files) != len(table):
        raise UserError("only some rows of a table were loaded; save the data set with `save_to_disk`")
    for file in files:
        cells = _column(file, column)
        for row, (path, has_bytes) in enumerate(_paths_and_bytes(cells, column)):
            video = TableVideo(file, column, row)
            if has_bytes:
                yield video
            elif path is None:
                yield LeftOut(str(video), -1, "the row is empty")
            elif "://" in path:
                yield LeftOut(path, -1, "not on this machine; save the data set with its videos inside")
            else:
                yield path


def _paths_and_bytes(cells: pa.ChunkedArray, column: str) -> Iterator[tuple[str | None, bool]]:
    """For each cell the path in it and whether it holds bytes, none of which are read."""
    kind = cells.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        yield from ((None, has) for has in pc.is_valid(cells).to_pylist())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield from ((path, False) for path in cells.to_pylist())
    elif pa.types.is_struct(kind) and {field.name for field in kind} >= {"bytes", "path"}:
        has_bytes = pc.is_valid(pc.struct_field(cells, "bytes")).to_pylist()
        yield from zip(pc.struct_field(cells, "path").to_pylist(), has_bytes)
    else:
        raise UserError(f"column {column!r} holds {kind}; videos are a Video column, file names, or bytes of files")


@lru_cache(maxsize=4096)
def _column(file: str, column: str) -> pa.ChunkedArray:
    """Of a file as `datasets` writes them, memory-mapped; not through `datasets`, which takes ten times as long for a
    checksum that nobody asks for. Large data sets have more than a thousand files, and clips are drawn from all."""
    with pa.memory_map(file) as opened:
        return pa.ipc.open_stream(opened).read_all()[column]
