"""Which video files a folder holds and what class each belongs to: UCF-101's layout, or any folder."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evagen.data.video import VIDEO_SUFFIXES
from evagen.errors import UserError

Split = Literal["train", "test", "all"]


@dataclass(frozen=True)
class VideoFile:
    """A video and the number of its class, -1 where there are no classes."""

    path: Path
    label: int


def list_ucf101(root: Path, split: Split, split_index: int) -> tuple[list[VideoFile], list[str]]:
    """The videos of a UCF-101 tree in the order of its lists, and the class names in the order of
    `classInd.txt` (label = number there - 1). `all` is the train list followed by the test list.

    Class folders lie in `root`, or in `root/UCF-101` as the two original archives unpack.
    Raises UserError for a missing folder or list."""
    _check_folder(root)
    lists = root / "ucfTrainTestlist"
    class_names = _read_class_names(lists / "classInd.txt")
    labels = {name: label for label, name in enumerate(class_names)}
    videos = root / "UCF-101" if (root / "UCF-101").is_dir() else root
    files = []
    for part in ("train", "test") if split == "all" else (split,):
        list_file = lists / f"{part}list{split_index:02d}.txt"
        for line in _read_lines(list_file):
            name = line.split()[0]
            class_name = name.split("/")[0]
            if class_name not in labels:
                raise UserError(f"{list_file} names {name}, but classInd.txt has no class {class_name}")
            files.append(VideoFile(videos / name, labels[class_name]))
    return files, class_names


def list_folder(root: Path, split: Split) -> tuple[list[VideoFile], list[str]]:
    """All videos below `root`, sorted by path, and the class names, sorted.

    Where every video lies in a subfolder, the first level of subfolders are the classes; otherwise
    there are none. A root with both a `train` and a `test` folder is split by them (and classes are
    the folders inside); without them there is no test split to give.
    Raises UserError for a missing folder, one without videos, or a split that does not exist."""
    _check_folder(root)
    parts = [root]
    if (root / "train").is_dir() and (root / "test").is_dir():
        parts = [root / "train", root / "test"] if split == "all" else [root / split]
    elif split == "test":
        raise UserError(
            f"{root} has no test split: make folders {root / 'train'} and {root / 'test'}, "
            "or use split=all to take every video"
        )
    found = [(part, path) for part in parts for path in _videos_below(part)]
    if not found:
        suffixes = " ".join(sorted(VIDEO_SUFFIXES))
        raise UserError(f"no videos in {' or '.join(map(str, parts))} or its subfolders (looked for {suffixes})")
    inner = [path.relative_to(part).parts for part, path in found]
    if any(len(parts_of_path) == 1 for parts_of_path in inner):
        return [VideoFile(path, -1) for _, path in found], []
    class_names = sorted({parts_of_path[0] for parts_of_path in inner})
    labels = {name: label for label, name in enumerate(class_names)}
    return [VideoFile(path, labels[names[0]]) for (_, path), names in zip(found, inner)], class_names


def select_classes(files: list[VideoFile], class_names: list[str], wanted: Sequence[str]) -> list[VideoFile]:
    """The videos of the wanted classes; labels stay as they are. Raises UserError for an unknown class."""
    for name in wanted:
        if name not in class_names:
            near = difflib.get_close_matches(name, class_names, n=1, cutoff=0.0)
            raise UserError(
                f"there is no class {name!r}; the nearest of {len(class_names)} is {near[0]!r}"
                if near
                else f"classes={list(wanted)} was asked for, but these videos have no classes"
            )
    labels = {class_names.index(name) for name in wanted}
    return [file for file in files if file.label in labels]


def spread_over_classes(files: list[VideoFile], limit: int) -> list[VideoFile]:
    """The first `limit` videos, taken in turn from every class, in the order they had."""
    seen: dict[int, int] = {}
    ranks = []
    for order, file in enumerate(files):
        rank = seen[file.label] = seen.get(file.label, -1) + 1
        ranks.append((rank, file.label, order))
    return [files[order] for order in sorted(order for *_, order in sorted(ranks)[:limit])]


def _check_folder(root: Path) -> None:
    if not root.is_dir():
        raise UserError(f"no folder at {root}: set `root` to the folder that holds the videos")


def _videos_below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def _read_class_names(path: Path) -> list[str]:
    """Lines `1 ApplyEyeMakeup`, numbered from one without gaps."""
    names = []
    for number, line in enumerate(_read_lines(path), start=1):
        given, _, name = line.partition(" ")
        if given != str(number) or not name:
            raise UserError(f"{path}, line {number}: expected '{number} ClassName', found {line!r}")
        names.append(name.strip())
    return names


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        present = ", ".join(sorted(found.name for found in path.parent.glob("*.txt"))) or "nothing"
        raise UserError(
            f"no list at {path} (that folder holds {present}); UCF-101's layout needs class folders and "
            "ucfTrainTestlist/ with classInd.txt, trainlist01.txt and testlist01.txt. "
            "For a folder without lists use layout=folder"
        )
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [line for line in lines if line]
