"""VideoMAE as a detector: features that depend more on motion and less on single frames than I3D's (Ge et al. 2024,
arXiv 2404.12391).

Letters: B videos, F frames of a video, H and W pixels, n tokens of a clip, D features.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, VideoMAEForVideoClassification, VideoMAEModel

from evagen.eval.network_input import as_floats, check_videos, resized
from evagen.eval.offline_network import weights_fingerprint

VIDEOMAE = "MCG-NJU/videomae-base-finetuned-ssv2"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class VideoMAEDetector(nn.Module):
    """The mean over a clip's tokens; of a network finetuned for classes, after its last norm, which is what its
    classes are told from.

    Its distances are not those of cd-fvd, whose VideoMAE-v2-g (Something-Something v2, 1,408 features) transformers
    does not hold; they compare with those of the same `name` and `fingerprint` only.

    Args:
        source: hub id or local folder of a VideoMAE in `transformers` format.

    Raises FileNotFoundError where there is none within reach, ValueError where it is another network."""

    def __init__(self, source: str | Path = VIDEOMAE):
        super().__init__()
        network = _loaded(source)
        config = network.config
        self.network = network.videomae if isinstance(network, VideoMAEForVideoClassification) else network
        norm = network.fc_norm if isinstance(network, VideoMAEForVideoClassification) else None
        self.norm = nn.Identity() if norm is None else norm
        self.requires_grad_(False).eval()
        self.fingerprint = weights_fingerprint(self.state_dict())
        self.num_features: int = config.hidden_size
        self.min_frames: int = config.num_frames
        self.image_size: int = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
        self.name = f"videomae-{config.num_hidden_layers}x{config.hidden_size}"

    def forward(self, videos: Tensor) -> Tensor:
        """videos `B 3 F H W`, floats in [-1, 1] or uint8, F what the network was trained on (16) → float32 features
        `(B, D)`. Raises ValueError for other shapes."""
        check_videos(videos, self.min_frames, "VideoMAE")
        if videos.shape[2] != self.min_frames:
            raise ValueError(f"VideoMAE takes clips of {self.min_frames} frames, not {videos.shape[2]}")
        videos = resized(as_floats(videos).float(), self.image_size, antialias=True)  # (B, 3, F, 224, 224)
        mean, deviation = (
            videos.new_tensor(values)[:, None, None, None] for values in (IMAGENET_MEAN, IMAGENET_DEVIATION)
        )
        pixels = ((videos + 1) / 2 - mean) / deviation  # (B, 3, F, 224, 224)
        with torch.no_grad(), torch.autocast(videos.device.type, enabled=False):
            tokens = self.network(pixels.transpose(1, 2)).last_hidden_state  # (B, F, 3, 224, 224) → (B, n, D)
            return self.norm(tokens.mean(1))  # (B, D)


def _loaded(source: str | Path) -> VideoMAEModel | VideoMAEForVideoClassification:
    try:
        config = AutoConfig.from_pretrained(str(source))
        finetuned = "VideoMAEForVideoClassification" in (config.architectures or [])
        kind = VideoMAEForVideoClassification if finetuned else VideoMAEModel
        if config.model_type != "videomae":
            raise ValueError(f"a VideoMAE is needed, the network at {source} is of type {config.model_type}")
        loaded: Any = kind.from_pretrained(str(source), dtype=torch.float32, output_loading_info=True)
    except OSError as error:
        raise FileNotFoundError(
            f"no VideoMAE at {source}: neither a local folder with config.json and model.safetensors nor a hub id "
            f"within reach. Without network access, fetch these two files of https://huggingface.co/{VIDEOMAE} on "
            f"another machine, put both into one folder, and give the folder's path in place of {source}"
        ) from error
    except (SafetensorError, RuntimeError) as error:  # a damaged file; weights of other shapes
        raise ValueError(f"the weights at {source} are not those of a VideoMAE: {error}") from error
    network, report = loaded
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(f"{len(missing)} weights of VideoMAE are missing at {source}, {missing[:3]} among them")
    return network
