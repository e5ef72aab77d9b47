"""Videos with the tokens of each block beneath: a bar for each of them, the present one lit.

Letters: F frames, H and W pixels, T blocks.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

BAR_SHARE = 8
"""The bars are as high as an eighth of the picture, …"""
LEAST_BAR = 12
"""… and at least so many pixels."""
GROUND, TOKENS, NOW = (24, 24, 28), (110, 118, 140), (255, 196, 60)
"""Colours of the ground, of blocks, and of the block that is shown."""


def side_by_side(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], lengths: Sequence[int], frames_a_block: int
) -> Iterator[np.ndarray]:
    """Originals and reconstructions, frames uint8 `H W 3` → frames uint8 `H' 2·W 3`: the original on the left, the
    reconstruction on the right, and the bars beneath both."""
    return with_bars((np.concatenate(pair, axis=1) for pair in pairs), lengths, frames_a_block)


def with_bars(
    frames: Iterable[np.ndarray], lengths: Sequence[int], frames_a_block: int, highest: int | None = None
) -> Iterator[np.ndarray]:
    """Frames uint8 `H W 3` → frames uint8 `H' W 3`: beneath each a bar for each of the T blocks, as high as its tokens,
    the present one in another colour. highest: as in `token_bars`."""
    bars: np.ndarray | None = None
    for number, frame in enumerate(frames):
        height, width, _ = frame.shape
        if bars is None:
            bars = token_bars(lengths, bar_height(height), width, highest)
        block = min(number // frames_a_block, len(lengths) - 1)
        yield np.concatenate([frame, _lit(bars, block, len(lengths))])


def bar_height(height: int) -> int:
    """Pixels of the bars beneath frames of so many."""
    return max(LEAST_BAR, height // BAR_SHARE)


def token_bars(lengths: Sequence[int], height: int, width: int, highest: int | None = None) -> np.ndarray:
    """uint8 `height width 3`: T bars side by side. As high as the picture is the longest of them, or one of `highest`
    tokens, where bars of several clips are to be compared."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = GROUND
    block_of_column = np.arange(width) * len(lengths) // width  # (width,)
    high = np.ceil(np.asarray(lengths) / (highest or max(lengths)) * (height - 1)).astype(int)[
        block_of_column
    ]  # (width,)
    is_bar = np.arange(height)[::-1, None] < high  # (height, width)
    starts = np.flatnonzero(np.diff(block_of_column, prepend=0))
    if width >= 4 * len(lengths):  # room for a gap between bars
        is_bar[:, starts] = False
    picture[is_bar] = TOKENS
    return picture


def _lit(bars: np.ndarray, block: int, num_blocks: int) -> np.ndarray:
    """The bars with one of them in the colour of now; its ground is lit a little, so that a block of few tokens is
    seen too."""
    width = bars.shape[1]
    start = min(-(-block * width // num_blocks), width - 1)
    end = max(-(-(block + 1) * width // num_blocks), start + 1)
    lit = bars.copy()
    column = lit[:, start:end]
    is_bar = (column == TOKENS).all(-1)
    column[~is_bar] = np.asarray(GROUND) + 40
    column[is_bar] = NOW
    return lit
