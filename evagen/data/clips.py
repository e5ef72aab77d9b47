"""Clips of equal length and size from video files, for training (endless, seeded, resumable) and for
evaluation (each once, shared out over processes).

    dataset = ClipDataset(DataConfig(root="UCF101", layout="ucf101", size=128))
    for batch in train_loader(dataset, batch_size=8, seed=0, start_step=0, num_workers=4):
        batch.video                                       # float32 B C F H W in [-1, 1]

Dimensions: B clips, C = 3 colours (RGB), F frames, H = W = `size`.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch.utils.data import DataLoader, Dataset

from evagen.config import Section
from evagen.data.frame_counts import count_all_frames
from evagen.data.huggingface import list_huggingface
from evagen.data.kinetics import list_kinetics
from evagen.data.layouts import (
    Listing,
    Split,
    VideoFile,
    join,
    leave_out_classes,
    list_folder,
    list_ucf101,
    select_classes,
    spread_over_classes,
)
from evagen.data.skip_list import leave_out_bad
from evagen.data.square_clips import read_square
from evagen.data.video_reader import VideoError, VideoPath
from evagen.errors import UserError

Layout = Literal["ucf101", "kinetics", "folder", "huggingface"]


class VideoSource(Section):
    """Where videos are."""

    root: Path
    """The folder that holds the videos."""
    layout: Layout
    """`ucf101`: class folders beside `ucfTrainTestlist/`. `kinetics`: class folders, or loose videos with CSV lists,
    see `evagen.data.kinetics`. `folder`: all videos below `root`; where each lies in a subfolder, the first level of
    subfolders are the classes. `huggingface`: a data set of the `datasets` library, `root` being its folder or its
    name on the hub, see `evagen.data.huggingface`."""
    split: Split | None = None
    """That of the data set if None."""
    split_index: int = Field(1, ge=1)
    """Which of UCF-101's three train/test lists."""
    csv: Path | None = None
    """Kinetics' lists, a CSV file or a folder of them, where they are not in `root` or `root/annotations`."""
    video_column: str | None = None
    """With `huggingface`: the column of videos. The only one of type Video if None."""
    label_column: str | None = None
    """With `huggingface`: the column of classes. `label`, where there is one, if None."""
    skip_list: Path | None = None
    """Videos to leave out, a file that `evagen data scan` wrote. Where there is one in `root`, it is used if None."""


class DataConfig(VideoSource):
    """Which videos to read and how to cut clips from them."""

    split: Split = "train"
    """UCF-101 has `train` and `test`, Kinetics `train` and `val`; with `layout=folder` the folders of these names
    in `root`. `test` means `val` where there is no `test`; `all` is all there is."""
    more: list[VideoSource] = Field(default_factory=list)
    """Further places whose videos belong to the same data set. Their classes are appended; classes of the same name
    share a label."""
    frames: int = Field(16, ge=1)
    """Frames in a clip."""
    stride: int = Field(1, ge=1)
    """Distance between the frames of a clip: 2 takes every second one."""
    size: int = Field(128, ge=1)
    """Height and width of a clip in pixels: the short side is resized to it, the long side cropped."""
    clip: Literal["random", "first", "centre", "all"] = "random"
    """Which part of a video: one clip at a random, the first or the central place, or all clips that
    do not overlap (the only choice with several items for a video)."""
    crop: Literal["centre", "random"] = "centre"
    """Where the long side is cropped."""
    flip: bool = False
    """Whether to mirror half of the clips left to right, at random."""
    seed: int = Field(0, ge=0)
    """Seed of all that is random in a clip."""
    classes: list[str] | None = None
    """Use these classes only; labels stay those of the full set."""
    without_classes: list[str] = Field(default_factory=list)
    """Leave these classes out, to see later how a model does on what it has never seen."""
    limit: int | None = Field(None, ge=1)
    """Use the first N videos only, taken in turn from every class."""


@dataclass(frozen=True)
class Clip:
    """One clip: `video` float32 `C F H W` in [-1, 1]; `label` -1 without classes; `index` is the item's
    number in the data set; `start` is the first frame's number in the file `path`."""

    video: torch.Tensor
    label: int
    index: int
    path: str
    start: int


@dataclass(frozen=True)
class SkippedClip:
    """A file, or a clip of it, that could not be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ClipBatch:
    """The clips of a batch that could be read: `video` float32 `B C F H W` in [-1, 1], `label` and
    `index` int64 `B`, `paths` and `starts` of length B; `skipped` lists the others.

    B may be smaller than asked for. `len(batch)` is B; a batch with nothing readable has B = 0 and is
    false, so that `if not batch: continue` is all a loop needs."""

    video: torch.Tensor
    label: torch.Tensor
    index: torch.Tensor
    paths: list[str]
    starts: list[int]
    skipped: list[SkippedClip]

    def __len__(self) -> int:
        return len(self.paths)

    def pin_memory(self) -> "ClipBatch":
        """Called by DataLoader, so that copies to a GPU can run beside its work."""
        return replace(
            self, video=self.video.pin_memory(), label=self.label.pin_memory(), index=self.index.pin_memory()
        )


class ClipDataset(Dataset):
    """A map-style data set of clips, `dataset[key]` is a `Clip`, or a `SkippedClip` if decoding fails.

    A key is any number from zero: `epoch, index = divmod(key, len(dataset))`. All that is random in a
    clip (its place in the video, crop, mirroring) follows from (seed, epoch, index) alone, so neither
    workers nor order nor resuming change anything. Iterating goes over epoch 0 once.

    Every file that was not seen before is opened once at construction. Those that cannot be read, or are shorter than
    `(frames - 1) * stride + 1`, are left out and listed in `skipped`; after them what is known to be unusable without
    opening it: videos that the layout's lists name and that are not there, and those that `evagen data scan` found
    bad.

    Attributes: `class_names` (all classes of the layout, in label order), `labels` (of every item),
    `paths` (the usable videos), `skipped`, `num_files` (usable and skipped together).
    Raises UserError when nothing usable is found, a list is missing or a class is unknown."""

    def __init__(self, config: DataConfig):
        self.config = config
        listing = _list_files(config)
        files, self.class_names = listing.files, listing.class_names
        self.num_files = len(files) + len(listing.left_out)
        span = (config.frames - 1) * config.stride + 1
        counts = count_all_frames([file.path for file in files])
        self.skipped: list[SkippedClip] = []
        self._items: list[_Item] = []
        self.paths: list[str] = []
        for file, count in zip(files, counts):
            if isinstance(count, VideoError):
                self.skipped.append(SkippedClip(str(file.path), count.reason))
            elif count < span:
                reason = f"too short: {count} frames, a clip needs {span}"
                self.skipped.append(SkippedClip(str(file.path), reason))
            else:
                self.paths.append(str(file.path))
                self._items += _items_of(file, count, config, span)
        self.skipped += [SkippedClip(video.path, video.reason) for video in listing.left_out]
        if not self._items:
            lines: list[str] = []
            report_skipped(self.skipped, self.num_files, lines.append)
            roots = " or ".join(str(source.root) for source in (config, *config.more))
            raise UserError("\n".join([f"no usable video in {roots}", *lines]))
        self.labels = [item.label for item in self._items]

    def __len__(self) -> int:
        return len(self._items)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change where a key no longer means the same clip: with the files that are
        there, their lengths and labels. The files' contents are not looked at."""
        return hashlib.sha256(repr(self._items).encode()).hexdigest()[:16]

    def __iter__(self) -> Iterator[Clip | SkippedClip]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: int) -> Clip | SkippedClip:
        if key < 0:
            raise IndexError(f"keys count from zero, got {key}")
        epoch, index = divmod(key, len(self))
        item, config = self._items[index], self.config
        random = np.random.default_rng([config.seed, epoch, index])
        start = int(random.integers(item.first_start, item.last_start + 1))
        place, mirrored = random.random(), random.random() < 0.5
        try:
            video = read_square(
                item.path, start, config.frames, config.stride, config.size, place if config.crop == "random" else None
            )
        except VideoError as error:
            return SkippedClip(str(item.path), error.reason)
        if config.flip and mirrored:
            video = video.flip(-1)
        return Clip(video, item.label, index, str(item.path), start)


def list_source(source: VideoSource, split: Split) -> Listing:
    """The videos of one place, the skip list not yet left out. Raises UserError for options of another layout."""
    for name, layout in (("csv", "kinetics"), ("video_column", "huggingface"), ("label_column", "huggingface")):
        if (value := getattr(source, name)) is not None and source.layout != layout:
            raise UserError(f"{name}={value} is for layout={layout}; the layout of {source.root} is {source.layout}")
    if source.layout == "ucf101":
        return list_ucf101(source.root, split, source.split_index)
    if source.layout == "kinetics":
        return list_kinetics(source.root, split, source.csv)
    if source.layout == "huggingface":
        return list_huggingface(source.root, split, source.video_column, source.label_column)
    return list_folder(source.root, split)


def collate_clips(items: Sequence[Clip | SkippedClip]) -> ClipBatch:
    """Stacks what could be read and lists what could not (see ClipBatch for an empty one)."""
    clips = [item for item in items if isinstance(item, Clip)]
    return ClipBatch(
        video=torch.stack([clip.video for clip in clips]) if clips else torch.empty(0, 3, 0, 0, 0),
        label=torch.tensor([clip.label for clip in clips], dtype=torch.int64),
        index=torch.tensor([clip.index for clip in clips], dtype=torch.int64),
        paths=[clip.path for clip in clips],
        starts=[clip.start for clip in clips],
        skipped=[item for item in items if isinstance(item, SkippedClip)],
    )


def report_skipped(
    skipped: Sequence[SkippedClip], num_files: int, write: Callable[[str], object] = print, shown: int = 20
) -> None:
    """Writes "N of M files skipped:", a line for each of the first `shown`, and what to do about them; nothing if
    there are none. A file that was skipped several times counts once."""
    skipped = list({skip.path: skip for skip in reversed(skipped)}.values())[::-1]
    if not skipped:
        return
    write(f"{len(skipped)} of {num_files} files skipped:")
    for skip in skipped[:shown]:
        write(f"  {skip.path}: {skip.reason}")
    if len(skipped) > shown:
        write(f"  and {len(skipped) - shown} more")
    write("`evagen data scan FOLDER` finds damaged files beforehand and makes a list of them, which is then left out")


class EndlessSampler:
    """Keys of a ClipDataset for ever: epoch e is a seeded permutation of its items, plus `e * num_items`.
    `start` leaves out that many keys, which is how a run resumes: the sequence itself never changes."""

    def __init__(self, num_items: int, seed: int, start: int = 0):
        self.num_items = num_items
        self.seed = seed
        self.start = start

    def __iter__(self) -> Iterator[int]:
        epoch, done = divmod(self.start, self.num_items)
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.num_items)
            for index in order[done:]:
                yield epoch * self.num_items + int(index)
            epoch, done = epoch + 1, 0


def train_loader(
    dataset: ClipDataset,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
) -> DataLoader:
    """Batches for ever. `batch_size` (B) is for each process: step s of P processes together takes the keys
    [s B P, (s + 1) B P) of the endless sequence, and process p the p-th B of them. Starting at `start_step`
    continues an earlier run exactly. Already shared out: not to be sharded again by Accelerate."""
    batches = _ProcessBatches(len(dataset), batch_size, seed, start_step, process_index, num_processes)
    return clip_loader(dataset, batches, num_workers)


def ordered_loader(
    dataset: ClipDataset,
    batch_size: int,
    num_workers: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
) -> DataLoader:
    """Each item once, over all processes together: process p of P has the items p, p + P, ... in order.
    The last batch may be smaller."""
    keys = range(process_index, len(dataset), num_processes)
    batches = [list(keys[first : first + batch_size]) for first in range(0, len(keys), batch_size)]
    return clip_loader(dataset, batches, num_workers)


def clip_loader(
    dataset: Dataset,
    batches: Iterable[Sequence[int]],
    num_workers: int = 0,
    collate: Callable[[list], Any] = collate_clips,
) -> DataLoader:
    """A ClipBatch, or what else `collate` makes, for each of the given lists of keys, in their order."""
    return DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else it draws from the global one, whose numbers are dropout's
    )


@dataclass(frozen=True)
class _Item:
    path: VideoPath
    label: int
    first_start: int
    last_start: int


@dataclass(frozen=True)
class _ProcessBatches:
    """The key lists of one process, as DataLoader's `batch_sampler`."""

    num_items: int
    batch_size: int
    seed: int
    start_step: int
    process_index: int
    num_processes: int

    def __iter__(self) -> Iterator[list[int]]:
        keys_per_step = self.batch_size * self.num_processes
        keys = iter(EndlessSampler(self.num_items, self.seed, self.start_step * keys_per_step))
        first = self.process_index * self.batch_size
        while True:
            yield list(islice(keys, keys_per_step))[first : first + self.batch_size]


def _list_files(config: DataConfig) -> Listing:
    listing = join(
        [
            leave_out_bad(list_source(source, source.split or config.split), source.root, source.skip_list)
            for source in (config, *config.more)
        ]
    )
    for remark in listing.remarks:
        logging.getLogger(__name__).warning(remark)
    if config.classes is not None:
        listing = select_classes(listing, config.classes)
    if config.without_classes:
        listing = leave_out_classes(listing, config.without_classes)
    if config.limit is not None:
        listing = replace(listing, files=spread_over_classes(listing.files, config.limit))
    return listing


def _items_of(file: VideoFile, num_frames: int, config: DataConfig, span: int) -> list[_Item]:
    last = num_frames - span
    ranges = {
        "random": [(0, last)],
        "first": [(0, 0)],
        "centre": [(last // 2, last // 2)],
        "all": [(start, start) for start in range(0, last + 1, config.frames * config.stride)],
    }
    return [_Item(file.path, file.label, first, final) for first, final in ranges[config.clip]]
