"""Pairs of frames, original and reconstruction, scored as they go by: for videos of any length."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evagen.eval import motion_explained, moving_errors, psnr_of_mse
from evagen.kernels.levels import frames_to_video

Pair = tuple[np.ndarray, np.ndarray]
"""A frame and its reconstruction, uint8 (H, W, 3)."""
PIECE = 16
"""Frames that motion is measured over."""
SCORED_SIDE = 256
"""Of larger pictures scores look at every second, third … row and column, until the short side is below twice this."""
SQUARES = 8
"""The trivial answer is a still picture of so many squares each way."""


@dataclass
class PairScores:
    """Of pairs of frames that went through `scored`: sums of squared errors in [-1, 1], of the reconstruction and of
    the trivial answer, how many numbers, and the sums of `moving_errors`."""

    squared: float = 0.0
    squared_of_squares: float = 0.0
    count: int = 0
    moving: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, originals: list[np.ndarray], others: list[np.ndarray]) -> None:
        step = max(1, min(originals[0].shape[:2]) // SCORED_SIDE)
        real, made = (frames_to_video(np.stack(x)[:, ::step, ::step])[None] for x in (originals, others))
        self.squared += float((real - made).square().sum())
        self.squared_of_squares += float((real - as_squares(real)).square().sum())
        self.count += real.numel()
        self.moving.append(moving_errors(made, real))

    @property
    def psnr(self) -> float:
        """In dB, of all frames together."""
        return _decibels(self.squared / self.count)

    @property
    def motion(self) -> float | None:
        """Motion explained; None where nothing moves."""
        return motion_explained(*(torch.cat(sums) for sums in zip(*self.moving)))

    @property
    def better_squares(self) -> float | None:
        """The PSNR of the trivial answer in dB where that comes nearer to the video; None where it does not."""
        trivial = _decibels(self.squared_of_squares / self.count)
        return trivial if trivial > self.psnr else None

    def summary(self) -> str:
        """One line for the terminal, and a warning where it is due."""
        motion = self.motion
        moved = "nothing moves" if motion is None else f"motion explained {motion:.2f}"
        line = f"PSNR {self.psnr:.1f} dB, {moved}"
        if self.better_squares is None:
            return line
        return (
            f"{line}\nwarning: a still picture of {SQUARES}x{SQUARES} coloured squares comes nearer to this video "
            f"({self.better_squares:.1f} dB): it looks like nothing that this tokenizer was trained on. Take another "
            "one, or train it further on such videos (docs/your-own-videos.md)"
        )


def as_squares(video: Tensor) -> Tensor:
    """video (B, C, F, H, W) → the same shape: in `SQUARES` × `SQUARES` squares the mean colour over all frames."""
    mean = video.mean(2)  # (B, C, H, W)
    squares = F.interpolate(F.adaptive_avg_pool2d(mean, SQUARES), mean.shape[-2:])  # (B, C, H, W)
    return squares[:, :, None].expand_as(video)


def scored(pairs: Iterable[Pair], scores: PairScores) -> Iterator[Pair]:
    """The pairs as they come, each added to the scores by the time the next piece begins."""
    piece: list[Pair] = []
    for pair in pairs:
        piece.append(pair)
        yield pair
        if len(piece) == PIECE:
            scores.add(*map(list, zip(*piece)))
            piece = []
    if piece:
        scores.add(*map(list, zip(*piece)))


def _decibels(mean_squared_error: float) -> float:
    return float(psnr_of_mse(torch.tensor(mean_squared_error, dtype=torch.float64)))
