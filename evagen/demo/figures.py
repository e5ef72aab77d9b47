"""What is said of a result, as HTML: the blocks on a timeline, and the numbers.

Everything that comes from outside (names of files, messages) is escaped.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageOps

from evagen.demo.generate import FRAMES_PER_SECOND, Generated
from evagen.demo.rebuild import Rebuilt
from evagen.scoring.pairs import SQUARES

BAR_PIXELS = 72
"""Height of the bar of the longest length."""
MOST_PICTURES = 80
"""A timeline of more blocks is drawn narrow, without numbers and pictures."""
PICTURE_SIDE = 48
"""Pixels of a block's picture."""


def picture(frame: np.ndarray) -> str:
    """The middle square of a frame uint8 H W 3 as a small JPEG in a data URI."""
    file = io.BytesIO()
    ImageOps.fit(Image.fromarray(frame), (PICTURE_SIDE, PICTURE_SIDE)).save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def pictures_of(frames: np.ndarray, num_blocks: int, frames_a_block: int) -> list[str]:
    """The first frame of each block of frames uint8 F H W 3; a block behind the video's end has its last frame."""
    return [picture(frames[min(block * frames_a_block, len(frames) - 1)]) for block in range(num_blocks)]


def timeline(lengths: Sequence[int], pictures: Sequence[str], block_seconds: float, longest: int, of_what: str) -> str:
    """A column for each block: its tokens, a bar as high, its first frame, and when it begins."""
    narrow = len(lengths) > MOST_PICTURES
    columns = []
    for number, length in enumerate(lengths):
        begin, end = number * block_seconds, (number + 1) * block_seconds
        said = f"block {number + 1}, {begin:.2f} to {end:.2f} s: {length} tokens"
        high = max(2, round(BAR_PIXELS * length / longest))
        column = f'<div class="bar" style="height:{high}px"></div>'
        if not narrow:
            shown = f'<img src="{pictures[number]}" alt="">' if number < len(pictures) else ""
            column = f"<b>{length}</b>{column}{shown}<small>{begin:.1f} s</small>"
        columns.append(f'<div class="block" title="{said}">{column}</div>')
    kind = "timeline narrow" if narrow else "timeline"
    label = f"{html.escape(of_what)}: {len(lengths)} blocks, {sum(lengths)} tokens"
    return (
        f'<figure class="{kind}"><figcaption>{label}</figcaption>'
        f'<div class="blocks" tabindex="0" role="group" aria-label="{label}">{"".join(columns)}</div></figure>'
    )


def of_blocks(result: Rebuilt, pictures: Sequence[str]) -> str:
    """The timeline of a video as far as it has been rebuilt. pictures: of its blocks."""
    block_seconds = result.frames_a_block / result.frames_per_second
    return timeline(result.lengths, pictures, block_seconds, result.longest, "Tokens of each block over time")


def of_clips(made: Generated) -> str:
    """A timeline for each generated clip."""
    block_seconds = made.frames_a_block / FRAMES_PER_SECOND
    timelines = "".join(
        timeline(
            lengths, pictures_of(clip, len(lengths), made.frames_a_block), block_seconds, made.longest, f"Clip {n}"
        )
        for n, (clip, lengths) in enumerate(zip(made.clips, made.lengths), start=1)
    )
    return f'<div class="timelines">{timelines}</div>'


def of_rebuilt(result: Rebuilt, name: str) -> str:
    """Cost and quality of a video as far as it has been rebuilt."""
    moved = result.motion_explained
    cost = [
        ("tokens", f"{result.tokens}", f"in {len(result.lengths)} blocks"),
        ("tokens a second", f"{result.tokens_per_second:.1f}", f"{result.seconds:.1f} s of video"),
        ("share of longest", f"{result.share_of_longest:.0%}", f"of {result.longest} tokens in every block"),
        ("bits a pixel", f"{result.bits_per_pixel:.4f}", "raw video has 24"),
    ]
    quality = [
        ("PSNR", f"{result.psnr:.1f} dB", "higher is closer"),
        ("motion explained", "–" if moved is None else f"{moved:.2f}", _of_motion(moved)),
    ]
    done = result.num_frames >= result.total_frames
    state = "" if done else f", {result.num_frames} of {result.total_frames} frames so far …"
    numbers = _numbers(f"{html.escape(name)}{state}", done, (("Cost", cost), ("Quality", quality)))
    return numbers if result.better_squares is None else numbers + _unknown(result.better_squares)


def _unknown(squares: float) -> str:
    return (
        '<p class="unknown" role="note">This video looks like nothing that the model was trained on: a still picture '
        f"of {SQUARES}x{SQUARES} coloured squares comes nearer to it ({squares:.1f} dB). Choose another model, if "
        "there is one.</p>"
    )


def _of_motion(moved: float | None) -> str:
    return "nothing moves" if moved is None else "1 is perfect, 0 a still picture"


def of_generated(made: Generated, asked: str) -> str:
    """What generated clips cost."""
    count = len(made.lengths)
    cost = [
        ("tokens a clip", f"{made.tokens_a_clip:.4g}", f"{len(made.lengths[0])} blocks each"),
        ("tokens a second", f"{made.tokens_per_second:.1f}", f"at {FRAMES_PER_SECOND} frames a second"),
        ("share of longest", f"{made.share_of_longest:.0%}", f"of {made.longest} tokens in every block"),
        ("computing", f"{made.compute_seconds:.1f} s", f"for {count} clip{'s' * (count > 1)}"),
    ]
    return _numbers(html.escape(asked), True, (("Cost", cost),))


def problem(message: str) -> str:
    """Why there is no result."""
    return f'<div class="problem" role="alert">{html.escape(message)}</div>'


def _numbers(title: str, done: bool, groups: Iterable[tuple[str, list[tuple[str, str, str]]]]) -> str:
    parts = []
    for group, entries in groups:
        cards = "".join(
            f'<div class="number"><dt>{name}</dt><dd data-name="{name}">{value}</dd><small>{note}</small></div>'
            for name, value, note in entries
        )
        parts.append(f"<h4>{group}</h4><dl>{cards}</dl>")
    return f'<section class="numbers" data-done="{str(done).lower()}"><p>{title}</p>{"".join(parts)}</section>'
