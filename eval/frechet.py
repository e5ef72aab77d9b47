"""Fréchet distance between Gaussians fitted to the features of two sets of videos (Heusel et al. 2017,
arXiv 1706.08500, eq. 6; for videos Unterthiner et al. 2018, arXiv 1812.01717).

Statistics are float64 and merge over batches and over processes, in any order but for the rounding of their sums.

Letters: N samples, B videos, F frames of a video, H and W pixels, D features, P parts.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torchmetrics import Metric


class FewSamplesWarning(UserWarning):
    """A set has no more samples than features, so that its covariance lacks full rank."""


@dataclass(frozen=True)
class GaussianStatistics:
    """Count `()`, mean `(D,)` and scatter `(D, D)` (the sum of outer products of deviations from the
    mean) of samples, all float64. Unlike raw sums, they lose nothing when the mean is far from zero."""

    count: Tensor
    mean: Tensor
    scatter: Tensor

    @property
    def num_features(self) -> int:
        """D."""
        return len(self.mean)

    def covariance(self, ddof: int = 0) -> Tensor:
        """`(D, D)`, the scatter over N - ddof: 0 is what nearly all FVD code uses, 1 is the unbiased estimate."""
        return self.scatter / (self.count - ddof)

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

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "GaussianStatistics":
        """Inverse of `as_tensors`. Raises ValueError for tensors of other names, types or shapes."""
        try:
            statistics = cls(tensors["count"], tensors["mean"], tensors["scatter"])
        except KeyError as error:
            raise ValueError(f"statistics are the tensors count, mean and scatter, not {sorted(tensors)}") from error
        width = statistics.mean.numel()
        shapes = [tuple(x.shape) for x in (statistics.count, statistics.mean, statistics.scatter)]
        types = {x.dtype for x in (statistics.count, statistics.mean, statistics.scatter)}
        if shapes != [(), (width,), (width, width)] or types != {torch.float64}:
            raise ValueError(f"statistics are float64 (), (D,) and (D, D), not {types} {shapes}")
        return statistics

    def as_tensors(self) -> dict[str, Tensor]:
        """`count`, `mean` and `scatter`, ready for `safetensors.torch.save_file`."""
        return {"count": self.count, "mean": self.mean.contiguous(), "scatter": self.scatter.contiguous()}

    def packed(self) -> Tensor:
        """One symmetric `(D + 1, D + 1)` tensor: the count, beside and below it the mean, then the scatter."""
        top = torch.cat([self.count[None], self.mean])[None]  # (1, D + 1)
        return torch.cat([top, torch.cat([self.mean[:, None], self.scatter], dim=1)])


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """‖μ₁ − μ₂‖² + Tr Σ₁ + Tr Σ₂ − 2 Tr (Σ₁^½ Σ₂ Σ₁^½)^½ of means `(D,)` and covariances `(D, D)` → float64 `()`.

    The last trace is the sum of the singular values of Σ₂^½ Σ₁^½, which keeps full precision where the
    root of an eigenvalue of the product would keep half. Covariances of any rank are fine. Equal Gaussians are
    at distance 0 by definition, and exactly 0 is returned for them instead of what rounding leaves of it."""
    mean1, cov1, mean2, cov2 = (x.double() for x in (mean1, cov1, mean2, cov2))
    if torch.equal(mean1, mean2) and torch.equal(cov1, cov2):
        return mean1.new_zeros(())
    trace_of_root = torch.linalg.svdvals(_square_root(cov2) @ _square_root(cov1)).sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * trace_of_root
    return distance.clamp(min=0)  # a distance is not negative: below zero there is only rounding


def frechet_distance_between(
    real: GaussianStatistics, generated: GaussianStatistics, ddof: int = 0, min_samples: int = 2
) -> Tensor:
    """Fréchet distance of the Gaussians fitted to two sets of samples → float64 `()`.

    Warns (`FewSamplesWarning`) where a set has no more samples than features. Raises ValueError for sets of other
    features, and with fewer than `min_samples` on either side; 2 is the least a covariance can be made of, and far from
    enough for a score."""
    if real.num_features != generated.num_features:
        raise ValueError(f"{real.num_features} and {generated.num_features} features do not compare: of one detector?")
    check_sample_counts(int(real.count), int(generated.count), real.num_features, min_samples)
    return frechet_distance(real.mean, real.covariance(ddof), generated.mean, generated.covariance(ddof))


def check_sample_counts(num_real: int, num_generated: int, num_features: int, min_samples: int = 2) -> None:
    """The errors and warnings of `frechet_distance_between`."""
    needed = max(min_samples, 2)
    figures = (
        f"{num_real} real and {num_generated} generated videos; the covariance of {num_features} features has full "
        f"rank from {num_features + 1} videos on, and published scores take 2,048 or more"
    )
    if min(num_real, num_generated) < needed:
        raise ValueError(
            f"a Fréchet distance needs at least {needed} real and {needed} generated videos, got {figures}"
        )
    if min(num_real, num_generated) <= num_features:
        warnings.warn(
            f"a Fréchet distance of few videos is too large, the more so the fewer there are, and compares only with "
            f"those of equal counts: {figures}",
            FewSamplesWarning,
            stacklevel=3,
        )


def _square_root(covariance: Tensor) -> Tensor:
    eigenvalues, vectors = torch.linalg.eigh(covariance)  # ascending
    # Eigenvalues that a matrix of lower rank has by rounding alone would enter with their square root.
    rounding = len(eigenvalues) * torch.finfo(torch.float64).eps * eigenvalues[-1]
    roots = torch.where(eigenvalues > rounding, eigenvalues, 0).clamp(min=0).sqrt()
    return (vectors * roots) @ vectors.T


class VideoDetector(Protocol):
    """What a distance needs: videos `B 3 F H W` in [-1, 1] → features `(B, num_features)`.

    A distance is comparable only with those of the same `name` and `fingerprint`, so both are reported
    beside it. Only the I3D network of the FVD papers may be named as giving FVD. One of your own is any module or other
    object that can be called and has these three attributes:

        class Colours(torch.nn.Module):
            name, fingerprint, num_features = "colours", "1", 6

            def forward(self, videos):  # B 3 F H W
                return torch.cat([videos.mean((2, 3, 4)), videos.std((2, 3, 4))], dim=1)  # (B, 6)
    """

    @property
    def name(self) -> str:
        """Of the network and of what is taken of it."""

    @property
    def fingerprint(self) -> str:
        """Changes with its weights."""

    @property
    def num_features(self) -> int:
        """D."""

    def __call__(self, videos: Tensor) -> Tensor: ...


def checked_detector(detector: VideoDetector) -> VideoDetector:
    """Raises ValueError for what lacks an attribute of a `VideoDetector`."""
    lacking = [name for name in ("name", "fingerprint", "num_features") if not hasattr(detector, name)]
    if lacking:
        raise ValueError(
            f"a detector has name, fingerprint and num_features (VideoDetector); a {type(detector).__name__} lacks "
            f"{', '.join(lacking)}"
        )
    return detector


class FrechetVideoDistance(Metric):
    """Fréchet distance between real and generated (or reconstructed) videos in a detector's features.

        metric = FrechetVideoDistance(detector)
        metric.update(real_clips, real=True)  # B 3 F H W in [-1, 1], as often as needed
        metric.update(generated_clips, real=False)
        metric.compute()  # float64 (), over all processes

    The detector stays its owner's: the metric neither moves it (put it on the clips' device) nor saves it.

    Args:
        detector: the network whose features are compared.
        ddof: 0 divides covariances by the number of videos, 1 by one less; the protocol says which.
        min_videos: `compute` refuses fewer on either side.

    Raises ValueError for what is no `VideoDetector`.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    real: Tensor
    generated: Tensor

    def __init__(
        self, detector: VideoDetector, ddof: int = 0, min_videos: int = 2, **torchmetrics_options: Any
    ) -> None:
        super().__init__(**torchmetrics_options)
        self._unregistered = (checked_detector(detector),)  # an attribute of its own would make it a submodule
        self.ddof, self.min_videos = ddof, min_videos
        empty = torch.zeros(detector.num_features + 1, detector.num_features + 1, dtype=torch.float64)
        self.add_state("real", empty, dist_reduce_fx=_merged_states)
        self.add_state("generated", empty.clone(), dist_reduce_fx=_merged_states)

    @property
    def detector(self) -> VideoDetector:
        """The network whose features are compared."""
        return self._unregistered[0]

    def update(self, videos: Tensor | GaussianStatistics, real: bool) -> None:
        """Adds clips `B 3 F H W` in [-1, 1], or videos by their features `(B, D)`, or all that statistics are of, say
        those of a cache; of several processes only one should add these, since the processes' videos are added up.
        Raises ValueError when the features are not finite `(B, D)`, and for statistics of another D."""
        if not isinstance(videos, GaussianStatistics):
            videos = GaussianStatistics.of(features_of(self.detector, videos))
        elif videos.num_features != self.detector.num_features:
            raise ValueError(
                f"statistics of {videos.num_features} features are not of detector {self.detector.name}, which has "
                f"{self.detector.num_features}"
            )
        name = "real" if real else "generated"
        state = getattr(self, name)
        setattr(self, name, _merged_states(torch.stack([state, videos.packed().to(state.device)])))

    def statistics(self, real: bool) -> GaussianStatistics:
        """Of the clips that this process was given; inside `sync_context()`, of those of all processes."""
        return GaussianStatistics.unpacked(self.real if real else self.generated)

    def compute(self) -> Tensor:
        """Warns and raises ValueError as `frechet_distance_between` does."""
        return frechet_distance_between(self.statistics(True), self.statistics(False), self.ddof, self.min_videos)


def features_of(detector: VideoDetector, videos: Tensor) -> Tensor:
    """Clips `B 3 F H W` in [-1, 1] → features `(B, D)`, which may also be given already. Raises ValueError when they
    are not finite `(B, D)`."""
    if not isinstance(videos, Tensor):
        raise ValueError(
            f"clips are a tensor B 3 F H W in [-1, 1], their features one of (B, D); got a {type(videos).__name__}"
        )
    features = videos if videos.ndim == 2 else detector(videos)  # (B, D)
    if features.shape != (len(videos), detector.num_features) or not features.isfinite().all():
        raise ValueError(
            f"detector {detector.name} gave features {tuple(features.shape)} for {len(videos)} clips where "
            f"finite ({len(videos)}, {detector.num_features}) are expected; are the clips finite, in [-1, 1]?"
        )
    return features.detach()


def _merged_states(states: Tensor) -> Tensor:
    """Packed statistics of several processes or batches `(P, D + 1, D + 1)` → of all together `(D + 1, D + 1)`."""
    return GaussianStatistics.merged([GaussianStatistics.unpacked(state) for state in states]).packed()
