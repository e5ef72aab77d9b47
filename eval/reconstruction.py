"""How near a reconstructed video is to its original: PSNR, SSIM and perceptual distance.

Each measure gives one number per video, which a data set's mean is taken over. `motion.py` has what moves.

Letters: B videos, F frames of a video, H and W pixels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.functional.image import structural_similarity_index_measure

from evagen.eval.frame_distance import FrameDistance
from evagen.eval.motion import MotionExplained
from evagen.eval.video_pairs import checked_pair
from evagen.kernels.fp32 import in_fp32

# A video reconstructed without any error would have an infinite PSNR and so would the mean over all
# videos. The cap is out of the way of real scores: rounding to 8 bits alone limits PSNR to 59 dB.
PSNR_CAP_DB = 100.0

SSIM_WINDOW_PIXELS = 11


def psnr(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of videos `B 3 F H W` in [-1, 1] → `(B,)`.

    The squared error is averaged over a video's pixels and frames before the logarithm is taken; values
    outside [-1, 1] count as clipped; equal videos give `PSNR_CAP_DB`. Raises ValueError for bad shapes."""
    reconstruction, original = checked_pair(reconstruction, original)
    return psnr_of_mse((reconstruction - original).square().flatten(1).mean(1))  # (B,)


def psnr_of_mse(mse: Tensor) -> Tensor:
    """Mean squared errors of videos in [-1, 1], of any shape → PSNR in dB; `PSNR_CAP_DB` where there is no error."""
    return (10 * torch.log10(4 / mse)).clamp(max=PSNR_CAP_DB)  # the range of [-1, 1] is 2, squared 4


def ssim(reconstruction: Tensor, original: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, Gaussian window of 11 pixels) of videos `B 3 F H W` in [-1, 1],
    averaged over each video's frames → `(B,)`. It is torchmetrics': windows at the border see the picture mirrored
    there, where Wang's own code leaves the 5 pixels along each side out.

    Raises ValueError for bad shapes or frames below 11 pixels."""
    reconstruction, original = checked_pair(reconstruction, original)
    if min(original.shape[-2:]) < SSIM_WINDOW_PIXELS:
        raise ValueError(f"SSIM needs frames of at least 11×11 pixels, not {tuple(original.shape[-2:])}")
    scores = []
    for videos in zip(reconstruction, original):  # one at a time: the filtered images take 5 times its memory
        # SSIM compares means as ratios, so black has to be 0: [-1, 1] → [0, 1].
        given, wanted = (rearrange(video, "c f h w -> f c h w") / 2 + 0.5 for video in videos)  # (F, 3, H, W)
        with in_fp32(original.device):  # its differences of large means need all digits
            score = structural_similarity_index_measure(given, wanted, data_range=1.0)  # (), mean over frames
        assert isinstance(score, Tensor)  # a tuple only where the full similarity images are asked for
        scores.append(score)
    return torch.stack(scores)  # (B,)


def perceptual_distance(perceptual: FrameDistance, reconstruction: Tensor, original: Tensor) -> Tensor:
    """The perceptual distance of videos `B 3 F H W` in [-1, 1], averaged over each video's frames → `(B,)`."""
    return perceptual.video_distance(*checked_pair(reconstruction, original)).mean(1)


class MeanOverVideos(Metric):
    """The mean over all videos, of all processes, of a measure that gives `(B,)` for a batch.

    The measure stays its owner's: the metric neither moves nor saves the networks in it."""

    is_differentiable = False
    full_state_update = False

    total: Tensor
    num_videos: Tensor

    def __init__(self, measure: Callable[[Tensor, Tensor], Tensor], **torchmetrics_options: Any):
        super().__init__(**torchmetrics_options)
        self._unregistered = (measure,)  # a module would otherwise become a submodule
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_videos", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, original: Tensor) -> None:
        """Adds videos `B 3 F H W` in [-1, 1]."""
        values = self._unregistered[0](reconstruction, original)  # (B,)
        self.total += values.double().sum().to(self.total.device)
        self.num_videos += len(values)

    def compute(self) -> Tensor:
        """Float64 `()`. Raises ValueError before the first video."""
        if self.num_videos == 0:
            raise ValueError("a mean over videos needs at least 1 video; call update(reconstruction, original)")
        return self.total / self.num_videos


def reconstruction_metrics(perceptual: FrameDistance, **torchmetrics_options: Any) -> MetricCollection:
    """The keys `psnr` (dB), `ssim`, `perceptual` and `motion` (explained), fed by `update(reconstruction, original)`
    with videos `B 3 F H W` in [-1, 1]. `perceptual` has to be on the videos' device."""
    measures: dict[str, Metric | MetricCollection] = {
        "psnr": MeanOverVideos(psnr, **torchmetrics_options),
        "ssim": MeanOverVideos(ssim, **torchmetrics_options),
        "perceptual": MeanOverVideos(partial(perceptual_distance, perceptual), **torchmetrics_options),
        "motion": MotionExplained(**torchmetrics_options),
    }
    # Compute groups would treat metrics whose states happen to agree as one.
    return MetricCollection(measures, compute_groups=False)
