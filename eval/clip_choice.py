"""Which clips of which videos a protocol scores. Works on lists of names and frame counts; no file is opened."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from evagen.kernels.strides import frame_offset


@dataclass(frozen=True, order=True)
class SourceVideo:
    """`path` names the video and decides its place in the order of the set, so it should be relative to the data set's
    folder and have forward slashes on every machine. `label` is its class, -1 without classes. `frames_per_second`, on
    average where it varies, is asked for by choices that resample in time only."""

    path: str
    num_frames: int = field(compare=False)
    label: int = field(default=-1, compare=False)
    frames_per_second: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SourceClip:
    """Frames `start`, `start + stride`, …, `num_frames` of them; fewer than the protocol's where the video is short and
    the rest is to repeat the last one. `numbers` names the frames one by one where the clip is resampled in time;
    they are `num_frames`, begin with `start`, and repeat where the file has fewer frames a second than the clip."""

    path: str
    start: int
    num_frames: int
    stride: int
    label: int
    numbers: tuple[int, ...] | None = None


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

    def __call__(
        self, videos: Sequence[SourceVideo], num_frames: int, stride: int = 1, frames_per_second: float | None = None
    ) -> list[SourceClip]:
        """Clips of `num_frames` frames, `stride` apart, or resampled to `frames_per_second` if that is given. Raises
        ValueError for a path that comes twice, for both a stride and a frame rate, where a video does not tell its
        own rate, and where there are fewer videos or clips than the choice needs."""
        if frames_per_second is not None and stride != 1:
            raise ValueError(f"stride={stride} and frames_per_second={frames_per_second:g} exclude each other")
        ordered = sorted(videos)
        twice = [a.path for a, b in pairwise(ordered) if a.path == b.path]
        if twice:
            raise ValueError(f"{len(twice)} videos are listed twice, {twice[0]} among them")
        steps = {video.path: _steps(video, num_frames, stride, frames_per_second) for video in ordered}
        if self.short == "drop" or self.place == "all":
            ordered = [video for video in ordered if video.num_frames > steps[video.path][-1]]
        ordered = [video for video in ordered if video.num_frames > 0]
        long = f"{(num_frames - 1) * stride + 1} frames"
        if frames_per_second is not None:
            long = f"{num_frames} frames at {frames_per_second:g} a second"
        ordered = _first(ordered, self.first_videos, f"videos of at least {long}")
        clips = [
            SourceClip(
                video.path,
                start,
                len(numbers := [start + step for step in steps[video.path] if start + step < video.num_frames]),
                stride,
                video.label,
                None if frames_per_second is None else tuple(numbers),
            )
            for video in ordered
            for start in self._starts(video, steps[video.path][-1] + 1)
        ]
        if self.drawn is None:
            return clips
        _first(clips, self.drawn, f"clips of {num_frames} frames")
        return [clips[number] for number in random.Random(self.seed).sample(range(len(clips)), self.drawn)]

    @property
    def fixed_count(self) -> int | None:
        """How many clips any set of videos gives that is large enough; None where that depends on the videos."""
        return self.drawn or (None if self.place == "all" else self.first_videos)

    def _starts(self, video: SourceVideo, span: int) -> list[int]:
        """The first frames of a video's clips, each of which reaches over `span` frames of the file."""
        last = max(0, video.num_frames - span)
        if self.place == "all":
            return list(range(0, last + 1, span))
        return [0 if self.place == "first" else random.Random(f"{self.seed}/{video.path}").randint(0, last)]


def _steps(video: SourceVideo, num_frames: int, stride: int, frames_per_second: float | None) -> list[int]:
    """How far each frame of a clip lies behind its first one in the file. Resampled in time, frame i is the one nearest
    to i / frames_per_second seconds after the first; of two as near the earlier."""
    if frames_per_second is None:
        return [stride * i for i in range(num_frames)]
    if not video.frames_per_second:
        raise ValueError(f"{video.path} does not tell its frame rate, and clips are of {frames_per_second:g} a second")
    step = Fraction(video.frames_per_second) / Fraction(frames_per_second)
    return [frame_offset(i, step) for i in range(num_frames)]


def _first(items: list, count: int | None, what: str) -> list:
    if count is not None and len(items) < count:
        raise ValueError(f"{count:,} {what} are needed, and there are {len(items):,}; is the data set complete?")
    return items[:count]
