"""A clip as one picture."""

import numpy as np
from PIL import Image


def frame_grid(frames: np.ndarray, columns: int) -> Image.Image:
    """All frames, uint8 F H W C, as one picture with so many a row and a gap of two pixels between them."""
    count, height, width, _ = frames.shape
    rows = -(-count // columns)
    picture = np.full((rows * (height + 2) - 2, columns * (width + 2) - 2, 3), 255, np.uint8)
    for i, frame in enumerate(frames):
        y, x = (i // columns) * (height + 2), (i % columns) * (width + 2)
        picture[y : y + height, x : x + width] = frame
    return Image.fromarray(picture)
