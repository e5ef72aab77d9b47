"""Clips as sprite strips: all frames side by side in one lossless picture, carried in a data URI.

Letters: F frames, H height, W width.
"""

import base64
import io

import numpy as np
from PIL import Image

# The longest side a WebP file can have; longer strips become PNG.
WEBP_MAX_SIDE = 16383


def check_frames(frames: np.ndarray, what: str) -> None:
    """Raises ValueError unless `frames` is `uint8 F H W 3` with at least one frame."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"{what} should be uint8 of shape F H W 3, not {frames.dtype} of shape {frames.shape}")


def sprite_strip(frames: np.ndarray) -> str:
    """The frames of a clip from left to right in one lossless picture.

    frames: uint8 `F H W 3`, 0 to 255. Returns a data URI (WebP where the strip fits, else PNG) whose
    picture has H rows and F·W columns and decodes to the same values.

    In a horizontal strip the same pixel of the previous frame lies W pixels back, within reach of
    the codec's dictionary, so still parts of a clip cost almost nothing."""
    strip = np.concatenate(list(frames), axis=1)
    picture = Image.fromarray(np.ascontiguousarray(strip))
    buffer = io.BytesIO()
    if max(strip.shape) <= WEBP_MAX_SIDE:
        picture.save(buffer, format="WEBP", lossless=True, quality=60, method=4)
        kind = "webp"
    else:
        picture.save(buffer, format="PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
