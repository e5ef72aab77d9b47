"""Which video files any folder holds and what class each belongs to. Data sets with lists have modules of their own:
`evagen.data.ucf101`, `kinetics`, `huggingface`."""

import difflib
import logging
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from evagen.data.found_files import FoundFiles, check_folder, find_videos, looked_for
from evagen.data.video_file import StoredVideo
from evagen.errors import UserError
from evagen.kernels.names import as_line
from evagen.kernels.words import counted

Split = Literal["train", "val", "test", "all"]

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation"),
    "test": ("test", "testing"),
}
"""What folders and lists of each split are called, in any case."""
SPLIT_OF = {name: part for part, names in SPLIT_NAMES.items() for name in names}


class VideoFile(NamedTuple):
    """A video and the number of its class, -1 where there are no classes. path: of a file, or a video inside one."""

    path: str | StoredVideo
    label: int


def class_of(label: int, class_names: Sequence[str]) -> str | None:
    """The name of a label; None for -1, which is no class, and where no classes are known."""
    return class_names[label] if class_names and label >= 0 else None


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


def list_folder(root: Path, split: Split, without: Collection[Path] = ()) -> Listing:
    """All videos below `root`, sorted by path, and the class names, sorted.

    Where every video lies in a subfolder, the first level of subfolders are the classes; otherwise
    there are none. A root with a `train` folder and a `test` or `val` folder is split by them, and so is one whose
    videos all lie in such folders; the classes are the folders inside any of them, so that a label means the same in
    every split. `test` is `val` where there is no `test`; without such folders there are no held-out videos to give.
    Links to folders are followed, folders in `without` left out. Remarks say what is left out, and what may be meant
    otherwise.
    Raises UserError for a folder that is missing or cannot be read, one without videos, or a split that does not
    exist."""
    check_folder(root)
    folders, remarks = _parts_of(root, without)
    chosen = splits_for(split, folders)
    if not chosen:
        needed = f"the folder {root / split}" if split == "train" else f"folders {root / 'train'} and {root / split}"
        raise UserError(
            f"{root} has no {split} split: make {needed}; data.split=all takes every video, and holds none out"
        )
    found = {part: [find_videos(folder, without) for folder in of_part] for part, of_part in folders.items()}
    taken = [each for part in chosen for each in found[part]]
    remarks += [remark for each in taken for remark in each.remarks()]
    if not any(each.videos for each in taken):
        places = " or ".join(str(folder) for part in chosen for folder in folders[part])
        raise UserError("; ".join([f"no videos in {places} {looked_for()}", *remarks]))
    subfolders = {video.subfolder for of_part in found.values() for each in of_part for video in each.videos}
    labels: dict[str | None, int] = {}
    if None not in subfolders:
        labels = {name: label for label, name in enumerate(sorted(filter(None, subfolders)))}
    elif len(subfolders) > 1:
        remarks.append(_loose(root, [each for of_part in found.values() for each in of_part], len(subfolders) - 1))
    files = [VideoFile(video.path, labels.get(video.subfolder, -1)) for each in taken for video in each.videos]
    return Listing(files, [name for name in labels if name], remarks=remarks + remarks_on_split(root, split, chosen))


def _parts_of(root: Path, without: Collection[Path]) -> tuple[dict[str, list[Path]], list[str]]:
    """The folders of each split, and remarks on what looks like a split and is none, or lies beside them."""
    folders = split_folders(root, without)
    if not folders:
        return {"train": [root]}, []
    names = ", ".join(folder.name for of_part in folders.values() for folder in of_part)
    beside = find_videos(root, [*without, *(folder for of_part in folders.values() for folder in of_part)]).videos
    if not beside:
        return folders, []
    if "train" in folders and len(folders) > 1:
        videos = counted(len(beside), f"video in {root} is left out", f"videos in {root} are left out")
        told = f"{videos}, being in none of {names}; for instance {beside[0].path}"
        return folders, [told]
    told = f"{names} in {root} is taken for a class, not for a split, since other videos lie beside it"
    return {"train": [root]}, [told]


def _loose(root: Path, found: Sequence[FoundFiles], num_folders: int) -> str:
    loose = [video for each in found for video in each.videos if video.subfolder is None]
    return (
        f"{counted(num_folders, f'subfolder in {root} is', f'subfolders in {root} are')} not taken for classes, since "
        f"{counted(len(loose), 'video lies', 'videos lie')} beside them, "
        f"for instance {loose[0].path}: put each into a folder to have classes, or take it out"
    )


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


def split_folders(root: Path, without: Collection[Path] = ()) -> dict[str, list[Path]]:
    """The folders of a root that are named after splits, by split: `train`, `Train`, `training`."""
    found: dict[str, list[Path]] = {}
    left_out = set(map(os.path.abspath, without))
    for folder in sorted(root.iterdir()):
        part = SPLIT_OF.get(folder.name.lower())
        if part and folder.is_dir() and os.path.abspath(folder) not in left_out:
            found.setdefault(part, []).append(folder)
    return {part: found[part] for part in SPLIT_NAMES if part in found}


def splits_for(split: Split, present: Collection[str | None]) -> list[str]:
    """Which of the splits that are there a request means, none if it cannot be met."""
    if split == "all":
        return [part for part in SPLIT_NAMES if part in present]
    if split == "test" and "test" not in present:
        split = "val"
    return [split] if split in present else []


def remarks_on_split(root: Path, split: Split, chosen: Sequence[str]) -> list[str]:
    """That another split is taken than was asked for."""
    if split == "test" and list(chosen) == ["val"]:
        return [f"{root} has no test split, its validation split is taken"]
    return []


def tell(listing: Listing) -> None:
    """Logs the remarks."""
    for remark in listing.remarks:
        logging.getLogger(__name__).warning("%s", as_line(remark, sys.maxsize))
