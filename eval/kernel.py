"""Kernel distance between features of two sets of videos: the squared maximum mean discrepancy (Gretton et al.
2012, JMLR 13, eq. 3) with the cubic polynomial kernel of KID and KVD (Bińkowski et al. 2018, arXiv 1801.01401,
eq. 5; for videos Unterthiner et al. 2018, arXiv 1812.01717).

Letters: N and M videos, B videos of a batch, D features.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from evagen.eval.frechet import VideoDetector, checked_detector, features_of

ROWS_AT_ONCE = 1024
"""Rows of the kernel matrix that are in memory together."""


def kernel_distance(
    real: Tensor, generated: Tensor, degree: int = 3, gamma: float | None = None, coef: float = 1.0
) -> Tensor:
    """Unbiased MMD² of features `(N, D)` and `(M, D)`, k(x, y) = (γ x·y + coef)^degree, γ = 1/D if None → float64 `()`.

    Every pair of videos enters once, so there are no subsets and no seed; time grows with (N + M)², memory with
    N + M. Its expectation is 0 for sets from one source whatever their sizes, hence it may be negative, and of a
    set with itself it is. Raises ValueError for fewer than 2 videos on a side or unequal D."""
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features should be (N, D) and (M, D), not {tuple(real.shape)} and {tuple(generated.shape)}")
    n, m = len(real), len(generated)
    if min(n, m) < 2:
        raise ValueError(f"a kernel distance needs at least 2 real and 2 generated videos, got {n} and {m}")
    gamma = 1 / real.shape[1] if gamma is None else gamma
    kernel = (degree, gamma, coef)
    within = [
        (_kernel_sum(x, x, *kernel) - (gamma * x.double().square().sum(1) + coef).pow(degree).sum())
        / (len(x) * (len(x) - 1))
        for x in (real, generated)
    ]  # means over pairs of different videos
    return within[0] + within[1] - 2 * _kernel_sum(real, generated, *kernel) / (n * m)


def _kernel_sum(x: Tensor, y: Tensor, degree: int, gamma: float, coef: float) -> Tensor:
    """The sum of k over all rows of x `(N, D)` and y `(M, D)`."""
    columns = y.double().T  # (D, M)
    blocks = [(gamma * (rows.double() @ columns) + coef).pow(degree).sum() for rows in x.split(ROWS_AT_ONCE)]
    return torch.stack(blocks).sum()


class KernelVideoDistance(Metric):
    """Kernel distance between real and generated videos; fed as `FrechetVideoDistance` is.

    MMD pairs every video with every other, so the features of all videos are kept, as float32: 1.6 MB for 1,000
    videos of 400 features. Processes are put together by joining their features.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    real: list[Tensor]
    generated: list[Tensor]

    def __init__(self, detector: VideoDetector, **torchmetrics_options: Any):
        super().__init__(**torchmetrics_options)
        self._unregistered = (checked_detector(detector),)  # an attribute of its own would make it a submodule
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("generated", [], dist_reduce_fx="cat")

    @property
    def detector(self) -> VideoDetector:
        """The network whose features are compared."""
        return self._unregistered[0]

    def update(self, videos: Tensor, real: bool) -> None:
        """Adds clips `B 3 F H W` in [-1, 1], or videos by their features `(B, D)`. Raises ValueError when the features
        are not finite `(B, D)`."""
        features = features_of(self.detector, videos)  # (B, D)
        (self.real if real else self.generated).append(features.float().to(self.device))

    def features(self, real: bool) -> Tensor:
        """`(N, D)` of this process; inside `sync_context()`, of all processes."""
        held = self.real if real else self.generated
        empty = torch.empty(0, self.detector.num_features, device=self.device)
        return dim_zero_cat([empty, held] if isinstance(held, Tensor) else [empty, *held])

    def sync(self, *args: Any, **kwargs: Any) -> None:
        for held in (self.real, self.generated):  # a process without videos takes part with no rows, but with D
            if isinstance(held, list) and not held:
                held.append(torch.empty(0, self.detector.num_features, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> Tensor:
        """Raises ValueError with fewer than 2 videos on either side."""
        return kernel_distance(self.features(True), self.features(False))
