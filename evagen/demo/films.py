"""What is computed, as video files that a browser plays.

Letters: F frames, H and W pixels.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from evagen.data.token_bars import with_bars
from evagen.data.video_writer import write_video
from evagen.demo.generate import FRAMES_PER_SECOND, Generated
from evagen.demo.rebuild import Rebuilt

SHOWN_SIDE = 128
"""Pixels that a frame has at least when it is shown. Enlarged by repeating pixels, which hides nothing and adds
nothing."""
GAP = 4
"""Pixels between videos side by side."""


def write_pair(path: Path, piece: Rebuilt) -> None:
    """The newest piece as `.mp4`: original left, reconstruction right, tokens of its blocks beneath."""
    pairs = (_row(pair) for pair in zip(enlarged(piece.originals), enlarged(piece.rebuilt)))
    frames = with_bars(pairs, piece.new_lengths, piece.frames_a_block, piece.longest)
    write_video(path, frames, piece.frames_per_second)


def write_row(path: Path, made: Generated) -> None:
    """Generated clips as `.mp4`, side by side, with the tokens of their blocks beneath each."""
    films = [
        with_bars(enlarged(clip), lengths, made.frames_a_block, made.longest)
        for clip, lengths in zip(made.clips, made.lengths)
    ]
    write_video(path, (_row(frames) for frames in zip(*films)), FRAMES_PER_SECOND)


def enlarged(frames: np.ndarray) -> Iterator[np.ndarray]:
    """uint8 F H W 3 → frames uint8 `n·H n·W 3` with the smallest whole n by which the short side is `SHOWN_SIDE`."""
    times = max(1, -(-SHOWN_SIDE // min(frames.shape[1:3])))
    return (frame.repeat(times, axis=0).repeat(times, axis=1) for frame in frames)


def _row(frames: tuple[np.ndarray, ...]) -> np.ndarray:
    gap = np.full((len(frames[0]), GAP, 3), 255, np.uint8)
    between = [part for frame in frames for part in (gap, frame)]
    return np.concatenate(between[1:], axis=1)
