"""Videos as users of `diffusers` give and take them.

Legend: B clips, F frames, C = 3 channels, H × W pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from diffusers.video_processor import VideoProcessor
from PIL.Image import Image
from torch import Tensor

from evagen.data.video_frames import VideoFrames
from evagen.errors import UserError
from evagen.kernels.levels import frames_to_video
from evagen.tokenizer.adaptive import Video

DecodedType = Literal["np", "pt", "pil"]
OutputType = Literal["np", "pt", "pil", "latent"]
Frames = np.ndarray | Tensor | list[list[Image]]
GivenVideo = str | Path | np.ndarray | Tensor | Sequence[Image]


def check_output_type(output_type: str, kinds: Any = OutputType) -> None:
    """Raises UserError for one that is not among these kinds."""
    if output_type not in get_args(kinds):
        raise UserError(f"output_type={output_type!r}: give one of {', '.join(get_args(kinds))}")


def as_output(video: Tensor, output_type: DecodedType) -> Frames:
    """Video (B, C, F, H, W) in [-1, 1] → `np` float32 (B, F, H, W, C), `pt` (B, F, C, H, W), both in [0, 1], or `pil`
    a list of pictures for each clip."""
    return VideoProcessor(do_resize=False).postprocess_video(video, output_type)


def as_video(given: GivenVideo) -> Video:
    """One video → float (C, F, H, W) in [-1, 1], or its frames one by one. given: a file; pictures; (F, H, W, C), uint8
    or in [0, 1]; or a tensor (F, C, H, W) in [0, 1]. Raises UserError for anything else."""
    if isinstance(given, str | Path):
        return VideoFrames(Path(given))
    if isinstance(given, Tensor):
        return _from_floats(given, (0, 2, 3, 1), "a tensor (F, 3, H, W)")
    if isinstance(given, Sequence) and given and all(isinstance(each, Image) for each in given):
        if len(sizes := {each.size for each in given}) > 1:
            raise UserError(f"the pictures of a video have one size, these have {len(sizes)}: {sorted(sizes)[:3]}")
        given = np.stack([np.asarray(each.convert("RGB")) for each in given])
    if not isinstance(given, np.ndarray):
        raise UserError(
            f"a {type(given).__name__} is no video: give a file's name, a list of pictures, an array (F, H, W, 3), or "
            "a tensor (F, 3, H, W)"
        )
    if given.dtype == np.uint8 and given.ndim == 4 and given.shape[-1] == 3:
        return frames_to_video(given)
    if given.dtype.kind not in "fiu":
        raise UserError(f"an array of {given.dtype} is no video: uint8 levels, or floats in [0, 1], are needed")
    return _from_floats(
        torch.from_numpy(np.ascontiguousarray(given).astype(np.float32)), (0, 1, 2, 3), "an array (F, H, W, 3)"
    )


def _from_floats(given: Tensor, order: tuple[int, ...], expected: str) -> Tensor:
    """A video in [0, 1], whose dimensions in this order are F H W C → (C, F, H, W) in [-1, 1]."""
    if given.ndim != 4 or given.shape[order[-1]] != 3:
        raise UserError(f"a video of shape {tuple(given.shape)}: {expected} in [0, 1] is needed")
    low, high = (bound.item() for bound in given.aminmax()) if given.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise UserError(f"a video with values from {low:.3g} to {high:.3g}: {expected} in [0, 1] is needed")
    return given.float().permute(*order).permute(3, 0, 1, 2) * 2 - 1  # (C, F, H, W)
