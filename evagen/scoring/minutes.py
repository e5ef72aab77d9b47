"""Minutes that a generator wrote: whether their end is still like their beginning, and like real videos.

Legend: C = 3, F frames, H × W pixels.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evagen.data.video_reader import VideoError, read_frames
from evagen.errors import UserError
from evagen.eval import ImageNetworkDetector, moving_share
from evagen.kernels.levels import frames_to_video
from evagen.sampling.rows import file_of, iterate_rows
from evagen.scoring.reconstruction import frechet_between
from evagen.scoring.table import markdown

SECONDS = 10
"""Of the beginning and of the end that are compared."""
CLIP = 16
"""Frames of a clip of the Fréchet distance."""


@dataclass(frozen=True)
class Minutes:
    """Means over videos. moving_…: share of places that move, within ten seconds; frechet_…: of clips of 16 frames from
    ten seconds, against those of others (the offline network's features, no FVD)."""

    videos: int
    moving_first: float
    moving_last: float
    moving_real: float
    frechet_first_to_last: float
    frechet_first_to_real: float
    frechet_last_to_real: float

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
        between = f"Fréchet distance of the last to the first seconds: {self.frechet_first_to_last:.1f}"
        return f"{markdown(heads, rows)}\n\n{between}"


def compare_minutes(samples: Path, real: Iterable[Tensor], frames_per_second: float) -> Minutes:
    """samples: the run folder of `evagen sample`; real: videos (C, F, H, W) in [-1, 1], one after another. Raises
    UserError for samples that are no videos, are gone, or have less than twice ten seconds, and for real videos of
    less than ten."""
    length = round(SECONDS * frames_per_second)
    first, last = [], []  # of whole videos not more than one is in memory
    for row in iterate_rows(samples):
        try:
            frames = read_frames(file_of(samples, row))  # F H W C
        except VideoError as error:
            raise UserError(
                f"samples={samples}: {error}; give the run folder of `evagen sample` with a video format first"
            ) from error
        if len(frames) < 2 * length:
            raise UserError(f"the videos in {samples} are too short: {SECONDS} seconds at either end are compared")
        first.append(frames_to_video(frames[:length]))  # (C, f, H, W)
        last.append(frames_to_video(frames[-length:]))
    real = [video[:, :length].clone() for video in real]
    if any(video.shape[1] < length for video in real):
        raise UserError(
            f"real videos of {real[0].shape[1]} frames are less than the {SECONDS} seconds, {length} frames, that "
            f"those in {samples} are compared with: give data.frames={length} at least, or leave out samples"
        )
    return Minutes(
        len(first), _moving(first), _moving(last), _moving(real),
        _frechet(first, last), _frechet(real, first), _frechet(real, last),
    )  # fmt: skip


def _moving(videos: list[Tensor]) -> float:
    return float(torch.cat([moving_share(video[None]) for video in videos]).mean())


def _frechet(real: list[Tensor], fake: list[Tensor]) -> float:
    """Of all clips of 16 frames."""
    return frechet_between(_clips(real), _clips(fake), ImageNetworkDetector())


def _clips(videos: list[Tensor]) -> Iterator[Tensor]:
    """In batches (8, C, 16, H, W)."""
    length = min(CLIP, videos[0].shape[1])
    clips = [clip for video in videos for clip in video.split(length, dim=1) if clip.shape[1] == length]
    return (torch.stack(clips[i : i + 8]) for i in range(0, len(clips), 8))
