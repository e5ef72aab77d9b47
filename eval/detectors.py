"""Video detectors: networks whose features a Fréchet distance is measured in (`eval.frechet.VideoDetector`).

Letters: B videos, F frames of a video, H and W pixels, C channels, h and w cells of a feature map, D features.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from evagen.eval.i3d import I3DDetector
from evagen.eval.network_input import PreparedDetector, as_floats, check_videos
from evagen.eval.offline_network import StageFeatures, load_offline_network
from evagen.eval.protocol import Protocol
from evagen.kernels.fp32 import in_fp32
from evagen.kernels.frozen import Frozen
from evagen.kernels.weights import weights_fingerprint


class ImageNetworkDetector(nn.Module):
    """Appearance and motion of a video as seen by the offline ImageNet network, frame by frame.

    Frames are resized to 128×128. Of the stride-16 feature maps (112 channels), the first half of the
    features is the mean over frames and cells; the second half the mean absolute difference between
    consecutive frames, taken cell by cell before any averaging, since a thing that moves leaves the
    average of a map nearly as it was. Reversing a video changes nothing.
    """

    name = "efficientnet-lite0-framewise"
    num_features = 224
    min_frames = 2
    frame_size = 128
    stage = 4

    def __init__(self) -> None:
        super().__init__()
        network = load_offline_network()
        self.fingerprint = weights_fingerprint(network.state_dict())
        self.network = Frozen(StageFeatures(network, (self.stage,)))

    def forward(self, videos: Tensor) -> Tensor:
        """videos `B 3 F H W`, floats in [-1, 1] or uint8, F ≥ 2 → features `(B, 224)`. Raises ValueError for other
        shapes."""
        check_videos(videos, self.min_frames, "the motion half of the features")
        frames = rearrange(as_floats(videos), "b c f h w -> (b f) c h w")  # (B·F, 3, H, W)
        if frames.shape[-2:] != (self.frame_size, self.frame_size):
            size = (self.frame_size, self.frame_size)
            frames = F.interpolate(frames, size, mode="bilinear", antialias=True)  # (B·F, 3, 128, 128)
        with in_fp32(frames.device):  # half precision is another network
            (maps,) = self.network(frames)  # (B·F, C, h, w)
        maps = rearrange(maps, "(b f) c h w -> b f c h w", b=videos.shape[0])  # (B, F, C, h, w)
        appearance = maps.mean((1, 3, 4))  # (B, C)
        motion = maps.diff(dim=1).abs().mean((1, 3, 4))  # (B, C)
        return torch.cat([appearance, motion], dim=1)  # (B, D)


def load_detector(
    protocol: Protocol, weights: str | Path | None = None, sha256: str | None = None, download: bool = True
) -> PreparedDetector:
    """The protocol's network behind the protocol's preprocessing; the other arguments are `I3DDetector`'s.

    Another network under the same protocol is `PreparedDetector(network, protocol.network_input)`, and its distance
    is reported under its own name."""
    return PreparedDetector(I3DDetector(weights, sha256, download), protocol.network_input)
