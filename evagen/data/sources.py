"""Which videos a data set has and how clips are cut from them: the config, and the list of files that it means."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from evagen.config import Section, Seed
from evagen.data.kinetics import list_kinetics
from evagen.data.layouts import (
    Listing,
    Split,
    join,
    leave_out_classes,
    list_folder,
    select_classes,
    spread_over_classes,
    tell,
)
from evagen.data.skip_list import leave_out_bad
from evagen.data.ucf101 import list_ucf101
from evagen.errors import UserError
from evagen.kernels.words import counted

Layout = Literal["ucf101", "kinetics", "folder", "huggingface"]


class DataSet(Section):
    """Where a data set is, and what has to be said of it."""

    root: Path
    """The folder that holds the videos."""
    layout: Layout | None = None
    """How the videos lie in it."""
    csv: Path | None = None
    """Kinetics' lists, a CSV file or a folder of them, where they are not in `root` or `root/annotations`."""
    video_column: str | None = None
    """With `huggingface`: the column of videos. The only one of type Video if None."""
    label_column: str | None = None
    """With `huggingface`: the column of classes. `label`, where there is one, if None."""
    skip_list: Path | None = None
    """Videos to leave out, a file that `evagen data scan` wrote. Where there is one in `root`, it is used if None."""


class VideoSource(DataSet):
    """Where videos are."""

    layout: Layout
    """`ucf101`: class folders beside `ucfTrainTestlist/`. `kinetics`: class folders, or loose videos with CSV lists,
    see `evagen.data.kinetics`. `folder`: all videos below `root`; where each lies in a subfolder, the first level of
    subfolders are the classes. `huggingface`: a data set of the `datasets` library, `root` being its folder or its
    name on the hub, see `evagen.data.huggingface`."""
    split: Split | None = None
    """That of the data set if None."""
    split_index: int = Field(default=1, ge=1)
    """Which of UCF-101's three train/test lists."""


class DataConfig(VideoSource):
    """Which videos to read and how to cut clips from them."""

    split: Split = "train"
    """UCF-101 has `train` and `test`, Kinetics `train` and `val`; with `layout=folder` the folders of these names
    in `root`. `test` means `val` where there is no `test`; `all` is all there is."""
    more: list[VideoSource] = Field(default_factory=list)
    """Further places whose videos belong to the same data set. Their classes are appended; classes of the same name
    share a label."""
    frames: int = Field(default=16, ge=1)
    """Frames in a clip."""
    stride: int = Field(default=1, ge=1)
    """Distance between the frames of a clip: 2 takes every second one."""
    frames_per_second: float | None = Field(default=None, gt=0)
    """Instead of a stride: frame i of a clip is the one of the file that is nearest to i / frames_per_second seconds
    after the clip's first, of two equally near ones the earlier. Frames of the file are counted as evenly spread at
    its average rate. A file of a lower rate is left out and listed; one that is lower by at most 1%, as 29.97 is for
    30, gives every frame. The paper reads WebVid at 3 (section H). The files' own rates if None."""
    size: int = Field(default=128, ge=1)
    """Height and width of a clip in pixels: the short side is resized to it, the long side cropped."""
    clip: Literal["random", "first", "centre", "all"] = "random"
    """Which part of a video: one clip at a random, the first or the central place, or all clips that
    do not overlap (the only choice with several items for a video)."""
    crop: Literal["centre", "random"] = "centre"
    """Where the long side is cropped."""
    flip: bool = False
    """Whether to mirror half of the clips left to right, at random."""
    seed: Seed = 0
    """Seed of all that is random in a clip."""
    classes: list[str] | None = None
    """Use these classes only; labels stay those of the full set."""
    without_classes: list[str] = Field(default_factory=list)
    """Leave these classes out, to see later how a model does on what it has never seen."""
    limit: int | None = Field(default=None, ge=1)
    """Use the first N videos only, taken in turn from every class."""

    @model_validator(mode="after")
    def _a_stride_or_a_rate(self) -> "DataConfig":
        if self.frames_per_second is not None and self.stride != 1:
            raise ValueError(
                f"stride={self.stride} and frames_per_second={self.frames_per_second:g} both say how far apart the "
                "frames of a clip are; give one of them"
            )
        return self


OF_LAYOUTS: dict[str, Layout] = {
    "split_index": "ucf101", "csv": "kinetics", "video_column": "huggingface", "label_column": "huggingface",
}  # fmt: skip
"""Options that one layout alone has."""


def list_source(source: VideoSource, split: Split) -> Listing:
    """The videos of one place, the skip list not yet left out. Raises UserError for options of another layout."""
    for name, layout in OF_LAYOUTS.items():
        if (value := getattr(source, name)) != VideoSource.model_fields[name].default and source.layout != layout:
            raise UserError(f"{name}={value} is for layout={layout}; the layout of {source.root} is {source.layout}")
    if source.layout == "ucf101":
        return list_ucf101(source.root, split, source.split_index)
    if source.layout == "kinetics":
        return list_kinetics(source.root, split, source.csv)
    if source.layout == "huggingface":
        from evagen.data.huggingface import list_huggingface  # loads `datasets` and pandas, which take a while

        return list_huggingface(source.root, split, source.video_column, source.label_column)
    return list_folder(source.root, split)


def list_files(config: DataConfig) -> Listing:
    """The videos of all places together, bad ones and those that the config leaves out taken out; remarks are logged.
    Raises UserError for lists that are missing, options of another layout and unknown classes."""
    listing = join(
        [
            leave_out_bad(list_source(source, source.split or config.split), source.root, source.skip_list)
            for source in (config, *config.more)
        ]
    )
    if twice := len(listing.files) - len({file.path for file in listing.files}):
        videos = counted(twice, "video comes twice and counts twice", "videos come twice and count twice")
        listing.remarks.append(f"{videos}, in what data.root and data.more name")
    tell(listing)
    if config.classes is not None:
        listing = select_classes(listing, config.classes)
    if config.without_classes:
        listing = leave_out_classes(listing, config.without_classes)
    if config.limit is not None:
        listing = replace(listing, files=spread_over_classes(listing.files, config.limit))
    return listing
