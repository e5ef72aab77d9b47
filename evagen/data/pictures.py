"""Pictures of clips, for people who watch a training: frames in rows, with the tokens of each block as bars beneath.

Letters: F frames, H and W pixels, T blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image, ImageDraw, ImageFont

from evagen.data.token_bars import GROUND, bar_height, token_bars
from evagen.kernels.files import atomic_write
from evagen.kernels.names import as_line

FOLDER = "pictures"
"""In a run folder."""
MOST_FRAMES = 16
"""Of a clip in a picture; of longer ones as many are shown, at equal distances."""
WIDEST_FRAME = 128
"""Pixels; larger frames are made smaller."""
LINE, INK = 18, (225, 225, 230)
"""Height of a line of text in pixels, and its colour."""


@dataclass(frozen=True)
class ShownClip:
    """A clip in a picture. title: a line above it; versions: uint8 (F, H, W, 3) each, a row for each, all of one shape;
    lengths: tokens of its T blocks."""

    title: str
    versions: Sequence[np.ndarray]
    lengths: Sequence[int]


def draw_clips(heading: str, clips: Sequence[ShownClip], highest: int) -> Image.Image:
    """One picture of at least one clip, one beneath another. heading: a line at the top; highest: tokens of a bar that
    fills its row."""
    rows = [_line(heading)]
    for clip in clips:
        frames = [_row(version) for version in clip.versions]
        bars = _numbered_bars(clip.lengths, bar_height(frames[0].height), frames[0].width, highest)
        rows += [_line(clip.title), *frames, bars]
    picture = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), GROUND)
    top = 0
    for row in rows:
        picture.paste(row, (0, top))
        top += row.height
    return picture


def leave_picture(picture: Image.Image, out: Path, step: int, accelerator: Accelerator) -> Path:
    """Writes a picture of a step into a run folder, and gives it to the run's trackers that take pictures. For the main
    process. Returns its path."""
    path = out / FOLDER / f"step_{step:08d}.png"
    with atomic_write(path) as unfinished:
        picture.save(unfinished)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":  # the one that takes arrays only
            tracker.log_images({FOLDER: np.asarray(picture)[None]}, step=step, dataformats="NHWC")
        elif hasattr(tracker, "log_images"):
            tracker.log_images({FOLDER: [picture]}, step=step)
    return path


def _row(frames: np.ndarray) -> Image.Image:
    """Frames (F, H, W, 3) side by side, with a pixel between them."""
    chosen = frames[np.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).round().astype(int)]
    _, height, width, _ = frames.shape
    shown = (min(width, WIDEST_FRAME), round(height * min(1, WIDEST_FRAME / width)))
    row = Image.new("RGB", (len(chosen) * (shown[0] + 1) - 1, shown[1] + 1), GROUND)
    for number, frame in enumerate(chosen):
        row.paste(Image.fromarray(frame).resize(shown, Image.Resampling.LANCZOS), (number * (shown[0] + 1), 0))
    return row


def _line(text: str) -> Image.Image:
    text = as_line(text)
    font = ImageFont.load_default(LINE - 6)
    line = Image.new("RGB", (round(font.getlength(text)) + 6, LINE), GROUND)
    ImageDraw.Draw(line).text((3, 1), text, INK, font)
    return line


def _numbered_bars(lengths: Sequence[int], height: int, width: int, highest: int) -> Image.Image:
    """The bars, and beneath each its number where there is room for it."""
    bars = Image.fromarray(token_bars(lengths, height, width, highest))
    font = ImageFont.load_default(LINE - 7)
    if width / len(lengths) < font.getlength(f"{max(lengths)} "):
        return bars
    both = Image.new("RGB", (width, height + LINE - 2), GROUND)
    both.paste(bars)
    for block, length in enumerate(lengths):
        place = ((block + 0.5) * width / len(lengths), height + (LINE - 2) / 2)
        ImageDraw.Draw(both).text(place, str(length), INK, font, anchor="mm")
    return both
