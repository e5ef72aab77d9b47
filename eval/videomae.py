"""VideoMAE as a detector: features that depend more on motion and less on single frames than I3D's (Ge et al. 2024,
arXiv 2404.12391).

Letters: B videos, F frames of a video, H and W pixels, n tokens of a clip, D features.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import VideoMAEForVideoClassification, VideoMAEModel

from evagen.eval.network_input import as_floats, check_videos
from evagen.kernels.fp32 import in_fp32
from evagen.kernels.frozen import Frozen
from evagen.kernels.pretrained import as_network_input, height_width, load_pretrained
from evagen.kernels.weights import weights_fingerprint

VIDEOMAE = "MCG-NJU/videomae-base-finetuned-ssv2"


class VideoMAEDetector(nn.Module):
    """The mean over a clip's tokens; of a network finetuned for classes, after its last norm, which is what its
    classes are told from.

    Its distances are not those of cd-fvd, whose VideoMAE-v2-g (Something-Something v2, 1,408 features) transformers
    does not hold; they compare with those of the same `name` and `fingerprint` only.

    Args:
        source: hub id or local folder of a VideoMAE in `transformers` format.
        download: whether there may be one.

    Raises FileNotFoundError where there is none within reach, ValueError where it is another network."""

    def __init__(self, source: str | Path = VIDEOMAE, download: bool = True):
        super().__init__()
        network = load_pretrained(VideoMAEModel, source, VIDEOMAE, (VideoMAEForVideoClassification,), download)
        config = network.config
        if isinstance(network, VideoMAEForVideoClassification):
            features = _MeanToken(network.videomae, network.fc_norm or nn.Identity())
        else:
            assert isinstance(network, VideoMAEModel)
            features = _MeanToken(network, nn.Identity())
        self.fingerprint = weights_fingerprint(features.state_dict())
        self.features = Frozen(features)
        self.num_features: int = config.hidden_size
        self.min_frames: int = config.num_frames
        self.size = height_width(config.image_size)
        self.name = f"videomae-{config.num_hidden_layers}x{config.hidden_size}"

    def forward(self, videos: Tensor) -> Tensor:
        """videos `B 3 F H W`, floats in [-1, 1] or uint8, F what the network was trained on (16) → float32 features
        `(B, D)`. Raises ValueError for other shapes."""
        check_videos(videos, self.min_frames, "VideoMAE")
        if videos.shape[2] != self.min_frames:
            raise ValueError(f"VideoMAE takes clips of {self.min_frames} frames, not {videos.shape[2]}")
        frames = as_network_input(as_floats(videos), self.size)  # (B, F, 3, 224, 224)
        with torch.no_grad(), in_fp32(videos.device):
            return self.features(frames)  # (B, D)


class _MeanToken(nn.Module):
    """The mean over the tokens of a VideoMAE, normalised."""

    def __init__(self, network: VideoMAEModel, norm: nn.Module):
        super().__init__()
        self.network, self.norm = network, norm

    def forward(self, frames: Tensor) -> Tensor:
        """frames `B F 3 224 224` in ImageNet's mean and deviation → `(B, D)`."""
        tokens = self.network(frames).last_hidden_state  # (B, n, D)
        return self.norm(tokens.mean(1))  # (B, D)
