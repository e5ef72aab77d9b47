"""Which clips of which videos a protocol scores. Works on lists of names and frame counts; no file is opened."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal


@dataclass(frozen=True, order=True)
class SourceVideo:
    """`path` names the video and decides its place in the order of the set, so it should be relative to the data set's
    folder and have forward slashes on every machine. `label` is its class, -1 without classes."""

    path: str
    num_frames: int = field(compare=False)
    label: int = field(default=-1, compare=False)


@dataclass(frozen=True)
class SourceClip:
    """Frames `start`, `start + stride`, …, `num_frames` of them; fewer than the protocol's where the video is short and
    the rest is to repeat the last one."""

    path: str
    start: int
    num_frames: int
    stride: int
    label: int


@dataclass(frozen=True)
class ClipChoice:
    """How clips are taken of a set of videos in the order of their paths.

    place: `all` takes every clip that does not overlap the one before, beginning with frame 0, what is left at the end
        of a video being dropped; `first` one clip from frame 0 of each video; `random` one clip of each video, every
        start being equally likely.
    short: videos with fewer frames than a clip are padded with their last frame, or dropped. `all` always drops them.
    first_videos: take the first so many videos only (after short ones were dropped).
    drawn: draw so many of the clips, without replacement, and keep the order of drawing.
    seed: of `random` and `drawn`.

    Clips are drawn by Python's `random.Random(seed).sample(range(num_clips), drawn)`, which is what LARP's and
    AdapTok's `sample.py` do, so that the same videos give the same clips. Random places are nobody's: the peers draw
    them unseeded. Here a video's place follows from the seed and its path, whatever else is in the set."""

    place: Literal["all", "first", "random"]
    short: Literal["pad", "drop"] = "drop"
    first_videos: int | None = None
    drawn: int | None = None
    seed: int = 0

    def __call__(self, videos: Sequence[SourceVideo], num_frames: int, stride: int = 1) -> list[SourceClip]:
        """Clips of `num_frames` frames, `stride` apart. Raises ValueError for a path that comes twice, and where there
        are fewer videos or clips than the choice needs."""
        ordered = sorted(videos)
        twice = [a.path for a, b in pairwise(ordered) if a.path == b.path]
        if twice:
            raise ValueError(f"{len(twice)} videos are listed twice, {twice[0]} among them")
        span = (num_frames - 1) * stride + 1
        if self.short == "drop" or self.place == "all":
            ordered = [video for video in ordered if video.num_frames >= span]
        ordered = [video for video in ordered if video.num_frames > 0]
        ordered = _first(ordered, self.first_videos, f"videos of at least {span} frames")
        clips = [clip for video in ordered for clip in self._of(video, num_frames, stride)]
        if self.drawn is None:
            return clips
        _first(clips, self.drawn, f"clips of {num_frames} frames")
        return [clips[number] for number in random.Random(self.seed).sample(range(len(clips)), self.drawn)]

    def _of(self, video: SourceVideo, num_frames: int, stride: int) -> list[SourceClip]:
        span = (num_frames - 1) * stride + 1
        last = max(0, video.num_frames - span)
        if self.place == "all":
            starts = list(range(0, last + 1, span))
        elif self.place == "first":
            starts = [0]
        else:
            starts = [random.Random(f"{self.seed}/{video.path}").randint(0, last)]
        count = min(num_frames, (video.num_frames - 1) // stride + 1)
        return [SourceClip(video.path, start, count, stride, video.label) for start in starts]


def _first(items: list, count: int | None, what: str) -> list:
    if count is not None and len(items) < count:
        raise ValueError(f"{count:,} {what} are needed, and there are {len(items):,}; is the data set complete?")
    return items[:count]
