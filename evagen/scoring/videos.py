"""The videos that a protocol's real clips are taken of, as a copy of the data set has them.

A protocol is a promise about these videos. Where a copy lacks some, or is another data set altogether, the scores are
others too: that is an error, or else part of the protocol's name.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from evagen.data.clips import SkippedClip
from evagen.data.frame_counts import all_frame_rates, count_all_frames
from evagen.data.layouts import Split
from evagen.data.skip_list import leave_out_bad, name_in
from evagen.data.sources import DataSet, Layout, VideoSource, list_source
from evagen.data.video_reader import VideoError, VideoPath
from evagen.errors import UserError
from evagen.eval import Protocol, SourceVideo

LAYOUTS: dict[str, Layout] = {"ucf101": "ucf101", "kinetics600": "kinetics", "webvid": "folder"}
NUM_CLASSES = {"ucf101": 101, "kinetics600": 600}
UCF101_LISTS = {1: (9_537, 3_783), 2: (9_586, 3_734), 3: (9_624, 3_696)}
"""Videos of the three official training and test lists."""
SHOWN = 5
REMEDY = (
    "Put whole files in their places (`evagen data scan` finds damaged ones beforehand), or score without them, under "
    "a name that says so, with accept_incomplete=true"
)


class ScoredData(DataSet):
    """Where the protocol's data set is; which split of it is read is the protocol's to say."""

    layout: Layout | None = None
    """As in `data.layout` of the training commands; if None, that of the protocol's data set."""


@dataclass(frozen=True)
class RealVideos:
    """videos: of the split, by paths that are the same in every copy; files: where each is; class_names: in label
    order; absent: videos of the split that this copy lacks or a scan found bad; unreadable: such as are there and
    cannot be opened; remarks: on this copy of the data set."""

    videos: list[SourceVideo]
    files: dict[str, VideoPath]
    class_names: list[str]
    absent: list[SkippedClip]
    unreadable: list[SkippedClip]
    remarks: list[str]


def list_videos(protocol: Protocol, data: ScoredData) -> RealVideos:
    """The videos of the protocol's split. Raises UserError for a folder of another layout or another data set."""
    layout = data.layout or LAYOUTS.get(protocol.dataset)
    if layout is None:
        raise UserError(f"data.layout is missing: {protocol.name} scores {protocol.dataset}, whose layout is not known")
    split = cast(Split, protocol.split)
    source = VideoSource(**data.model_dump() | {"layout": layout, "split_index": protocol.split_index or 1})
    listed = list_source(source, split)
    rows = {file.path: number for number, file in enumerate(listed.files)}
    listing = leave_out_bad(listed, data.root, data.skip_list)
    _check_data_set(protocol, data.root, len(listing.class_names), len(listing.files) + len(listing.left_out))
    found: list[SourceVideo] = []
    files: dict[str, VideoPath] = {}
    absent = [SkippedClip(video.path, video.reason) for video in listing.left_out]
    unreadable: list[SkippedClip] = []
    paths = [file.path for file in listing.files]
    rates: Sequence[float | VideoError | None] = [None] * len(paths)
    if protocol.frames_per_second is not None:
        rates = all_frame_rates(paths)
    for file, count, rate in zip(listing.files, count_all_frames(paths), rates):
        if isinstance(error := count, VideoError) or isinstance(error := rate, VideoError):
            unreadable.append(SkippedClip(str(file.path), error.reason))
            continue
        name = name_in(data.root, file.path).replace("\\", "/")
        if not isinstance(file.path, str | Path) and os.path.isabs(name):  # a table in a cache, which may be anywhere
            name = f"row {rows[file.path]:09}"
        if layout == "ucf101":  # copies differ in the folders
            name = f"{listing.class_names[file.label]}/{name.rpartition('/')[2]}"
        found.append(SourceVideo(name, count, file.label, rate))
        files[name] = file.path
    return RealVideos(found, files, listing.class_names, absent, unreadable, listing.remarks)


def without_missing(protocol: Protocol, videos: RealVideos, accept: bool) -> Protocol:
    """The protocol under a name that says how many videos it is short of. Kinetics is complete nowhere, so there only
    files that are there and cannot be opened count. Raises UserError, which lists them, unless they are accepted."""
    missing = videos.unreadable if protocol.dataset == "kinetics600" else videos.absent + videos.unreadable
    if not missing:
        return protocol
    total = len(videos.videos) + len(missing)
    if not accept:
        raise incomplete(protocol, missing, total, "videos")
    return relabelled(protocol, f"videos={len(videos.videos)}/{total}", num_real=protocol.clips.fixed_count)


def without_unreadable(
    protocol: Protocol, unreadable: Sequence[SkippedClip], total: int, accept: bool, table: Path
) -> Protocol:
    """The same for clips that turned out to be damaged when they were decoded, of which a table remembers that."""
    if not accept:
        again = f"{REMEDY}. Where a file is whole, and the disk did not give it for a moment, delete {table} first"
        raise incomplete(protocol, unreadable, total, "clips", again)
    left = total - len(unreadable)
    return relabelled(protocol, f"clips={left}/{total}", num_real=left)


def incomplete(
    protocol: Protocol, missing: Sequence[SkippedClip], total: int, what: str, remedy: str = REMEDY
) -> UserError:
    """The error for a side with gaps."""
    lines = [f"  {video.path}: {video.reason}" for video in missing[:SHOWN]]
    if len(missing) > SHOWN:
        lines.append(f"  and {len(missing) - SHOWN} more")
    return UserError(
        f"{protocol.name} is not scored: {len(missing)} of {total} {what} cannot be used.\n"
        + "\n".join([*lines, remedy])
    )


def relabelled(protocol: Protocol, label: str, **changes: Any) -> Protocol:
    """A protocol that differs in what `label` says, which becomes part of its name."""
    return replace(protocol, name=f"{protocol.name} [{label}]", published=(), **changes)


def _check_data_set(protocol: Protocol, root: Path, num_classes: int, num_videos: int) -> None:
    """Raises UserError for the videos of another data set under this protocol's name."""
    wanted = NUM_CLASSES.get(protocol.dataset, num_classes)
    expected = num_videos
    if protocol.dataset == "ucf101":
        train, test = UCF101_LISTS[protocol.split_index or 1]
        expected = {"train": train, "test": test}.get(protocol.split, train + test)
    if (num_classes, num_videos) != (wanted, expected):
        raise UserError(
            f"{protocol.name} scores {protocol.dataset}, {wanted} classes"
            + (f" and {expected:,} videos" if protocol.dataset == "ucf101" else "")
            + f" in its {protocol.split} split; {root} lists {num_classes} classes and {num_videos:,} videos. To score "
            "other videos by the same rules, under a name of their own, give theirs: changes.dataset=NAME"
        )
