"""Discriminators of real and reconstructed clips: two trained whole, of convolutions and of a transformer, and one of
heads on a frozen VideoMAE.

Legend: B clips, C = 3 channels, F frames, H × W pixels, K windows of a clip, N tokens of a window or clip, D their
width, L layers looked at, E width of a head; T × Hp × Wp a grid of patches.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from transformers import VideoMAEModel

from evagen.kernels.frozen import Frozen
from evagen.kernels.levels import check_layout
from evagen.kernels.pretrained import as_network_input, height_width, load_pretrained

VIDEOMAE_B = "MCG-NJU/videomae-base"
"""Hub id of VideoMAE-B, which is the paper's; of which training the paper does not say, this one is ours."""

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

    def check_size(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError for clips of less than 4 frames or 8 pixels."""
        if frames < 4 or min(height, width) < 8:
            raise ValueError(
                f"the patch discriminator needs at least 4 frames of 8 × 8 pixels, not {frames} × {height} × {width}"
            )

    def forward(self, video: Tensor) -> Tensor:
        """video (B, C, F, H, W) in [-1, 1] → logits (B, F // 4, H // 8, W // 8), high where it looks real.
        Raises ValueError for clips of less than 4 frames or 8 pixels and for another layout."""
        check_layout(video)
        self.check_size(*video.shape[2:])
        x = video
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)  # (B, widths[i], F / 1 2 4 4, H / 2 4 8 8, W / 2 4 8 8)
        return self.to_logits(x).squeeze(1)  # (B, F // 4, H // 8, W // 8)


class TransformerDiscriminator(nn.Module):
    """A transformer over patches of a clip, of the shape of LARP's (arXiv 2410.21264; its published code), which EVATok
    names for stage 1 (§3.1).

    Patches of 4 frames × 8 × 8 pixels, embedded linearly; fixed sines and cosines of their places; a learned class
    token before them; pre-norm layers, whose queries, keys and values have no biases and whose MLPs are four times as
    wide; a last norm and a linear map to logits. No spectral norm. 38.2M parameters with the defaults, the sizes of the
    run that LARP published (its default config has 384, 8 and 12).

    Args:
        width: D, a multiple of 4 and of the heads.
        depth: layers.
        heads: of each layer's attention.
        logits: `patch`: one a patch, a PatchGAN as the paper's text has it. `clip`: one from the class token, as in
            LARP's code.

    Raises ValueError for a width that does not fit.
    """

    temporal_patch, spatial_patch = 4, 8

    def __init__(self, width: int = 512, depth: int = 12, heads: int = 8, logits: Literal["patch", "clip"] = "patch"):
        super().__init__()
        if width % heads or width % 4:
            raise ValueError(f"the width should be a multiple of 4 and of the {heads} heads, not {width}")
        self.logits = logits
        self.embed_patches = nn.Linear(3 * self.temporal_patch * self.spatial_patch**2, width)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.layers = nn.Sequential(*(Block(width, heads, norm_layer=nn.LayerNorm) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.to_logits = nn.Linear(width, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.class_token)

    def check_size(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError for clips that the patches do not divide."""
        if frames % self.temporal_patch or height % self.spatial_patch or width % self.spatial_patch:
            raise ValueError(
                f"the transformer discriminator needs frames in fours and height and width in multiples of "
                f"{self.spatial_patch} pixels, not {frames} × {height} × {width}"
            )

    def forward(self, video: Tensor) -> Tensor:
        """video (B, C, F, H, W) in [-1, 1] → logits (B, F / 4, H / 8, W / 8), or (B, 1), high where it looks real.
        Raises ValueError for clips that the patches do not divide and for another layout."""
        check_layout(video)
        self.check_size(*video.shape[2:])
        step, patch = self.temporal_patch, self.spatial_patch
        pixels = rearrange(video, "b c (t f) (y p) (x q) -> b t y x (c f p q)", f=step, p=patch, q=patch)
        x = self.embed_patches(pixels)  # (B, T, Hp, Wp, D)
        grid = x.shape[1:4]
        x = (x + _sines_on(grid, x.shape[-1], x.device).to(x.dtype)).flatten(1, 3)  # (B, N, D)
        x = torch.cat([self.class_token.expand(len(x), -1, -1).to(x), x], dim=1)  # (B, 1 + N, D)
        x = self.layers(x)  # (B, 1 + N, D)
        seen = x[:, 1:] if self.logits == "patch" else x[:, :1]  # (B, N or 1, D)
        logits = self.to_logits(self.norm(seen)).squeeze(-1)  # (B, N or 1)
        return logits.unflatten(1, grid) if self.logits == "patch" else logits


def sines_of_places(grid: Sequence[int], width: int) -> Tensor:
    """Fixed sines and cosines for the cells of a grid (T, Hp, Wp): (T, Hp, Wp, width), width a multiple of 4. Those of
    the block take the whole width; those of the row, in one half, and of the column, in the other, are added.
    Wavelengths as in arXiv 1706.03762, §3.5."""

    def sines(cells: int, width: int) -> Tensor:
        frequencies = 10_000 ** -(torch.arange(width // 2) * 2 / width)
        angles = torch.arange(cells)[:, None] * frequencies  # (cells, width / 2)
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # (cells, width)

    blocks, rows, columns = grid
    row, column = sines(rows, width // 2), sines(columns, width // 2)
    in_picture = torch.cat(
        [row[:, None].expand(-1, columns, -1), column[None].expand(rows, -1, -1)], dim=-1
    )  # (Hp, Wp, width)
    return sines(blocks, width)[:, None, None] + in_picture  # (T, Hp, Wp, width)


@functools.lru_cache(maxsize=16)
def _sines_on(grid: Sequence[int], width: int, device: torch.device) -> Tensor:
    return sines_of_places(grid, width).to(device)


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
        windows = frames[:, _windows_on(frames.shape[1], self.num_frames, video.device)]  # (B, K, f, C, h, w)
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


@functools.lru_cache(maxsize=16)
def _windows_on(num_frames: int, window: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # whoever asks first, a backward pass may need them later
        return window_frames(num_frames, window).to(device)


def load_videomae(source: str | Path = VIDEOMAE_B) -> VideoMAEModel:
    """VideoMAE from a hub id or a local folder. Raises FileNotFoundError and ValueError as `load_pretrained` does."""
    return load_pretrained(VideoMAEModel, source, VIDEOMAE_B)
