"""Which video files a folder holds and what class each belongs to: UCF-101's layout, or any folder. Kinetics has a
module of its own, `evagen.data.kinetics`."""

import difflib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from evagen.data.video_file import StoredVideo
from evagen.data.video_reader import VIDEO_SUFFIXES
from evagen.errors import UserError

Split = Literal["train", "val", "test", "all"]

SPLIT_NAMES = {"train": ("train",), "val": ("val", "validate", "validation"), "test": ("test",)}
"""What folders and lists of each split are called."""


class VideoFile(NamedTuple):
    """A video and the number of its class, -1 where there are no classes. path: of a file, or a video inside one."""

    path: str | StoredVideo
    label: int


class LeftOut(NamedTuple):
    """A video that belongs to a data set and cannot be used, and why; label as in VideoFile."""

    path: str
    label: int
    reason: str


@dataclass(frozen=True)
class Listing:
    """The videos of a data set. class_names: in label order; left_out: videos known to be unusable without opening
    them; remarks: what a user should know about this copy of the data set, a line each."""

    files: list[VideoFile]
    class_names: list[str]
    left_out: list[LeftOut] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class FoundVideo(NamedTuple):
    """A video file, its name without suffix, and the first-level subfolder it lies in, None if it lies in the folder
    itself."""

    path: str
    stem: str
    subfolder: str | None


def list_ucf101(root: Path, split: Split, split_index: int) -> Listing:
    """The videos of a UCF-101 tree in the order of its lists, and the class names in the order of
    `classInd.txt` (label = number there - 1). `all` is the train list followed by the test list.

    Class folders lie in `root`, or in `root/UCF-101` as the two original archives unpack.
    Raises UserError for a missing folder or list, and for `val`, which UCF-101 does not have."""
    check_folder(root)
    if split == "val":
        raise UserError(f"{root}: UCF-101 has no validation split, only train and test lists; use split=test")
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
            files.append(VideoFile(str(videos / name), labels[class_name]))
    return Listing(files, class_names)


def list_folder(root: Path, split: Split) -> Listing:
    """All videos below `root`, sorted by path, and the class names, sorted.

    Where every video lies in a subfolder, the first level of subfolders are the classes; otherwise
    there are none. A root with a `train` folder and a `test` or `val` folder is split by them, and the classes are
    the folders inside any of them, so that a label means the same in every split. `test` is `val` where there is
    no `test`; without such folders there are no held-out videos to give.
    Raises UserError for a missing folder, one without videos, or a split that does not exist."""
    check_folder(root)
    folders = split_folders(root)
    if "train" not in folders or len(folders) < 2:
        folders = {"train": root}
    chosen = splits_for(split, folders)
    if not chosen:
        raise UserError(
            f"{root} has no {split} split: make folders {root / 'train'} and {root / split}, "
            "or use split=all to take every video"
        )
    videos = {part: videos_below(folder) for part, folder in folders.items()}
    if not any(videos[part] for part in chosen):
        raise UserError(f"no videos in {' or '.join(str(folders[part]) for part in chosen)} {looked_for()}")
    subfolders = {video.subfolder for part in videos.values() for video in part}
    labels: dict[str | None, int] = {}
    if None not in subfolders:
        labels = {name: label for label, name in enumerate(sorted(filter(None, subfolders)))}
    files = [VideoFile(v.path, labels.get(v.subfolder, -1)) for part in chosen for v in videos[part]]
    return Listing(files, [name for name in labels if name])


def join(listings: Sequence[Listing]) -> Listing:
    """Several listings as one. The classes of later ones are appended; classes of the same name share a label."""
    labels: dict[str, int] = {}
    for listing in listings:
        for name in listing.class_names:
            labels.setdefault(name, len(labels))
    joined = Listing([], list(labels))
    for listing in listings:
        moved = {old: labels[name] for old, name in enumerate(listing.class_names)} | {-1: -1}
        joined.files.extend(VideoFile(file.path, moved[file.label]) for file in listing.files)
        joined.left_out.extend(video._replace(label=moved[video.label]) for video in listing.left_out)
        joined.remarks.extend(listing.remarks)
    return joined


def select_classes(listing: Listing, wanted: Sequence[str]) -> Listing:
    """The videos of the wanted classes; labels stay as they are. Raises UserError for an unknown class."""
    return _with_labels(listing, _labels_of(listing, wanted))


def leave_out_classes(listing: Listing, unwanted: Sequence[str]) -> Listing:
    """The videos of all other classes; labels stay as they are. Raises UserError for an unknown class."""
    return _with_labels(listing, set(range(len(listing.class_names))) - _labels_of(listing, unwanted))


def _labels_of(listing: Listing, names: Sequence[str]) -> set[int]:
    class_names = listing.class_names
    for name in names:
        if name not in class_names:
            near = difflib.get_close_matches(name, class_names, n=1, cutoff=0.0)
            raise UserError(
                f"there is no class {name!r}; the nearest of {len(class_names)} is {near[0]!r}"
                if near
                else f"the classes {list(names)} were named, but these videos have no classes"
            )
    return {class_names.index(name) for name in names}


def _with_labels(listing: Listing, labels: set[int]) -> Listing:
    return replace(
        listing,
        files=[file for file in listing.files if file.label in labels],
        left_out=[video for video in listing.left_out if video.label in labels],
    )


def spread_over_classes(files: list[VideoFile], limit: int) -> list[VideoFile]:
    """The first `limit` videos, taken in turn from every class, in the order they had."""
    seen: dict[int, int] = {}
    ranks = []
    for order, file in enumerate(files):
        rank = seen[file.label] = seen.get(file.label, -1) + 1
        ranks.append((rank, file.label, order))
    return [files[order] for order in sorted(order for *_, order in sorted(ranks)[:limit])]


def check_folder(root: Path) -> None:
    if not root.is_dir():
        raise UserError(f"no folder at {root}: set `root` to the folder that holds the videos")


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of a root that are named after splits, by split."""
    spellings = ((part, root / name) for part, names in SPLIT_NAMES.items() for name in reversed(names))
    return {part: folder for part, folder in spellings if folder.is_dir()}


def splits_for(split: Split, present: Collection[str | None]) -> list[str]:
    """Which of the splits that are there a request means, none if it cannot be met."""
    if split == "all":
        return [part for part in SPLIT_NAMES if part in present]
    if split == "test" and "test" not in present:
        split = "val"
    return [split] if split in present else []


def videos_below(folder: Path) -> list[FoundVideo]:
    """Every file in a folder and its subfolders that is named like a video, sorted by path. Names that begin with a
    dot are left out. Directories are read, files are not looked at: 400,000 take three seconds."""
    found = []
    top = str(folder)
    for current, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith(".")]
        subfolder = None if current == top else os.path.relpath(current, top).split(os.sep)[0]
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                found.append(FoundVideo(os.path.join(current, name), stem, subfolder))
    return sorted(found, key=lambda video: video.path.replace(os.sep, "\0"))  # by folder first, as paths compare


def looked_for() -> str:
    """End of an error message about a folder without videos."""
    return f"or its subfolders (looked for {' '.join(sorted(VIDEO_SUFFIXES))})"


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
