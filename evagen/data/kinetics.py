"""Kinetics (400, 600, 700) as people have it: class folders, or loose files with the official CSV lists.

    root/train/<class>/<YouTube id>_<start>_<end>.mp4     splits and classes by folder; also without train/ and val/
    root/train/<YouTube id>_<start>_<end>.mp4             with train.csv, val.csv (or .txt) in root or root/annotations

No two copies are alike: videos vanish from YouTube, lists lack videos that are there, class folders are spelt with
underscores, files lose their times. So a folder counts for more than a list, and what is not there is counted, not an
error.
"""

import csv
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from evagen.data.found_files import FoundFiles, check_folder, find_videos, looked_for, read_lines
from evagen.data.layouts import (
    SPLIT_NAMES,
    SPLIT_OF,
    LeftOut,
    Listing,
    Split,
    VideoFile,
    remarks_on_split,
    split_folders,
    splits_for,
)
from evagen.errors import UserError
from evagen.kernels.names import as_line
from evagen.kernels.words import counted

FILE_NAME = re.compile(r"(?P<id>.{11})(?:_(?P<start>\d+)_\d+)?")
"""A YouTube id has eleven characters, `_` and `-` among them; then the times in seconds."""

LAYOUT = (
    "the layout kinetics needs class folders, ROOT/train/CLASS/ID_START_END.mp4, or loose videos of such names and the "
    "official lists, train.csv and val.csv, in ROOT or ROOT/annotations; videos without classes are layout=folder"
)


class Row(NamedTuple):
    """A line of a list, times in seconds. label: None where the list tells none, as some test lists; split: None if
    neither its column nor the list's name tells."""

    label: str | None
    youtube_id: str
    start: int
    end: int
    split: str | None


PATHS_AND_NUMBERS = re.compile(r"[^,]+\.\w{2,5}[\s,]+\d+")
"""A line of the lists that other programs make of Kinetics."""


class Video(NamedTuple):
    """A file with what its folders, its name and its line in the lists tell. subfolder: that may be its class;
    youtube_id: None for other names; row: None if it is in no list; split: None if nothing tells it, so that the video
    is taken only where all splits are."""

    path: str
    subfolder: str | None
    youtube_id: str | None
    row: Row | None
    split: str | None


def list_kinetics(root: Path, split: Split, lists: Path | None = None) -> Listing:
    """The videos of a Kinetics tree, sorted by path, and its class names, sorted.

    Classes are those of all lists and of the folders of all splits, so that a label means the same in every split
    and, with the lists, in every copy. A class folder tells the class however it is spelt (case, spaces and
    punctuation aside); a loose file has it from the lists, where it is found by id and start, or by id alone.
    `lists` is a CSV file or a folder of them, by default those in `root` and `root/annotations`, called `.csv` or
    `.txt`. `val` is the validation split, on which papers report; `test` is the test split where this copy has one,
    else `val`. Where folders tell the splits, a video beside them is of the split that its line in the lists tells.

    Left out are videos of the lists that this copy lacks, and videos whose class or split nothing tells. Remarks say
    how many those are, how many files have other names than the lists say, and which YouTube ids are in two splits.
    Raises UserError for a missing folder or list, a list without ids, and where nothing usable is found."""
    check_folder(root)
    rows, remarks = _read_lists(root, lists)
    folders = split_folders(root)
    untold = None if any(row.split for row in rows) else "train"  # the split where the lists tell none at all
    present: set[str | None] = set(folders) or {row.split or untold for row in rows} or {untold}
    chosen = splits_for(split, present)
    if not chosen:
        raise UserError(f"{root} has no {split} split; data.split=all takes every video, and holds none out. {LAYOUT}")
    remarks += remarks_on_split(root, split, chosen)
    wanted = {*chosen, None} if split == "all" else set(chosen)  # None: what nothing tells the split of
    found = _find_files(root, folders)
    remarks += [remark for _, each in found for remark in each.remarks(known=LISTS)]
    videos = list(_videos(found, rows, None if folders else untold))
    class_names, labels = _classes(videos, rows)
    files, unknown = _usable(videos, wanted, labels)
    if not files:
        raise UserError("; ".join([_why_nothing(root, split, videos, unknown), *remarks]))
    if unknown:
        left_out = counted(len(unknown), f"video in {root} is left out", f"videos in {root} are left out")
        remarks.append(f"{left_out}: neither folder nor list tells the class")
    asked = [row for row in rows if (row.split or untold) in wanted]
    missing = list(_missing(asked, videos, root, labels))
    if missing:
        remarks.append(f"{len(missing)} of the {len(asked)} videos that the lists of {root} name are not in this copy")
    renamed = sum(_is_renamed(video) for video in videos if video.split in wanted)
    if renamed:
        others = counted(renamed, f"video in {root} has another name", f"videos in {root} have other names")
        remarks.append(f"{others} than the lists say; videos are known by their ids")
    remarks.extend(_overlaps(root, videos, [] if folders else rows))
    return Listing(files, class_names, unknown + missing, remarks)


def class_key(name: str) -> str:
    """What all spellings of a class have in common: `mountain climber (exercise)`, `mountain_climber_exercise_`."""
    return "".join(character for character in name.lower() if character.isalnum()) or name


def _find_files(root: Path, folders: dict[str, list[Path]]) -> list[tuple[str | None, FoundFiles]]:
    """What lies in each split's folders, by split, and in the rest of the root, by None."""
    found: list[tuple[str | None, FoundFiles]] = [
        (part, find_videos(folder)) for part, of_part in folders.items() for folder in of_part
    ]
    rest = find_videos(root, without=[each.folder for _, each in found])
    return [*found, (None, rest)]


def _videos(found: Iterable[tuple[str | None, FoundFiles]], rows: Sequence[Row], untold: str | None) -> Iterator[Video]:
    """untold: the split of videos of which neither their folder nor their line tells one."""
    exact = {(row.youtube_id, row.start): row for row in rows}  # the later of two lists: val, not train
    by_id = {row.youtube_id: row for row in rows}
    split_by_folders = any(part for part, _ in found)
    for part, files in found:
        for path, stem, subfolder in files.videos:
            match = FILE_NAME.fullmatch(stem)
            row = exact.get((match["id"], int(match["start"]))) if match and match["start"] else None
            row = row or by_id.get(stem[:11])
            youtube_id = row.youtube_id if row else match["id"] if match else None
            split = part or (row and row.split) or untold
            if split_by_folders and part is None:
                subfolder = None  # beside the splits no folder is a class
            yield Video(path, subfolder, youtube_id, row, split)


def _classes(videos: Iterable[Video], rows: Iterable[Row]) -> tuple[list[str], dict[str | None, int]]:
    """Class names in label order, and the label of each spelling in folders and lists, -1 for what is no class.

    A folder that the lists do not name is a class too, unless they know its videos: then it is some other grouping."""
    listed = {row.label for row in rows if row.label}
    folders = {video.subfolder for video in videos if video.subfolder}
    groupings = {video.subfolder for video in videos if video.row and video.row.label}
    spelling: dict[str, str] = {}
    for name in [*sorted(listed), *sorted(folders - groupings)]:
        spelling.setdefault(class_key(name), name)
    label_of_key = {key: label for label, key in enumerate(sorted(spelling))}
    labels: dict[str | None, int] = {name: label_of_key.get(class_key(name), -1) for name in listed | folders}
    return [spelling[key] for key in label_of_key], {None: -1, **labels}


def _usable(
    videos: Iterable[Video], wanted: Collection[str | None], labels: dict[str | None, int]
) -> tuple[list[VideoFile], list[LeftOut]]:
    """The videos of the wanted splits, and those that may belong to them but whose class or split nothing tells."""
    files, unknown = [], []
    for video in videos:
        label = labels[video.subfolder]
        if label < 0 and video.row:
            label = labels[video.row.label]
        if video.split in wanted and label >= 0:
            files.append(VideoFile(video.path, label))
        elif video.split in wanted:
            unknown.append(LeftOut(video.path, label, "neither in a class folder nor in a list with labels"))
        elif video.split is None:
            unknown.append(LeftOut(video.path, label, "in no list, so of no split"))
    return files, unknown


def _missing(
    asked: Iterable[Row], videos: Iterable[Video], root: Path, labels: dict[str | None, int]
) -> Iterator[LeftOut]:
    there = {(video.row.youtube_id, video.row.start) for video in videos if video.row}
    for row in asked:
        if (row.youtube_id, row.start) not in there:
            name = f"{row.youtube_id}_{row.start:06d}_{row.end:06d}.mp4"
            path = os.path.join(root, row.split or "", row.label or "", name)
            yield LeftOut(path, labels[row.label], "not in this copy")


def _is_renamed(video: Video) -> bool:
    """Whether a video of the lists is not called ID_START_END, with any number of zeros."""
    if video.row is None:
        return False
    match = FILE_NAME.fullmatch(os.path.splitext(os.path.basename(video.path))[0])
    return not match or not match["start"] or int(match["start"]) != video.row.start


def _overlaps(root: Path, videos: Sequence[Video], rows: Iterable[Row]) -> Iterator[str]:
    """Remarks on ids in two splits: two folders, or two lists where they alone tell the splits."""
    ids: dict[str, set[str]] = {part: set() for part in SPLIT_NAMES}
    there = {video.youtube_id for video in videos}
    for split, youtube_id in [(v.split, v.youtube_id) for v in videos] + [(r.split, r.youtube_id) for r in rows]:
        if split and youtube_id and youtube_id in there:
            ids[split].add(youtube_id)
    for one, other in combinations(SPLIT_NAMES, 2):
        if both := ids[one] & ids[other]:
            ids_are = counted(len(both), "YouTube id is", "YouTube ids are")
            yield f"{ids_are} both in {one} and {other} of {root}, for instance {min(both)}"


def _why_nothing(root: Path, split: Split, videos: Sequence[Video], unknown: Sequence[LeftOut]) -> str:
    if not videos:
        return f"no videos in {root} {looked_for()}; {LAYOUT}"
    if unknown:
        return f"no video in {root} can be used: {unknown[0].path} is {unknown[0].reason}; {LAYOUT}"
    return f"none of the {len(videos)} videos in {root} is in the {split} split"


LISTS = (".csv", ".txt")
"""The second is what the archives of Kinetics-600 hold."""


def lists_in(root: Path) -> list[Path]:
    """Files in a root, and in `annotations` there, that may be lists."""
    return sorted([*_lists_of(root), *_lists_of(root / "annotations")])


def _lists_of(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*") if path.suffix.lower() in LISTS and path.is_file())


def is_list(path: Path) -> bool:
    """Whether its first line is that of a Kinetics list."""
    with path.open("rb") as file:
        return b"youtube_id" in file.readline(10_000).lower()


def _read_lists(root: Path, given: Path | None) -> tuple[list[Row], list[str]]:
    """All lines of all lists, and remarks on CSV files of `root` that are no such lists."""
    if given is not None and not given.exists():
        raise UserError(f"no list at {given}: `csv` should be a Kinetics list such as train.csv, or a folder of them")
    paths = lists_in(root) if given is None else sorted(_lists_of(given)) if given.is_dir() else [given]
    if given is not None and not paths:
        raise UserError(f"no lists in {given}: `csv` should be a Kinetics list such as train.csv, or a folder of them")
    rows: list[Row] = []
    remarks: list[str] = []
    for path in paths:
        told: list[str] = []
        lines = read_lines(path, told)
        header = [name.strip().lower() for name in next(csv.reader(lines[:1]), [])]
        if "youtube_id" in header:
            rows.extend(_rows(path, header, lines[1:]))
            remarks += told
        elif path == given:
            raise UserError(_why_no_list(path, lines, header))
        elif path.suffix == ".csv" or _is_of_paths(lines):
            remarks.append(_why_no_list(path, lines, header))
    return rows, remarks


def _is_of_paths(lines: Sequence[str]) -> bool:
    return bool(lines) and PATHS_AND_NUMBERS.fullmatch(lines[0][:1000]) is not None


def _why_no_list(path: Path, lines: Sequence[str], header: Sequence[str]) -> str:
    if _is_of_paths(lines):
        return (
            f"{path} is not read: it lists paths and numbers, as SlowFast has them, and no names of classes. Put the "
            "official lists (label,youtube_id,time_start,time_end,split) beside the videos, or each class into a folder"
        )
    columns = as_line(", ".join(header)) or "none"
    return (
        f"{path} is no Kinetics list: it has the columns {columns}, and such a list begins with the line "
        "label,youtube_id,time_start,time_end,split"
    )


def _rows(path: Path, header: Sequence[str], lines: Sequence[str]) -> Iterator[Row]:
    column = {name: position for position, name in enumerate(header)}
    by_file = next((SPLIT_OF[word] for word in re.split(r"[\W_]+", path.stem.lower()) if word in SPLIT_OF), None)
    reader = csv.reader(lines)
    try:
        for line in reader:
            times = [int(float(line[column[name]])) if name in column else 0 for name in ("time_start", "time_end")]
            name = line[column["label"]].strip() if "label" in column else ""
            part = SPLIT_OF.get(line[column["split"]].strip().lower(), by_file) if "split" in column else by_file
            yield Row(name or None, line[column["youtube_id"]].strip(), times[0], times[1], part)
    except (ValueError, OverflowError, IndexError, csv.Error) as error:
        found = as_line(lines[reader.line_num - 1])
        raise UserError(
            f"{path}, line {reader.line_num + 1}: expected {','.join(header)}, found {found!r} ({error})"
        ) from error
