"""LPIPS with VGG16 (Zhang et al. 2018, arXiv 1801.03924, eq. 1; version 0.1 of its weights).

Letters: N frames, C channels, H and W pixels, h and w cells of a feature map.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torchmetrics.functional.image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from evagen.eval.frame_distance import FrameDistance
from evagen.eval.weight_files import WeightFile
from evagen.kernels.fp32 import in_fp32
from evagen.kernels.frozen import Frozen
from evagen.kernels.pretrained import UNTRAINED
from evagen.kernels.weights import weights_fingerprint

VGG16_FILE = WeightFile(
    name="vgg16-397923af.pth",
    variable="EVAGEN_VGG16",
    sha256="397923af",  # of torchvision, which promises no more of it than its file names hold
    megabytes=528,
    mirrors=(models.VGG16_Weights.IMAGENET1K_V1.url,),
    other_form="the same weights as .safetensors",
)

STAGE_ENDS = (4, 9, 16, 23, 30)
"""Layers of torchvision's VGG16 up to relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3."""

PIXELS_PER_PASS = 2**20
"""Of frames that are compared together where no gradient is asked for, 64 of 128 × 128: each takes 16 MB of maps."""


class LPIPSDistance(FrameDistance):
    """LPIPS-VGG16: what papers call LPIPS where they train with it. The interface is `PerceptualDistance`'s.

    Feature maps of five stages are scaled to unit length over channels at every cell; the distance is the
    squared difference, weighted by the learned heads and summed over channels, averaged over cells, summed over
    stages. It is frozen, symmetric, 0 for equal frames, and differentiable in both arguments. It has no parameters
    and an empty state dict. The heads' weights are those that torchmetrics carries.

    Args:
        vgg16: file of torchvision's VGG16 weights, .pth or .safetensors; if None, the one that the environment
            variable EVAGEN_VGG16 names, or else the cached file, or else torchvision's download (528 MB), kept in
            torch's hub folder.

    Raises FileNotFoundError where the weights are not within reach, ValueError where they are not VGG16's.
    """

    name = "lpips-vgg16"

    shift: Tensor
    scale: Tensor

    def __init__(self, vgg16: str | Path | None = None) -> None:
        super().__init__()
        weights, heads = _vgg16_weights(vgg16), _head_weights()
        self.fingerprint = weights_fingerprint({**weights, **heads})
        with torch.device("meta"):  # the weights come from the file: none are drawn
            layers = models.vgg16(weights=None).features[: STAGE_ENDS[-1]]
        layers.load_state_dict(weights, assign=True)
        starts = (0, *STAGE_ENDS[:-1])
        self.stages = nn.ModuleList(Frozen(layers[start:end]) for start, end in zip(starts, STAGE_ENDS))
        self.heads = nn.ModuleList(Frozen(_Head(weight)) for weight in heads.values())
        for name, values in (("shift", (-0.030, -0.088, -0.188)), ("scale", (0.458, 0.448, 0.450))):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y `N 3 H W` in [-1, 1] → distances `(N,)`. Raises ValueError for unlike shapes."""
        learns = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
        if learns or x.shape != y.shape or not x.numel():
            return super().forward(x, y)
        together = max(1, PIXELS_PER_PASS * len(x) * 3 // x.numel())
        return torch.cat(
            [super(LPIPSDistance, self).forward(*some) for some in zip(x.split(together), y.split(together))]
        )

    def features(self, x: Tensor) -> list[Tensor]:
        """Frames `N 3 H W` in [-1, 1] → one map `N C h w` per stage, of unit length over C at every cell. Raises
        ValueError for another layout and for less than 16 pixels of height or width."""
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point() or min(x.shape[2:]) < 16:
            raise ValueError(
                "frames should be floating point N 3 H W in [-1, 1], H and W at least 16, "
                f"not {x.dtype} {tuple(x.shape)}"
            )
        x = (x.float() - self.shift) / self.scale  # (N, 3, H, W)
        maps = []
        with self.precision(x):
            for stage in self.stages:
                x = stage(x)  # (N, C, h, w)
                exact = x.float()
                maps.append(exact / (exact.square().sum(1, keepdim=True) + 1e-8).sqrt())  # (N, C, h, w)
        return maps

    def distance_from_features(self, features_x: list[Tensor], features_y: list[Tensor]) -> Tensor:
        """The distance of `features(x)` and `features(y)`, maps `... C h w` that broadcast → `(...)`."""
        stages = [
            head((x - y).square()).mean((-2, -1))  # (..., C, h, w) → (..., h, w) → (...)
            for head, x, y in zip(self.heads, features_x, features_y, strict=True)
        ]
        return sum(stages[1:], start=stages[0])  # (...)


class _Head(nn.Module):
    """A learned weight for each channel."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight.flatten())

    def forward(self, x: Tensor) -> Tensor:
        with in_fp32(x.device):
            return torch.einsum("...chw,c->...hw", x, self.weight)  # (..., C, h, w) → (..., h, w)


def _head_weights() -> dict[str, Tensor]:
    """Weights (1, C, 1, 1) of the five heads, in order."""
    path = Path(torchmetrics.functional.image.__file__).parent / "lpips_models" / "vgg.pth"
    weights = torch.load(path, map_location="cpu", weights_only=True)
    return {name: weights[name] for name in (f"lin{stage}.model.1.weight" for stage in range(len(STAGE_ENDS)))}


def _vgg16_weights(path: str | Path | None) -> dict[str, Tensor]:
    """Weights of the layers that LPIPS uses, named as in `vgg16().features`."""
    if str(path) == UNTRAINED:
        weights = {
            f"features.{name}": value for name, value in models.vgg16(weights=None).features.state_dict().items()
        }
        return _of_used_layers(weights, Path(UNTRAINED))
    found = VGG16_FILE.find(path)
    try:
        if found.suffix == ".safetensors":
            weights = load_file(found)
        else:
            weights = torch.load(found, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise half a dozen kinds on damaged files
        raise ValueError(f"{found} cannot be read as .pth or .safetensors weights: {error}") from error
    return _of_used_layers(weights, found)


def _of_used_layers(weights: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    with torch.device("meta"):
        wanted = models.vgg16(weights=None).features[: STAGE_ENDS[-1]].state_dict()
    unlike = [
        f"features.{name}"
        for name, value in wanted.items()
        if f"features.{name}" not in weights or weights[f"features.{name}"].shape != value.shape
    ]
    if unlike:
        raise ValueError(
            f"the weights in {source} are not those of torchvision's VGG16: {len(unlike)} of {len(wanted)} are "
            f"missing or of another shape, {', '.join(unlike[:3])} among them"
        )
    return {name: weights[f"features.{name}"].float() for name in wanted}
