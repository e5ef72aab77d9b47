"""Pictures and clips beside each other."""

import numpy as np
from einops import rearrange
from PIL import Image


def frame_grid(frames: np.ndarray, columns: int) -> Image.Image:
    """All frames, uint8 F H W C, as one picture with so many a row and a gap of two pixels between them."""
    return Image.fromarray(in_rows(frames, columns, gap=2, ground=255))


def in_rows(cells: np.ndarray, columns: int, gap: int, ground: int = 0) -> np.ndarray:
    """(N, …, H, W, C) → (…, H', W', C): so many a row, with `gap` > 0 pixels of the value `ground` between them and in
    the rest of the last row."""
    count, *between, height, width, colours = cells.shape
    rows = -(-count // columns)
    sheet = np.full((rows * columns, *between, height + gap, width + gap, colours), ground, cells.dtype)
    sheet[:count, ..., :height, :width, :] = cells
    return rearrange(sheet, "(r n) ... h w c -> ... (r h) (n w) c", n=columns)[..., :-gap, :-gap, :]
