"""Minutes that a generator wrote: whether their end is still like their beginning, and like real videos of the same
classes.

Legend: C = 3, F frames, H × W pixels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from evagen.data.video_reader import VideoError, read_frames
from evagen.errors import UserError
from evagen.eval import ImageNetworkDetector, moving_share
from evagen.kernels.levels import frames_to_video
from evagen.kernels.words import counted
from evagen.sampling.rows import file_of, iterate_rows
from evagen.scoring.reconstruction import frechet_between
from evagen.scoring.table import markdown

SECONDS = 10
"""Of the beginning and of the end that are compared."""
CLIP = 16
"""Frames of a clip of the Fréchet distance."""


@dataclass(frozen=True)
class Minutes:
    """Means over videos. videos, real_videos: how many, of the same classes; moving_…: share of places that move,
    within ten seconds; frechet_…: of clips of 16 frames from ten seconds, against those of others (with features of the
    offline network, so no FVD). frechet_real, of the real videos' last to their first seconds, is what the others are
    held against; None where they are too short for two."""

    videos: int
    real_videos: int
    moving_first: float
    moving_last: float
    moving_real: float
    frechet_first_to_last: float
    frechet_first_to_real: float
    frechet_last_to_real: float
    frechet_real: float | None

    def table(self) -> str:
        """In markdown; a dash where nothing moves in the real videos."""
        rows = [
            [f"{which} ten seconds", f"{moving:.3f}", f"{moving / self.moving_real:.2f}" if self.moving_real else "–",
             f"{frechet:.1f}"]
            for which, moving, frechet in (
                ("first", self.moving_first, self.frechet_first_to_real),
                ("last", self.moving_last, self.frechet_last_to_real),
            )
        ]  # fmt: skip
        heads = ["generated", "moving places", "of real", "Fréchet distance to real"]
        counts = f"{counted(self.videos, 'generated video')} beside {counted(self.real_videos, 'real video')}."
        between = f"Fréchet distance of the last to the first seconds: {self.frechet_first_to_last:.1f}"
        if self.frechet_real is not None:
            between += f", of real videos {self.frechet_real:.1f}"
        return f"{markdown(heads, rows)}\n\n{counts} {between}"


class _Ends(NamedTuple):
    """Ten seconds each, (C, F, H, W); last is None where they would overlap."""

    first: Tensor
    last: Tensor | None

    @classmethod
    def of(cls, video: Tensor, length: int) -> "_Ends":
        are_apart = video.shape[1] >= 2 * length
        return cls(video[:, :length].clone(), video[:, -length:].clone() if are_apart else None)


def compare_minutes(samples: Path, real: Iterable[tuple[Tensor, str | None]], frames_per_second: float) -> Minutes:
    """samples: the run folder of `evagen sample`; real: videos (C, F, H, W) in [-1, 1], each with its class, None
    without. Where both sides have classes, videos of those that only one has are left out: they would be far from the
    other side however good they are. Raises UserError for samples that are no videos, are gone or have less than twice
    ten seconds, for shorter real videos than ten seconds, and where no class is on both sides."""
    length = round(SECONDS * frames_per_second)
    rows = [(row.get("class"), file_of(samples, row)) for row in iterate_rows(samples)]
    reals = [(_Ends.of(video, length), name) for video, name in real]
    if shortest := min((ends.first.shape[1] for ends, _ in reals if ends.first.shape[1] < length), default=None):
        raise UserError(
            f"real videos of {shortest} frames are less than the {SECONDS} seconds, {length} frames, that those in "
            f"{samples} are compared with: give data.frames={length} at least, or leave out samples"
        )
    classes = {name for name, _ in rows}, {name for _, name in reals}
    if None not in classes[0] | classes[1]:
        shared = classes[0] & classes[1]
        if not shared:
            raise UserError(
                f"samples={samples} are of {_some(classes[0])}, the real videos of {_some(classes[1])}: no class is on "
                "both sides, so nothing can be compared; sample classes of these videos, or raise data.limit"
            )
        rows = [(name, path) for name, path in rows if name in shared]
        reals = [(ends, name) for ends, name in reals if name in shared]
    generated = [_read_ends(path, samples, length) for _, path in rows]
    first, last = [begin for begin, _ in generated], [end for _, end in generated]
    real_first = [ends.first for ends, _ in reals]
    real_last = [ends.last for ends, _ in reals if ends.last is not None]
    return Minutes(
        len(generated), len(reals), _moving(first), _moving(last), _moving(real_first),
        _frechet(first, last), _frechet(real_first, first), _frechet(real_first, last),
        _frechet(real_first, real_last) if len(real_last) == len(real_first) else None,
    )  # fmt: skip


def _read_ends(path: Path, samples: Path, length: int) -> tuple[Tensor, Tensor]:
    try:
        first, last = _Ends.of(frames_to_video(read_frames(path)), length)
    except VideoError as error:
        raise UserError(
            f"samples={samples}: {error}; give the run folder of `evagen sample` with a video format first"
        ) from error
    if last is None:
        raise UserError(f"the videos in {samples} are too short: {SECONDS} seconds at either end are compared")
    return first, last


def _some(names: set[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _moving(videos: list[Tensor]) -> float:
    return float(torch.cat([moving_share(video[None]) for video in videos]).mean())


def _frechet(real: list[Tensor], fake: list[Tensor]) -> float:
    """Of all clips of 16 frames."""
    return frechet_between(_clips(real), _clips(fake), ImageNetworkDetector())


def _clips(videos: list[Tensor]) -> Iterator[Tensor]:
    """In batches (8, C, 16, H, W). Raises UserError for a single clip."""
    length = min(CLIP, videos[0].shape[1])
    clips = [clip for video in videos for clip in video.split(length, dim=1) if clip.shape[1] == length]
    if len(clips) < 2:
        raise UserError(
            f"{SECONDS} seconds of {len(videos)} video are a single clip of {length} frames: give more videos"
        )
    return (torch.stack(clips[i : i + 8]) for i in range(0, len(clips), 8))
