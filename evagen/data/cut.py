"""Videos of one's own cut into short square clips, in the UCF-101 folder layout: all clips of every video, a part of
them held out.

    cut_videos("my_videos", "data/mine")

A class is a first-level subfolder, where every video lies in one; a group (`gXXXX`) is one video. Reading such clips
again and again in training costs little, while long or large videos would be decoded anew each time.
"""

import contextlib
import math
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from evagen.data.clips import SkippedClip, report_skipped
from evagen.data.frame_counts import all_frame_rates, count_all_frames
from evagen.data.labelled_set import check_manifest, record_all, write_lists
from evagen.data.layouts import Listing, list_folder, tell
from evagen.data.skip_list import leave_out_bad
from evagen.data.square_clips import iterate_square
from evagen.data.video_reader import VideoError, VideoPath
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.levels import video_to_frames
from evagen.kernels.names import as_text, file_name_of
from evagen.kernels.words import counted

ONLY_CLASS = "video"
"""What the class is called where the folder has none."""
WHOLE_VIDEOS_FROM = 10
"""With so many videos in a class, whole ones are held out; with fewer, the end of each."""
HELD_OUT = 0.1
"""Share of the clips, where that is at least `FEWEST_HELD_OUT`."""
FEWEST_CLIPS, FEWEST_HELD_OUT = 40, 8


@dataclass(frozen=True)
class CutSummary:
    """What `cut_videos` made: counts are clips. num_files: videos, used or not;
    held_out: how the test list was chosen, a phrase; skipped: videos that
    gave fewer clips than they have frames for, or none, and why."""

    out: Path
    class_names: list[str]
    num_files: int
    train_clips: int
    test_clips: int
    held_out: str
    skipped: list[SkippedClip]

    def describe(self) -> str:
        """Short text: what was skipped, and the counts."""
        lines: list[str] = []
        report_skipped(self.skipped, self.num_files, lines.append)
        lines.append(
            f"{counted(self.num_files, 'video')}, {counted(len(self.class_names), 'class', 'classes')}: "
            f"{self.train_clips} training and {self.test_clips} held-out clips ({self.held_out}) in {self.out}"
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class Cutting:
    """All clips of one video. name: what their files begin with, in the folder of the data set; held_out: whether its
    folder says that nothing is to learn from it."""

    path: VideoPath
    name: str
    num_clips: int
    frames: int
    size: int
    frames_per_second: float
    held_out: bool

    @property
    def class_name(self) -> str:
        return self.name.split("/")[0]

    def names(self) -> list[str]:
        return [f"{self.name}_c{clip + 1:05d}.avi" for clip in range(self.num_clips)]

    def record(self, out: Path) -> int:
        """Writes the files that are not there yet; returns how many. A video that is damaged on the way keeps the clips
        before."""
        missing = [name for name in self.names() if not (out / name).exists()]
        if not missing:
            return 0
        written = 0
        try:
            for name, clip in zip(self.names(), self._clips()):
                if not (out / name).exists():
                    (out / name).parent.mkdir(parents=True, exist_ok=True)
                    write_video(out / name, clip, self.frames_per_second)
                    written += 1
        except VideoError:
            pass  # what is not there is seen, and told, when all are done
        return written

    def _clips(self) -> Iterator[np.ndarray]:
        """Uint8 `F S S 3`, one after another."""
        frames = iterate_square(self.path, self.size)
        while len(clip := list(islice(frames, self.frames))) == self.frames:
            yield video_to_frames(torch.stack(clip, dim=1))


def cut_videos(
    root: str | Path,
    out: str | Path,
    frames: int = 16,
    size: int = 128,
    workers: int | None = None,
    without: Collection[Path] = (),
) -> CutSummary:
    """Cuts every video below `root` into all its clips of `frames` frames that do not overlap, of `size` × `size`
    pixels (the short side resized, the long side cropped in the centre), into `out`. `workers`: processes, `None` for
    one on each core. `without`: further folders than `out` that may lie in `root` and are left out. So are videos that
    `evagen data scan` found bad, where its list is in `root`.

    Where `root` has a `train` folder and a `test` or `val` folder, these say which videos are held out for the test
    list. Otherwise a tenth is, or 8 clips where that is more: of a class of ten videos or more the last
    videos, of a smaller one the end of each video, or where all have a single clip the last videos. Calling it again
    continues an unfinished cut; `out` may lie in `root`. Raises UserError for arguments out of range, a folder without
    videos, with fewer clips than `FEWEST_CLIPS` or too few to learn from or to hold out, two subfolders whose names
    become one, and when `out` was made with other arguments or holds something else."""
    if frames < 2 or size < 16 or size % 2:
        raise UserError(f"frames={frames}, size={size}: expected at least 2, and an even size of at least 16")
    root, out = Path(root), Path(out)
    cuttings, skipped, videos = plan_cuttings(root, frames, size, [out, *without])
    about = {"frames": frames, "size": size, "root": os.path.realpath(root), "videos": videos}  # however it is written
    check_manifest(out, "cut", about)
    with tqdm(total=sum(each.num_clips for each in cuttings), unit="clip", desc="cut", dynamic_ncols=True) as progress:
        for cutting, _ in record_all(out, cuttings, workers):
            progress.update(cutting.num_clips)
    there = {cutting: [name for name in cutting.names() if (out / name).exists()] for cutting in cuttings}
    skipped += [
        SkippedClip(str(each.path), f"damaged: only {len(found)} of {each.num_clips} clips could be decoded")
        for each, found in there.items()
        if len(found) < each.num_clips
    ]
    train, test, held_out = _split(there)
    _check_parts(root, len(train), len(test))
    names = write_lists(out, train, test)
    num_files = len({*(as_text(str(each.path)) for each in cuttings), *(video.path for video in skipped)})
    return CutSummary(out, names, num_files, len(train), len(test), held_out, skipped)


def plan_cuttings(
    root: Path, frames: int, size: int, without: Collection[Path]
) -> tuple[list[Cutting], list[SkippedClip], dict[str, str]]:
    """What there is to do, the videos that cannot be used, and the names of all of them with their paths in `root`, the
    same when a scan has found some bad; nothing of the folders `without`. Raises UserError as `cut_videos` does."""
    listing = list_folder(root, "all", without)
    usable = leave_out_bad(listing, root, given=None)
    tell(usable)
    learned = _to_learn_from(root, listing, without)
    classes = _class_folders(listing.class_names)
    cuttings, skipped, names = [], [], {}
    groups = dict.fromkeys(classes, 0)
    videos = [file.path for file in usable.files]
    facts = dict(zip(videos, zip(count_all_frames(videos), all_frame_rates(videos))))
    bad = {video.path: video.reason for video in usable.left_out}
    for file in listing.files:
        name = classes[max(0, file.label)]
        groups[name] += 1
        stem = f"{name}/v_{name}_g{groups[name]:04d}"
        names[stem] = os.path.relpath(str(file.path), root)
        if reason := bad.get(str(file.path)):
            skipped.append(SkippedClip(str(file.path), reason))
            continue
        count, rate = facts[file.path]
        if isinstance(count, VideoError):
            skipped.append(SkippedClip(str(file.path), count.reason))
        elif isinstance(rate, VideoError):
            skipped.append(SkippedClip(str(file.path), rate.reason))
        elif count < frames:
            skipped.append(SkippedClip(str(file.path), f"too short: {counted(count, 'frame')}, a clip has {frames}"))
        else:
            held_out = file.path not in learned
            cuttings.append(Cutting(file.path, stem, count // frames, frames, size, float(rate), held_out))
    num_clips = sum(cutting.num_clips for cutting in cuttings)
    if num_clips < FEWEST_CLIPS:
        unusable = "".join(f"\n  {video.path}: {video.reason}" for video in skipped)
        raise UserError(
            f"the videos in {root} are {counted(num_clips, 'clip')} of {frames} frames, at least {FEWEST_CLIPS} are "
            f"needed to learn from some and look at others: add videos, or longer ones{unusable}"
        )
    train, test, _ = _split({cutting: cutting.names() for cutting in cuttings})
    _check_parts(root, len(train), len(test))
    return cuttings, skipped, names


def _to_learn_from(root: Path, listing: Listing, without: Collection[Path]) -> set[VideoPath]:
    """Those in a `train` folder; all, where there is none."""
    with contextlib.suppress(UserError):
        listing = list_folder(root, "train", without)
    return {file.path for file in listing.files}


def _check_parts(root: Path, train: int, test: int) -> None:
    if test < FEWEST_HELD_OUT or not train:
        raise UserError(
            f"of {train + test} clips of {root} {train} are to learn from and {test} can be held out; at least one and "
            f"{FEWEST_HELD_OUT} are needed: add videos, or longer ones"
        )


def _class_folders(class_names: list[str]) -> list[str]:
    """Names of folders for the classes: the lists of UCF-101 have no room for spaces in a file's name."""
    folders: dict[str, str] = {}
    for name in class_names or [ONLY_CLASS]:
        folder = file_name_of(re.sub(r"[^\w.-]+", "_", name))
        if folder in folders:
            raise UserError(f"the classes {folders[folder]!r} and {name!r} would both be called {folder}: rename one")
        folders[folder] = name
    return list(folders)


def _split(clips: dict[Cutting, list[str]]) -> tuple[list[str], list[str], str]:
    """Names of the training and the test clips, and how the latter were chosen, a phrase."""
    if any(cutting.held_out for cutting in clips):
        train, test = (
            [name for each, names in clips.items() if each.held_out == part for name in names] for part in (False, True)
        )
        return train, test, "as the folders say"
    share = max(HELD_OUT, FEWEST_HELD_OUT / max(1, sum(map(len, clips.values()))))
    by_class: dict[str, list[list[str]]] = {}
    for cutting, names in clips.items():
        if names:
            by_class.setdefault(cutting.class_name, []).append(names)
    train, test, ways = [], [], set()
    for videos in by_class.values():
        whole = len(videos) >= WHOLE_VIDEOS_FROM or all(len(names) == 1 for names in videos)
        held_out = _last_videos(videos, share) if whole else _ends_of_videos(videos, share)
        ways.add(whole)
        test += held_out
        train += sorted({name for names in videos for name in names}.difference(held_out))
    if len(ways) > 1:
        return train, test, "the last videos of classes with many, the end of each video of the others"
    return train, test, "the last videos" if True in ways else "the end of each video"


def _last_videos(videos: list[list[str]], share: float) -> list[str]:
    """Clips of the last videos, at least such a share of all; never of the first video."""
    held_out: list[str] = []
    for names in reversed(videos[1:]):
        if len(held_out) >= share * sum(map(len, videos)):
            break
        held_out = names + held_out
    return held_out


def _ends_of_videos(videos: list[list[str]], share: float) -> list[str]:
    """The last clips of each video that has several, at least such a share of them."""
    several = [names for names in videos if len(names) > 1]
    return [name for names in several for name in names[-math.ceil(share * len(names)) :]]
