"""Video detectors: networks whose features a Fréchet distance is measured in (`eval.frechet.VideoDetector`).

Letters: B videos, F frames of a video, H and W pixels, C channels, h and w cells of a feature map, D features.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from eval.offline_network import FrozenFeatures, load_offline_network, weights_fingerprint


class ImageNetworkDetector(nn.Module):
    """Appearance and motion of a video as seen by the offline ImageNet network, frame by frame.

    Frames are resized to 128×128. Of the stride-16 feature maps (112 channels), the first half of the
    features is the mean over frames and cells; the second half the mean absolute difference between
    consecutive frames, taken cell by cell before any averaging, since a thing that moves leaves the
    average of a map nearly as it was. Reversing a video changes nothing.
    """

    name = "efficientnet-lite0-framewise"
    num_features = 224
    frame_size = 128
    stage = 4

    def __init__(self) -> None:
        super().__init__()
        network = load_offline_network()
        self.fingerprint = weights_fingerprint(network.state_dict())
        self.network = FrozenFeatures(network, (self.stage,))

    def forward(self, videos: Tensor) -> Tensor:
        """videos `B 3 F H W` in [-1, 1], F ≥ 2 → features `(B, 224)`. Raises ValueError for other shapes."""
        if videos.ndim != 5 or videos.shape[1] != 3 or videos.shape[2] < 2:
            raise ValueError(f"videos should be B 3 F H W with at least 2 frames, not {tuple(videos.shape)}")
        frames = rearrange(videos, "b c f h w -> (b f) c h w")  # (B·F, 3, H, W)
        if frames.shape[-2:] != (self.frame_size, self.frame_size):
            size = (self.frame_size, self.frame_size)
            frames = F.interpolate(frames, size, mode="bilinear", antialias=True)  # (B·F, 3, 128, 128)
        (maps,) = self.network(frames)  # (B·F, C, h, w)
        maps = rearrange(maps, "(b f) c h w -> b f c h w", b=videos.shape[0])  # (B, F, C, h, w)
        appearance = maps.mean((1, 3, 4))  # (B, C)
        motion = maps.diff(dim=1).abs().mean((1, 3, 4))  # (B, C)
        return torch.cat([appearance, motion], dim=1)  # (B, D)
