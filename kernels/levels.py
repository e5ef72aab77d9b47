"""Between the levels 0…255 that files hold and the range [-1, 1] that models work in.

Letters: C = 3 channels, F frames, H and W pixels.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Rounding = Literal["nearest", "nearest even", "truncate"]

# Whole levels come out of [-1, 1] up to 0.00002 of a level too low, and truncation must not take them one down.
LEVEL_TOLERANCE = 0.0001


FURTHEST = 2.0
"""Beyond [-1, 1] a resized or filtered picture may reach a little; values beyond this are of another range."""


def check_floats(video: Tensor) -> None:
    """Raises ValueError for a video of whole numbers."""
    if not video.is_floating_point():
        raise ValueError(f"videos are floating point in [-1, 1], not {video.dtype}: levels / 127.5 - 1 gives that")


def check_layout(video: Tensor, levels_too: bool = False) -> None:
    """Raises ValueError for other than floating point videos (B, 3, F, H, W), at least one, of at least one pixel.
    levels_too: uint8 is taken as well."""
    if video.ndim != 5 or video.shape[1] != 3 or not video.numel():
        raise ValueError(f"videos are floating point B 3 F H W in [-1, 1], at least one; got {_found(video)}")
    if not (levels_too and video.dtype == torch.uint8):
        check_floats(video)


def check_range(*videos: Tensor) -> None:
    """Raises ValueError for a video or picture, of any shape, whose values are not floating point in [-1, 1], or a
    little beyond. On a GPU this waits for it, once for all."""
    for video in videos:
        check_floats(video)
    ends = [torch.stack(video.detach().aminmax()) for video in videos if video.numel()]
    if not ends:
        return
    lows, highs = torch.stack(ends).unbind(1)
    low, high = torch.stack([lows.amin(), highs.amax()]).tolist()
    if not (low >= -FURTHEST and high <= FURTHEST):  # false for NaN too
        raise ValueError(
            f"videos have values in [-1, 1], got {low:.4g} to {high:.4g}: levels / 127.5 - 1 gives that of 0…255"
        )


def check_range_where_it_costs_nothing(video: Tensor) -> None:
    """`check_range` on a CPU; elsewhere, where it would wait, the type alone is looked at."""
    check_floats(video)
    if video.device.type == "cpu":
        check_range(video)


def levels_to_floats(levels: Tensor) -> Tensor:
    """Levels of any shape, uint8 or floating point → float32 in [-1, 1]."""
    return levels.float().div(127.5).sub_(1)


def floats_to_levels(video: Tensor, rounding: Rounding = "nearest even") -> Tensor:
    """Floats of any shape, clamped to [-1, 1] → uint8 levels. Whole levels keep their value whatever the rounding;
    `nearest`, which goes up halfway between two levels, and `nearest even` differ there only."""
    levels = video.detach().float().clamp(-1, 1).add_(1).mul_(127.5)  # in place: pages of new memory take longer
    if rounding == "nearest even":
        return levels.round_().to(torch.uint8)
    levels.add_(0.5 if rounding == "nearest" else LEVEL_TOLERANCE)
    return levels.clamp_(max=255).to(torch.uint8)  # a conversion cuts off


def frames_to_video(frames: np.ndarray) -> Tensor:
    """uint8 `F H W C` → float32 `C F H W` in [-1, 1]. Raises ValueError for other types and shapes."""
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames are a numpy array of uint8, F H W 3; got {_found(frames)}")
    if min(frames.strides) < 0:  # of a mirrored array, which torch does not know
        frames = frames.copy()
    return levels_to_floats(torch.from_numpy(frames).permute(3, 0, 1, 2).contiguous())


def video_to_frames(video: Tensor) -> np.ndarray:
    """Floating point `C F H W` in [-1, 1] (clamped) → uint8 `F H W C`; the inverse of `frames_to_video`. Raises
    ValueError for other types and shapes."""
    if not isinstance(video, Tensor) or not video.is_floating_point() or video.ndim != 4 or len(video) != 3:
        raise ValueError(f"a video is a floating point tensor 3 F H W in [-1, 1]; got {_found(video)}")
    return floats_to_levels(video).permute(1, 2, 3, 0).contiguous().cpu().numpy()


def _found(given: object) -> str:
    """What was given, in words."""
    dtype, shape = getattr(given, "dtype", None), getattr(given, "shape", None)
    return f"a {type(given).__name__}" if shape is None else f"a {type(given).__name__} of {dtype} {tuple(shape)}"
