"""Alignment of the decoder with a video model's features (EVATok §3; V-JEPA 2, arXiv 2506.09985).

Legend: B clips, C = 3 channels, F frames, H × W pixels; T × Hp × Wp the decoder's grid of 3D queries and Dd its
width; Tt × Ht × Wt the teacher's grid and Dt its width.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import VJEPA2Model

from evagen.kernels.frozen import Frozen
from evagen.kernels.pretrained import as_network_input, height_width, load_pretrained

VJEPA2_L = "facebook/vjepa2-vitl-fpc64-256"
"""Hub id of the network that the paper uses."""


class VideoTeacher(nn.Module):
    """Features of a frozen V-JEPA 2 encoder (its L in EVATok).

    Frames are resized to the network's own height and width: its rotary positions hold for that grid alone. Their
    number is free. `width` is Dt. It has no parameters and an empty state dict.
    """

    def __init__(self, network: VJEPA2Model):
        super().__init__()
        self.network = Frozen(network)
        config = network.config
        self.width, self.tubelet = config.hidden_size, config.tubelet_size
        self.size, self.patch = height_width(config.crop_size), height_width(config.patch_size)

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        """video (B, C, F, H, W) in [-1, 1] → features (B, Tt, Ht, Wt, Dt).
        Raises ValueError for frames that the network's tubelets do not divide, and for another layout."""
        frames = as_network_input(video, self.size)  # (B, F, C, h, w)
        if frames.shape[1] % self.tubelet:
            raise ValueError(f"the number of frames must be a multiple of {self.tubelet}, got {frames.shape[1]}")
        tokens = self.network(frames, skip_predictor=True).last_hidden_state  # (B, Tt·Ht·Wt, Dt)
        height, width = (side // patch for side, patch in zip(self.size, self.patch))
        return rearrange(tokens, "b (t y x) d -> b t y x d", y=height, x=width)  # (B, Tt, Ht, Wt, Dt)


class AlignmentLoss(nn.Module):
    """1 - cosine of the projected decoder feature and the teacher's feature, patch by patch (λ = 0.7 in the paper).

    The projection, a linear map from Dd to Dt, is trained with the tokenizer and left behind afterwards.

    Args:
        decoder_width: Dd.
        target_width: Dt, `VideoTeacher.width`.
    """

    def __init__(self, decoder_width: int, target_width: int):
        super().__init__()
        self.projection = nn.Linear(decoder_width, target_width)

    def forward(self, decoder_features: Tensor, teacher_features: Tensor) -> Tensor:
        """decoder_features (B, T, Hp, Wp, Dd), teacher_features (B, Tt, Ht, Wt, Dt) → scalar in [0, 2].
        Raises ValueError for another layout. The teacher's grid is brought to the decoder's."""
        if decoder_features.ndim != 5 or teacher_features.ndim != 5 or len(decoder_features) != len(teacher_features):
            raise ValueError(
                "features should be B T H W D of the same clips, not "
                f"{tuple(decoder_features.shape)} and {tuple(teacher_features.shape)}"
            )
        grid = decoder_features.shape[1:4]
        target = resize_grid(teacher_features.detach(), (grid[0], grid[1], grid[2]))  # (B, T, Hp, Wp, Dt)
        projected = self.projection(decoder_features)  # (B, T, Hp, Wp, Dt)
        return (1 - F.cosine_similarity(projected.float(), target.float(), dim=-1)).mean()  # ()


def resize_grid(features: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """features (B, Tt, Ht, Wt, D) → (B, *grid, D): averaged along the axes that shrink, where interpolation would
    skip cells, and interpolated along those that grow."""
    if features.shape[1:4] == grid:
        return features
    cells = features.movedim(-1, 1)  # (B, D, Tt, Ht, Wt)
    shrunk = [min(have, want) for have, want in zip(cells.shape[2:], grid)]
    cells = F.adaptive_avg_pool3d(cells, shrunk)  # (B, D, ≤ Tt, ≤ Ht, ≤ Wt)
    cells = F.interpolate(cells, grid, mode="trilinear", align_corners=False)  # (B, D, *grid)
    return cells.movedim(1, -1)  # (B, *grid, D)


def load_vjepa2(source: str | Path = VJEPA2_L) -> VJEPA2Model:
    """V-JEPA 2 from a hub id or a local folder. Raises FileNotFoundError and ValueError as `load_pretrained` does."""
    return load_pretrained(VJEPA2Model, source, VJEPA2_L)
