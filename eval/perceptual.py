"""Perceptual distance between frames: LPIPS's construction (Zhang et al. 2018, arXiv 1801.03924, eq. 1).

Letters: N frames, C channels, H and W pixels, h and w cells of a feature map.
"""

import torch.nn.functional as F
from torch import Tensor

from evagen.eval.frame_distance import FrameDistance
from evagen.eval.offline_network import StageFeatures, load_offline_network
from evagen.kernels.frozen import Frozen
from evagen.kernels.weights import weights_fingerprint


class PerceptualDistance(FrameDistance):
    """LPIPS's construction, with unit weights in place of learned ones, on the offline ImageNet network.

    Feature maps of strides 2, 4, 8 and 16 are scaled to unit length over channels at every cell; the
    distance is the squared difference, summed over channels, averaged over cells, summed over stages.
    It is frozen, symmetric, 0 for equal frames, at most 16, and differentiable in both arguments.
    Its values are not those of LPIPS-VGG or LPIPS-Alex and are to be reported under `name`.

    Stage 4 (stride 16 too) would take a third of the time and tolerates a shift no better than stage 3.
    """

    name = "efficientnet-lite0-perceptual"
    stages = (0, 1, 2, 3)

    def __init__(self) -> None:
        super().__init__()
        network = load_offline_network()
        self.fingerprint = weights_fingerprint(network.state_dict())
        self.network = Frozen(StageFeatures(network, self.stages))

    def features(self, x: Tensor) -> list[Tensor]:
        """Frames `N 3 H W` in [-1, 1] → one map `N C h w` per stage, of unit length over C at every cell. Raises
        ValueError for another layout."""
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise ValueError(f"frames should be floating point N 3 H W in [-1, 1], not {x.dtype} {tuple(x.shape)}")
        with self.precision(x):
            return [F.normalize(stage.float(), dim=1) for stage in self.network(x.float())]  # [(N, C, h, w)]

    def distance_from_features(self, features_x: list[Tensor], features_y: list[Tensor]) -> Tensor:
        """The distance of `features(x)` and `features(y)`, maps `... C h w` that broadcast → `(...)`."""
        stages = [
            (x - y).square().sum(-3).mean((-2, -1))  # (..., C, h, w) → (..., h, w) → (...)
            for x, y in zip(features_x, features_y, strict=True)
        ]
        return sum(stages[1:], start=stages[0])  # (...)
