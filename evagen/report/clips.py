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


def sprite_strip(frames: np.ndarray, lossless: bool = True) -> str:
    """The frames of a clip from left to right in one picture.

    frames: uint8 `F H W 3`, 0 to 255. Returns a data URI (WebP where the strip fits, else PNG) whose
    picture has H rows and F·W columns and decodes to the same values, or nearly so where it need not be `lossless`.

    In a horizontal strip the same pixel of the previous frame lies W pixels back, within reach of
    the codec's dictionary, so still parts of a clip cost almost nothing."""
    strip = np.concatenate(list(frames), axis=1)
    return picture_uri(Image.fromarray(np.ascontiguousarray(strip)), lossless)


def picture_uri(picture: Image.Image, lossless: bool) -> str:
    """A picture as a data URI: WebP where it fits, else PNG, which loses nothing anyway."""
    buffer = io.BytesIO()
    if max(picture.size) <= WEBP_MAX_SIDE:
        picture.save(buffer, format="WEBP", lossless=lossless, quality=60 if lossless else 85, method=4)
        kind = "webp"
    else:
        picture.save(buffer, format="PNG", optimize=True)
        kind = "png"
    return data_uri(buffer.getvalue(), f"image/{kind}")


def data_uri(content: bytes, kind: str) -> str:
    """A file as a part of a page. kind: its MIME type."""
    return f"data:{kind};base64," + base64.b64encode(content).decode("ascii")
