"""Clips of equal length and size from video files, as a map-style data set.

    dataset = ClipDataset(DataConfig(root="UCF101", layout="ucf101", size=128))
    clip = dataset[0]
    clip.video                                            # float32 C F H W in [-1, 1]

Dimensions: C = 3 colours (RGB), F frames, H = W = `size`.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from evagen.data.clip_items import ClipItems
from evagen.data.frame_counts import all_frame_rates, count_all_frames
from evagen.data.layouts import VideoFile
from evagen.data.sources import DataConfig, list_files
from evagen.data.square_clips import read_square
from evagen.data.video_reader import VideoError
from evagen.errors import UserError
from evagen.kernels.files import write_whole
from evagen.kernels.names import as_line, as_text
from evagen.kernels.strides import Stride, frame_offset
from evagen.kernels.words import counted

SKIPPED = "skipped.jsonl"
"""Of a training's run folder: all files that it could not use."""


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
    """A file, or a clip of it, that could not be used, and why; both as text that can be written anywhere."""

    path: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", as_text(self.path))
        object.__setattr__(self, "reason", as_text(self.reason))


class BeginningOf(NamedTuple):
    """The key of a clip's first frames: those of clip `key`, and only `frames` of them."""

    key: int
    frames: int


class ClipDataset(Dataset):
    """A map-style data set of clips, `dataset[key]` is a `Clip`, or a `SkippedClip` if decoding fails.

    A key is any number from zero: `epoch, index = divmod(key, len(dataset))`. All that is random in a
    clip (its place in the video, crop, mirroring) follows from (seed, epoch, index) alone, so neither
    workers nor order nor resuming change anything. `BeginningOf` asks for fewer frames. Iterating goes over epoch 0
    once.

    Every file that was not seen before is opened at construction. Those that cannot be read, are shorter than a clip,
    or have fewer frames a second than asked for, are left out and listed in `skipped`; after them what is known to be
    unusable without opening it: videos that the layout's lists name and that are not there, and those that `evagen
    data scan` found bad.

    Attributes: `class_names` (all classes of the layout, in label order), `labels` (of every item),
    `paths` (the usable videos), `skipped`, `num_files` (usable and skipped together).
    Raises UserError when nothing usable is found, a list is missing or a class is unknown."""

    def __init__(self, config: DataConfig):
        self.config = config
        listing = list_files(config)
        files, self.class_names = listing.files, listing.class_names
        self.num_files = len(files) + len(listing.left_out)
        counts = count_all_frames([file.path for file in files])
        self.skipped: list[SkippedClip] = []
        self._items = ClipItems()
        for file, count, stride in zip(files, counts, _strides(files, config)):
            found = _usable(count, config, stride)
            if isinstance(found, str):
                self.skipped.append(SkippedClip(str(file.path), found))
            else:
                assert not isinstance(stride, VideoError)
                self._items.add(file, found, stride)
        self.skipped += [SkippedClip(video.path, video.reason) for video in listing.left_out]
        if not self._items:
            lines: list[str] = []
            report_skipped(self.skipped, self.num_files, lines.append)
            roots = " or ".join(str(source.root) for source in (config, *config.more))
            raise UserError("\n".join([f"no usable video in {roots}", *lines]))
        self.labels = self._items.labels()

    @property
    def paths(self) -> list[str]:
        """Of the usable videos."""
        return [str(self._items.path(video)) for video in range(self._items.num_videos)]

    def __len__(self) -> int:
        return len(self._items)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change where a key no longer means the same clip: with the files that are
        there, their lengths and labels, and their frame rates where these matter. The files' contents are not looked
        at."""
        digest = hashlib.sha256()
        for number, (path, label, first, last, _) in enumerate(self._items):  # as records and corpora remember it
            item = f"_Item(path={path!r}, label={label}, first_start={first}, last_start={last})"
            digest.update((", " if number else "[").encode() + item.encode())
        digest.update(b"]")
        if self.config.frames_per_second is not None:
            digest.update(repr([item.stride for item in self._items]).encode())
        return digest.hexdigest()[:16]

    def __iter__(self) -> Iterator[Clip | SkippedClip]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: int | BeginningOf) -> Clip | SkippedClip:
        key, frames = key if isinstance(key, BeginningOf) else (key, self.config.frames)
        if key < 0:
            raise IndexError(f"keys count from zero, got {key}")
        epoch, index = divmod(key, len(self))
        item, config = self._items[index], self.config
        random = np.random.default_rng([config.seed, epoch, index])
        start = int(random.integers(item.first_start, item.last_start + 1))
        place, mirrored = random.random(), random.random() < 0.5
        try:
            video = read_square(
                item.path, start, frames, item.stride, config.size, place if config.crop == "random" else None
            )
        except VideoError as error:
            return SkippedClip(str(item.path), error.reason)
        if config.flip and mirrored:
            video = video.flip(-1)
        return Clip(video, item.label, index, str(item.path), start)


class SeveralEpochs(Dataset):
    """The first epochs of a `ClipDataset` as one data set, one behind the other: with `clip=random` each has other
    clips of the same videos. For `fill_table`, which takes the keys below `len`."""

    def __init__(self, dataset: ClipDataset, num_epochs: int):
        self.dataset, self.num_epochs = dataset, num_epochs
        self.skipped, self.num_files = dataset.skipped, dataset.num_files

    def __len__(self) -> int:
        return self.num_epochs * len(self.dataset)

    def __getitem__(self, key: int) -> Clip | SkippedClip:
        return self.dataset[key]

    def fingerprint(self) -> str:
        return self.dataset.fingerprint()


def report_skipped(
    skipped: Sequence[SkippedClip],
    num_files: int,
    write: Callable[[str], object] = print,
    all_in: Path | None = None,
    shown: int = 20,
) -> None:
    """Writes "N of M files skipped:", a line for each of the first `shown`, and what to do about them; nothing if
    there are none. A file that was skipped several times counts once. all_in: a file for all of them, JSON objects of a
    path and a reason, one in a line."""
    skipped = list({skip.path: skip for skip in reversed(skipped)}.values())[::-1]
    if not skipped:
        return
    write(f"{len(skipped):,} of {counted(num_files, 'file')} skipped:")
    for skip in skipped[:shown]:
        write(as_line(f"  {skip.path}: {skip.reason}", sys.maxsize))
    if len(skipped) > shown:
        write(f"  and {len(skipped) - shown} more")
    if all_in is not None:
        write_whole(all_in, "".join(json.dumps(asdict(skip)) + "\n" for skip in skipped))
        write(f"all of them are in {all_in}")
    write("`evagen data scan FOLDER` finds damaged files beforehand and makes a list of them, which is then left out")


def _usable(count: int | VideoError, config: DataConfig, stride: Stride | VideoError) -> list[tuple[int, int]] | str:
    """Between which frames the clips of a file begin, or why it has none."""
    if isinstance(count, VideoError):
        return count.reason
    if isinstance(stride, VideoError):
        return stride.reason
    span = frame_offset(config.frames - 1, stride) + 1
    return (
        _starts(count, config, stride)
        if count >= span
        else f"too short: {counted(count, 'frame')}, a clip needs {span}"
    )


def _starts(num_frames: int, config: DataConfig, stride: Stride) -> list[tuple[int, int]]:
    last = num_frames - 1 - frame_offset(config.frames - 1, stride)
    if config.clip == "all":
        return [(start, start) for start in range(0, last + 1, frame_offset(config.frames, stride))]
    return [{"random": (0, last), "first": (0, 0), "centre": (last // 2, last // 2)}[config.clip]]


_SAME_RATE = Fraction(101, 100)
"""How far a rate may lie above a file's own and still mean it."""


def _strides(files: Sequence[VideoFile], config: DataConfig) -> list[Stride | VideoError]:
    """The distance between a clip's frames in each file, or why the file has too few of them a second."""
    strides: list[Stride | VideoError] = []
    if config.frames_per_second is None:
        return strides + [config.stride] * len(files)
    asked = Fraction(str(config.frames_per_second))
    for file, rate in zip(files, all_frame_rates([file.path for file in files])):
        if isinstance(rate, VideoError):
            strides.append(rate)
        elif asked > rate * _SAME_RATE:
            reason = f"too slow: {float(rate):.4g} frames a second, frames_per_second={config.frames_per_second:g} "
            strides.append(VideoError(file.path, f"{reason}needs as many; give {float(rate):.4g} or less to read it"))
        else:
            strides.append(max(rate / asked, Fraction(1)))
    return strides
