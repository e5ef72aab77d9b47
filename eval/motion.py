"""How much of what moves in a video a reconstruction shows, and how much moves in a set of videos.

PSNR, SSIM and perceptual distances are mostly about backgrounds: a clip whose moving things have all vanished can score
well by them. *Motion explained* looks at the places that move alone. 1 is a perfect reconstruction, 0 is what the still
background scores, and less is worse than a still picture.

With x the original, x̂ the reconstruction, b the median of x over time, and M the places (frame, y, x) of all videos
where x and b differ by more than 0.2 in a channel:

    motion explained = 1 - Σ_M (x̂ - x)² / Σ_M (b - x)²

A generated video has no original, so what is compared with real ones is how much moves: the share of places in M, and
the mean change from frame to frame.

Letters: B videos, F frames of a video, H and W pixels.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from evagen.eval.video_pairs import checked, checked_pair
from evagen.kernels.motion import departure, still_background

MOVES = 0.2
"""Distance from the background, of values in [-1, 1], above which a place counts as moving."""


def moving_places(video: Tensor, background: Tensor) -> Tensor:
    """M, the places that move: videos `B 3 F H W` and their backgrounds `B 3 1 H W` in [-1, 1] → bool `B 1 F H W`."""
    return departure(video, background) > MOVES


def moving_errors(reconstruction: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of squared errors over the places that move in each video, of the reconstruction and of the still
    background: videos `B 3 F H W` in [-1, 1] → twice float64 `(B,)`. Both are 0 where nothing moves. Raises
    ValueError for bad shapes."""
    reconstruction, original = checked_pair(reconstruction, original)
    background = still_background(original)  # B 3 1 H W
    moves = moving_places(original, background)  # B 1 F H W
    errors = (((video - original).square() * moves).flatten(1) for video in (reconstruction, background))
    of_reconstruction, of_background = (error.double().sum(1) for error in errors)
    return of_reconstruction, of_background


def motion_explained(of_reconstruction: Tensor, of_background: Tensor) -> float | None:
    """From the sums of `moving_errors`, any shape, over all videos together; None where nothing moves."""
    still = of_background.sum().item()
    return 1 - of_reconstruction.sum().item() / still if still else None


def moving_share(video: Tensor) -> Tensor:
    """Share of places that move, 0 to 1: videos `B 3 F H W` in [-1, 1] → `(B,)`. Raises ValueError for others."""
    return moving_places(checked(video), still_background(video)).flatten(1).float().mean(1)


def frame_change(video: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring frames, 0 to 2: videos `B 3 F H W` in [-1, 1] → `(B,)`. A video of one
    frame has 0. Raises ValueError for others."""
    if checked(video).shape[2] < 2:
        return video.new_zeros(len(video))
    return video.diff(dim=2).abs().flatten(1).mean(1)


class MotionExplained(Metric):
    """Motion explained over all videos of all processes: sums are added up, not ratios averaged, so a video in which
    little moves counts little."""

    is_differentiable = False
    full_state_update = False

    of_reconstruction: Tensor
    of_background: Tensor

    def __init__(self, **torchmetrics_options: Any):
        super().__init__(**torchmetrics_options)
        for name in ("of_reconstruction", "of_background"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, original: Tensor) -> None:
        """Adds videos `B 3 F H W` in [-1, 1]."""
        of_reconstruction, of_background = moving_errors(reconstruction, original)
        self.of_reconstruction += of_reconstruction.sum().to(self.of_reconstruction.device)
        self.of_background += of_background.sum().to(self.of_background.device)

    def compute(self) -> Tensor:
        """Float64 `()`; NaN where nothing moves in any video, for which it is not defined."""
        explained = motion_explained(self.of_reconstruction, self.of_background)
        return torch.tensor(float("nan") if explained is None else explained, dtype=torch.float64)
