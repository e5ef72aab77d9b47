"""How a protocol makes square clips of decoded frames. Every filter, rounding and crop is that of the code whose scores
it is compared with; half a pixel more or less moves a Fréchet distance.

Letters: F frames, H and W pixels of the file, h and w after resizing, S of the clip, C = 3 channels.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Pillow computes with weights of 22 binary digits after the point, so that sums of 8-bit products fit 32 bits.
PILLOW_WEIGHT_BITS = 22
LANCZOS_REACH = 3


@dataclass(frozen=True)
class FramePreparation:
    """The short side is resized to `size`, the long side in proportion, then the centre `size` × `size` is cut out.

    filter: `bilinear` is torch's, antialiased, on floats, the result not rounded. `lanczos` is Pillow's, on 8 bits,
        the result rounded to them.
    long_side: in proportion it is seldom whole. `floor` is torchvision's `Resize`, `ceil` cd-fvd's.
    crop: where half of what is cut off is not whole, torchvision's `CenterCrop` takes the even number beside it
        (`round`), cd-fvd the one below (`floor`).
    """

    size: int
    filter: Literal["bilinear", "lanczos"] = "bilinear"
    long_side: Literal["floor", "ceil"] = "floor"
    crop: Literal["round", "floor"] = "round"

    def __call__(self, frames: Tensor | np.ndarray, num_frames: int | None = None) -> Tensor:
        """uint8 `F H W C` → float32 `C F S S` in [-1, 1]; with `num_frames`, filled up to so many frames by repeating
        the last one. Raises ValueError for other frames, none, or more than `num_frames`."""
        frames = torch.as_tensor(frames)
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.numel():
            raise ValueError(f"frames should be uint8 F H W 3, not {frames.dtype} {tuple(frames.shape)}")
        if num_frames is not None and len(frames) > num_frames:
            raise ValueError(f"the clip has {len(frames)} frames, the protocol scores {num_frames}")
        levels = frames.permute(0, 3, 1, 2).contiguous()  # (F, C, H, W)
        height, width = self.resized_shape(levels.shape[-2], levels.shape[-1])
        if self.filter == "lanczos":
            pixels = pillow_lanczos(levels, (height, width)).float() / 255  # (F, C, h, w)
        else:
            pixels = levels.float() / 255
            if (height, width) != levels.shape[-2:]:
                pixels = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)  # (F, C, h, w)
        top, left = (self._offset(side) for side in (height, width))
        pixels = pixels[..., top : top + self.size, left : left + self.size]  # (F, C, S, S)
        video = pixels.clamp(0, 1).permute(1, 0, 2, 3) * 2 - 1  # (C, F, S, S)
        missing = 0 if num_frames is None else num_frames - len(frames)
        return torch.cat([video, video[:, -1:].expand(-1, missing, -1, -1)], dim=1)  # (C, F, S, S)

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing, before the crop."""
        short, long = min(height, width), max(height, width)
        if self.long_side == "floor":
            new_long = int(self.size * long / short)
        else:  # cd-fvd's arithmetic: the scale first, which floating point may leave a little above the whole number
            new_long = math.ceil(long * (self.size / short))
        return (self.size, new_long) if height < width else (new_long, self.size)

    def _offset(self, side: int) -> int:
        rest = side - self.size
        return rest // 2 if self.crop == "floor" else round(rest / 2)  # Python rounds halves to the even number


def pillow_lanczos(levels: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 `… H W` → uint8 `… h w`, bit for bit what Pillow's `resize(…, LANCZOS)` gives: rows first, rounded to 8
    bits, then columns. (Pillow 13 takes columns first where that is less work; scores were published with older ones.)
    """
    height, width = size
    rows = _weighted(levels, levels.shape[-1], width)  # (…, H, w)
    return _weighted(rows.mT, levels.shape[-2], height).mT.contiguous()  # (…, h, w)


def _weighted(levels: Tensor, size: int, new_size: int) -> Tensor:
    """Resizes the last dimension."""
    if size == new_size:
        return levels
    weights = _lanczos_weights(size, new_size).to(levels.device)  # (size, new_size)
    sums = levels.double() @ weights  # whole numbers below 2^53: exact
    return ((sums + 2 ** (PILLOW_WEIGHT_BITS - 1)) / 2**PILLOW_WEIGHT_BITS).floor().clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _lanczos_weights(size: int, new_size: int) -> Tensor:
    """Float64 `(size, new_size)`, whole numbers: the share of each old pixel in each new one, times 2^22."""
    scale = size / new_size
    stretch = max(scale, 1.0)
    weights = torch.zeros(size, new_size, dtype=torch.float64)
    for new in range(new_size):
        centre = (new + 0.5) * scale
        first = max(0, int(centre - LANCZOS_REACH * stretch + 0.5))
        last = min(size, int(centre + LANCZOS_REACH * stretch + 0.5))
        shares = [_lanczos((old - centre + 0.5) / stretch) for old in range(first, last)]
        total = sum(shares)
        for old, share in zip(range(first, last), shares):
            exact = share / total * 2**PILLOW_WEIGHT_BITS
            weights[old, new] = int(exact + 0.5) if exact >= 0 else int(exact - 0.5)
    return weights


def _lanczos(x: float) -> float:
    if not -LANCZOS_REACH <= x < LANCZOS_REACH:
        return 0.0
    return 1.0 if x == 0 else math.sin(math.pi * x) * math.sin(math.pi * x / 3) * 3 / (math.pi * x) ** 2
