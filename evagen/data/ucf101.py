"""UCF-101 as people have it: class folders and the official lists.

    root/<class>/v_<class>_g08_c01.avi                also in root/UCF-101, as its two archives unpack
    root/ucfTrainTestlist/classInd.txt, trainlist01.txt, testlist01.txt, …

Copies differ in the folder that holds the class folders, in spelling (the class HandstandPushups has videos called
v_HandStandPushups), in suffixes, and in whether there are class folders at all. The lists say which videos there are; a
file is known by its name.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from evagen.data.found_files import check_folder, find_videos, read_lines
from evagen.data.layouts import LeftOut, Listing, Split, VideoFile
from evagen.errors import UserError
from evagen.kernels.names import as_line, path_inside
from evagen.kernels.words import counted

LISTS = "ucfTrainTestlist"


def list_ucf101(root: Path, split: Split, split_index: int) -> Listing:
    """The videos of a UCF-101 tree in the order of its lists, and the class names in the order of
    `classInd.txt` (label = number there - 1). `all` is the train list followed by the test list.

    Class folders lie in `root`, or in `root/UCF-101` as the two original archives unpack. A video that is not there is
    looked for by its name, with any suffix, in all of `root`. Left out are videos of the lists that this copy lacks;
    remarks say how many those are, and how many lie elsewhere than the lists say.
    Raises UserError for a missing folder or list, for lines that contradict each other or lead out of `root`, for
    `val`, which UCF-101 does not have, and where none of the videos is there."""
    check_folder(root)
    if split == "val":
        raise UserError(f"{root}: UCF-101 has no validation split, only train and test lists; use data.split=test")
    lists = lists_folder(root)
    remarks: list[str] = []
    class_names = _read_class_names(lists / "classInd.txt", remarks)
    wanted: list[VideoFile] = []
    top = root / "UCF-101" if (root / "UCF-101").is_dir() else root
    for part in ("train", "test") if split == "all" else (split,):
        path = lists / f"{part}list{split_index:02d}.txt"
        wanted += [_video(line, path, top, class_names) for line in _lines(path, remarks)]
    once = list(dict.fromkeys(wanted))
    if again := len(wanted) - len(once):
        lines = counted(again, f"line of the lists in {lists} names", f"lines of the lists in {lists} name")
        remarks.append(f"{lines} a video again; it is taken once")
    files, missing = _find(once, root, class_names, remarks)
    if not files:
        raise UserError(
            f"none of the {len(once)} videos that the lists in {lists} name is in {root}, for instance {once[0].path}"
        )
    return Listing(files, class_names, missing, remarks)


def lists_folder(root: Path) -> Path:
    """Where the lists lie: `ucfTrainTestlist` in the root or in a folder of it, or the root itself; the first of these
    where they are in none."""
    places = [root / LISTS, *sorted(root.glob(f"*/{LISTS}")), root]
    return next((place for place in places if (place / "classInd.txt").is_file()), root / LISTS)


def _video(line: str, path: Path, top: Path, class_names: Sequence[str]) -> VideoFile:
    """What a line of a list says: a file, in training lists followed by the number of its class. The class is the
    folder; where there is none, the number."""
    name, *last = line.rsplit(maxsplit=1)
    number = int(last[0]) if last and last[0].isdecimal() and len(last[0]) < 10 else None
    name = line if number is None else name
    name = name if "/" in name else name.replace("\\", "/")
    try:
        file = path_inside(top, name)
    except ValueError as error:
        raise UserError(f"{path}: {error}; a list names files of its data set") from error
    folder = name.removeprefix("./").split("/")[0]
    label = class_names.index(folder) if folder in class_names else None
    if label is None:
        same = [label for label, known in enumerate(class_names) if known.casefold() == folder.casefold()]
        label = same[0] if len(same) == 1 else None
    if number is not None and not 1 <= number <= len(class_names):
        raise UserError(
            f"{path} gives {as_line(name)} the number {number}, but classInd.txt has {len(class_names)} classes"
        )
    if number is not None and label is not None and label != number - 1:
        known = class_names[number - 1]
        raise UserError(f"{path} gives {as_line(name)} the number {number}, which classInd.txt says is {known}")
    if label is None and (number is None or "/" in name):
        raise UserError(f"{path} names {as_line(name)}, but classInd.txt has no class {as_line(folder)}")
    return VideoFile(str(file), label if label is not None else (number or 0) - 1)


def _find(
    wanted: Sequence[VideoFile], root: Path, class_names: Sequence[str], remarks: list[str]
) -> tuple[list[VideoFile], list[LeftOut]]:
    """The files of these videos, and the videos that this copy lacks."""
    found = find_videos(root)
    there = {video.path for video in found.videos}
    by_stem: dict[str, list[str]] = {}
    for each in found.videos:
        by_stem.setdefault(each.stem.casefold(), []).append(each.path)
    files, missing, elsewhere = [], [], []
    for video in wanted:
        path = str(video.path)
        if path not in there:
            stem = os.path.splitext(os.path.basename(path))[0].casefold()
            others = by_stem.get(stem, [])
            own = class_names[video.label].casefold()
            inside = [other for other in others if os.path.basename(os.path.dirname(other)).casefold() == own]
            if not others:
                missing.append(LeftOut(path, video.label, "not in this copy"))
                continue
            elsewhere.append(path := (inside or others)[0])
        files.append(VideoFile(path, video.label))
    remarks += found.unread
    if missing:
        remarks.append(f"{len(missing)} of the {len(wanted)} videos that the lists of {root} name are not in this copy")
    if elsewhere:
        one, several = f"video in {root} lies elsewhere or is", f"videos in {root} lie elsewhere or are"
        remarks.append(
            f"{counted(len(elsewhere), one, several)} spelt otherwise than the lists say, for instance {elsewhere[0]}; "
            "videos are known by their names"
        )
    return files, missing


def _read_class_names(path: Path, remarks: list[str]) -> list[str]:
    """Lines `1 ApplyEyeMakeup`, numbered from one without gaps."""
    names: list[str] = []
    for number, line in enumerate(_lines(path, remarks), start=1):
        given, *rest = line.split(maxsplit=1)
        if given != str(number) or not rest or rest[0] in names:
            raise UserError(
                f"{path}, line {number}: expected '{number} ClassName', each class once, found {as_line(line)!r}"
            )
        names.append(rest[0])
    return names


def _lines(path: Path, remarks: list[str]) -> list[str]:
    if not path.is_file():
        present = ", ".join(sorted(found.name for found in path.parent.glob("*.txt"))) or "nothing"
        raise UserError(
            f"no list at {path} (that folder holds {present}); UCF-101's layout needs class folders and "
            "ucfTrainTestlist/ with classInd.txt, trainlist01.txt and testlist01.txt. "
            "The layout of a folder without lists is folder"
        )
    lines = read_lines(path, remarks)
    if not lines:
        raise UserError(f"the list {path} is empty: put the original in its place")
    return lines
