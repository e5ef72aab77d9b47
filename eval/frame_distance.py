"""Distances between frames that are measured in a network's feature maps.

Letters: N frames, B videos, C channels, F frames of a video, H and W pixels, h and w cells of a feature map.
"""

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext

import torch
from einops import rearrange
from torch import Tensor, nn

from evagen.kernels.fp32 import in_fp32
from evagen.kernels.levels import check_layout


class FrameDistance(nn.Module):
    """Frozen, symmetric, 0 for equal frames, and differentiable in both arguments. `name` and `fingerprint` say which
    network it is; distances of others do not compare. Computed in fp32 whatever the precision around it, as scores
    must be; where `is_exact` is set to False, for a loss, the network's layers follow autocast and
    torch's settings (TF32 in convolutions) and all else is fp32."""

    name: str
    fingerprint: str
    is_exact = True

    def precision(self, x: Tensor) -> AbstractContextManager:
        """What the network is to be called in."""
        return in_fp32(x.device) if self.is_exact else nullcontext()

    @abstractmethod
    def features(self, x: Tensor) -> list[Tensor]:
        """Frames `N 3 H W` in [-1, 1] → one map `N C h w` per stage, of unit length over C at every cell.

        Kept for a reference that is compared many times. Raises ValueError for another layout."""

    @abstractmethod
    def distance_from_features(self, features_x: list[Tensor], features_y: list[Tensor]) -> Tensor:
        """The distance of `features(x)` and `features(y)`, maps `... C h w` → `(...)`.

        Leading dimensions broadcast: `A N C h w` against `N C h w` gives `(A, N)`."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y `N 3 H W` in [-1, 1] → distances `(N,)`. Raises ValueError for unlike shapes."""
        if x.shape != y.shape:
            raise ValueError(f"frames of unlike shapes: {tuple(x.shape)} and {tuple(y.shape)}; give N 3 H W twice")
        return self.distance_from_features(self.features(x), self._features_of_second(y))  # (N,)

    def _features_of_second(self, y: Tensor) -> list[Tensor]:
        return self.features(y)

    def video_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Videos `B 3 F H W` in [-1, 1] → the distance of every frame, `(B, F)`. Raises ValueError for others."""
        check_layout(x)
        frames_x, frames_y = (rearrange(video, "b c f h w -> (b f) c h w") for video in (x, y))
        return rearrange(self(frames_x, frames_y), "(b f) -> b f", b=x.shape[0])


class RememberedReference(FrameDistance):
    """A distance that is given the same frames as its second argument several times in a row: it computes their
    features once. Not for training, since a gradient would go through these features once."""

    def __init__(self, distance: FrameDistance):
        super().__init__()
        self.name, self.fingerprint, self.is_exact = distance.name, distance.fingerprint, distance.is_exact
        self.distance = distance
        self._second: tuple[Tensor, list[Tensor]] | None = None

    def features(self, x: Tensor) -> list[Tensor]:
        """As those of the distance."""
        return self.distance.features(x)

    def distance_from_features(self, features_x: list[Tensor], features_y: list[Tensor]) -> Tensor:
        """As that of the distance."""
        return self.distance.distance_from_features(features_x, features_y)

    def _features_of_second(self, y: Tensor) -> list[Tensor]:
        if self._second is None or not torch.equal(self._second[0], y):
            self._second = y, self.features(y)
        return self._second[1]
