"""Fréchet distance between Gaussians fitted to the features of two sets of videos (Heusel et al. 2017,
arXiv 1706.08500, eq. 6; for videos Unterthiner et al. 2018, arXiv 1812.01717).

Statistics are float64 and merge exactly, in any order, over batches and over processes.

Letters: N samples, B videos, F frames of a video, H and W pixels, D features, P parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torchmetrics import Metric


@dataclass(frozen=True)
class GaussianStatistics:
    """Count `()`, mean `(D,)` and scatter `(D, D)` (the sum of outer products of deviations from the
    mean) of samples, all float64. Unlike raw sums, they lose nothing when the mean is far from zero."""

    count: Tensor
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """`(D, D)`, normalised by the count (ddof 0)."""
        return self.scatter / self.count

    @classmethod
    def of(cls, features: Tensor) -> "GaussianStatistics":
        """Statistics of features `(N, D)` of any real type, N ≥ 1."""
        if features.ndim != 2 or len(features) == 0:
            raise ValueError(f"features should be (N, D) with N ≥ 1, not {tuple(features.shape)}")
        features = features.detach().double()
        deviations = features - features.mean(0)
        count = torch.tensor(float(len(features)), dtype=torch.float64, device=features.device)
        return cls(count, features.mean(0), deviations.T @ deviations)

    @classmethod
    def merged(cls, parts: Sequence["GaussianStatistics"]) -> "GaussianStatistics":
        """The statistics of all samples together (Chan, Golub, LeVeque 1979, eq. 2.1, for P parts)."""
        counts = torch.stack([part.count for part in parts])  # (P,)
        means = torch.stack([part.mean for part in parts])  # (P, D)
        count = counts.sum()
        mean = counts @ means / count.clamp(min=1)  # (D,); parts without samples have mean 0
        deviations = means - mean  # (P, D)
        between = deviations.T @ (counts[:, None] * deviations)  # (D, D)
        return cls(count, mean, torch.stack([part.scatter for part in parts]).sum(0) + between)

    @classmethod
    def unpacked(cls, packed: Tensor) -> "GaussianStatistics":
        """Inverse of `packed`."""
        return cls(packed[0, 0], packed[0, 1:], packed[1:, 1:])

    def packed(self) -> Tensor:
        """One symmetric `(D + 1, D + 1)` tensor: the count, beside and below it the mean, then the scatter."""
        top = torch.cat([self.count[None], self.mean])[None]  # (1, D + 1)
        return torch.cat([top, torch.cat([self.mean[:, None], self.scatter], dim=1)])


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """‖μ₁ − μ₂‖² + Tr Σ₁ + Tr Σ₂ − 2 Tr (Σ₁^½ Σ₂ Σ₁^½)^½ of means `(D,)` and covariances `(D, D)` → float64 `()`.

    The last trace is the sum of the singular values of Σ₂^½ Σ₁^½, which keeps full precision where the
    root of an eigenvalue of the product would keep half. Covariances of any rank are fine."""
    mean1, cov1, mean2, cov2 = (x.double() for x in (mean1, cov1, mean2, cov2))
    trace_of_root = torch.linalg.svdvals(_square_root(cov2) @ _square_root(cov1)).sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * trace_of_root
    return distance.clamp(min=0)  # a distance is not negative: below zero there is only rounding


def _square_root(covariance: Tensor) -> Tensor:
    eigenvalues, vectors = torch.linalg.eigh(covariance)  # ascending
    # Eigenvalues that a matrix of lower rank has by rounding alone would enter with their square root.
    rounding = len(eigenvalues) * torch.finfo(torch.float64).eps * eigenvalues[-1]
    roots = torch.where(eigenvalues > rounding, eigenvalues, 0).clamp(min=0).sqrt()
    return (vectors * roots) @ vectors.T


class VideoDetector(Protocol):
    """What a Fréchet distance needs: videos `B 3 F H W` in [-1, 1] → features `(B, num_features)`.

    A distance is comparable only with those of the same `name` and `fingerprint`, so both are reported
    beside it. Only the I3D network of the FVD papers may be named as giving FVD."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def num_features(self) -> int: ...

    def __call__(self, videos: Tensor) -> Tensor: ...


class FrechetVideoDistance(Metric):
    """Fréchet distance between real and generated (or reconstructed) videos in a detector's features.

        metric = FrechetVideoDistance(detector)
        metric.update(real_clips, real=True)        # B 3 F H W in [-1, 1], as often as needed
        metric.update(generated_clips, real=False)
        metric.compute()                            # float64 (), over all processes

    The detector stays its owner's: the metric neither moves it (put it on the clips' device) nor saves it.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    real: Tensor
    generated: Tensor

    def __init__(self, detector: VideoDetector, **torchmetrics_options: Any):
        super().__init__(**torchmetrics_options)
        self._unregistered = (detector,)  # an attribute of its own would make it a submodule
        empty = torch.zeros(detector.num_features + 1, detector.num_features + 1, dtype=torch.float64)
        self.add_state("real", empty, dist_reduce_fx=_merged_states)
        self.add_state("generated", empty.clone(), dist_reduce_fx=_merged_states)

    @property
    def detector(self) -> VideoDetector:
        return self._unregistered[0]

    def update(self, clips: Tensor, real: bool) -> None:
        """Adds clips `B 3 F H W` in [-1, 1]. Raises ValueError when the features are not finite `(B, D)`."""
        features = self.detector(clips)  # (B, D)
        if features.shape != (len(clips), self.detector.num_features) or not features.isfinite().all():
            raise ValueError(
                f"detector {self.detector.name} gave features {tuple(features.shape)} for {len(clips)} clips where "
                f"finite ({len(clips)}, {self.detector.num_features}) are expected; are the clips finite, in [-1, 1]?"
            )
        name = "real" if real else "generated"
        state = getattr(self, name)
        batch = GaussianStatistics.of(features.to(state.device)).packed()
        setattr(self, name, _merged_states(torch.stack([state, batch])))

    def compute(self) -> Tensor:
        """Raises ValueError with fewer than 2 videos on either side."""
        real, generated = GaussianStatistics.unpacked(self.real), GaussianStatistics.unpacked(self.generated)
        if min(real.count, generated.count) < 2:
            raise ValueError(
                f"a Fréchet distance needs at least 2 real and 2 generated videos, "
                f"got {int(real.count)} real and {int(generated.count)} generated"
            )
        return frechet_distance(real.mean, real.covariance, generated.mean, generated.covariance)


def _merged_states(states: Tensor) -> Tensor:
    """Packed statistics of several processes or batches `(P, D + 1, D + 1)` → of all together `(D + 1, D + 1)`."""
    return GaussianStatistics.merged([GaussianStatistics.unpacked(state) for state in states]).packed()
