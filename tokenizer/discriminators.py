"""Discriminators of real and reconstructed clips: one trained whole, one of heads on a frozen VideoMAE.

Legend: B clips, C = 3 channels, F frames, H × W pixels, K windows of a clip, N tokens of a window, D their
width, L layers looked at, E width of a head.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from transformers import VideoMAEModel

from evagen.kernels.frozen import Frozen
from evagen.kernels.pretrained import as_network_input, height_width, load_pretrained

VIDEOMAE_B = "MCG-NJU/videomae-base"
"""Hub id of the network that the paper uses."""

SLOPE = 0.2
"""Of the leaky ReLUs below zero, as in pix2pix."""


class PatchDiscriminator3D(nn.Module):
    """PatchGAN (pix2pix, arXiv 1611.07004, §3.2.2) over space and time: one logit per 4 frames × 8 × 8 pixels.

    Each logit sees 28 frames × 54 × 54 pixels around its place and nothing else. Spectral norm (arXiv 1802.05957)
    instead of activation norms keeps it so and keeps the gradient bounded when the discriminator joins late; the
    layer of the logits is free, so that they can take any size.

    Args:
        widths: channels of the four layers, of strides (1, 2, 2), (2, 2, 2), (2, 2, 2) and 1 in (F, H, W).
    """

    def __init__(self, widths: tuple[int, int, int, int] = (64, 128, 256, 512)):
        super().__init__()
        first, second, third, fourth = widths
        self.layers = nn.ModuleList(
            [
                spectral_norm(nn.Conv3d(3, first, (3, 4, 4), stride=(1, 2, 2), padding=1)),
                spectral_norm(nn.Conv3d(first, second, 4, stride=2, padding=1)),
                spectral_norm(nn.Conv3d(second, third, 4, stride=2, padding=1)),
                spectral_norm(nn.Conv3d(third, fourth, 3, padding=1)),
            ]
        )
        self.to_logits = nn.Conv3d(fourth, 1, 3, padding=1)

    def forward(self, video: Tensor) -> Tensor:
        """video (B, C, F, H, W) in [-1, 1] → logits (B, F // 4, H // 8, W // 8), high where it looks real.
        Raises ValueError for clips of less than 4 frames or 8 pixels and for another layout."""
        if video.ndim != 5 or video.shape[1] != 3 or video.shape[2] < 4 or min(video.shape[3:]) < 8:
            raise ValueError(f"videos should be B 3 F H W with F ≥ 4, H and W ≥ 8, not {tuple(video.shape)}")
        x = video
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)  # (B, widths[i], F / 1 2 4 4, H / 2 4 8 8, W / 2 4 8 8)
        return self.to_logits(x).squeeze(1)  # (B, F // 4, H // 8, W // 8)


class TokenHead(nn.Module):
    """1D convolutions over a sequence of tokens to one logit each (StyleGAN-T, arXiv 2301.09515, §3.2)."""

    def __init__(self, token_width: int, width: int, kernel: int):
        super().__init__()
        self.norm = nn.LayerNorm(token_width, elementwise_affine=False)  # layers differ in scale by far
        self.embed = spectral_norm(nn.Conv1d(token_width, width, 1))
        self.mix = spectral_norm(nn.Conv1d(width, width, kernel, padding=kernel // 2))
        self.to_logits = nn.Conv1d(width, 1, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, N, D) → logits (B, N)."""
        x = self.norm(tokens).transpose(1, 2)  # (B, D, N)
        x = F.leaky_relu(self.embed(x), SLOPE)  # (B, E, N)
        x = x + F.leaky_relu(self.mix(x), SLOPE)  # (B, E, N)
        return self.to_logits(x).squeeze(1)  # (B, N)


class VideoMAEDiscriminator(nn.Module):
    """Trainable heads on several layers of a frozen VideoMAE (EVATok §3; VideoMAE-B there).

    Frames are resized to what the network was trained on. Clips with more frames than it takes are seen in
    windows that together hold every frame; of shorter ones frames are repeated. Parameters and state dict are
    those of the heads.

    Args:
        backbone: as `load_videomae` returns it. It is frozen in place.
        layers: after how many of its layers the heads look, 1 … its depth.
        head_width: channels of a head.
        kernel: tokens that a head's convolution spans, odd.

    Raises ValueError for layers that the network does not have and for an even kernel.
    """

    def __init__(
        self, backbone: VideoMAEModel, layers: Sequence[int] = (3, 6, 9, 12), head_width: int = 64, kernel: int = 9
    ):
        super().__init__()
        config = backbone.config
        if not layers or not all(1 <= layer <= config.num_hidden_layers for layer in layers):
            raise ValueError(f"layers should be numbers from 1 to {config.num_hidden_layers}, not {list(layers)}")
        if kernel % 2 == 0:
            raise ValueError(f"the kernel should be odd, not {kernel}")
        self.backbone = Frozen(backbone)
        self.layers = tuple(layers)
        self.size, self.num_frames = height_width(config.image_size), config.num_frames
        self.heads = nn.ModuleList(TokenHead(config.hidden_size, head_width, kernel) for _ in layers)

    def forward(self, video: Tensor) -> Tensor:
        """video (B, C, F, H, W) in [-1, 1] → logits (B, L·K·N), high where it looks real.
        Raises ValueError for another layout."""
        frames = as_network_input(video, self.size)  # (B, F, C, h, w)
        windows = frames[:, window_frames(frames.shape[1], self.num_frames).to(video.device)]  # (B, K, f, C, h, w)
        hidden = self.backbone(windows.flatten(0, 1), output_hidden_states=True).hidden_states  # [(B·K, N, D)]
        logits = [head(hidden[layer]) for layer, head in zip(self.layers, self.heads)]  # [(B·K, N)]
        return rearrange(torch.stack(logits), "l (b k) n -> b (l k n)", b=len(video))  # (B, L·K·N)


def window_frames(num_frames: int, window: int) -> Tensor:
    """Frame numbers int64 (K, window) of the fewest evenly spread windows that hold all frames; where there are
    fewer frames than a window has, one window that repeats them."""
    if num_frames <= window:
        return (torch.arange(window) * num_frames // window)[None]
    starts = torch.linspace(0, num_frames - window, -(-num_frames // window)).round().long()  # (K,)
    return starts[:, None] + torch.arange(window)


def load_videomae(source: str | Path = VIDEOMAE_B) -> VideoMAEModel:
    """VideoMAE from a hub id or a local folder. Raises FileNotFoundError and ValueError as `load_pretrained` does."""
    return load_pretrained(VideoMAEModel, source, VIDEOMAE_B)
