"""Tokens over time, as a codec's bitrate graph: in the terminal and as a picture, beside how much happens."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from evagen.kernels.files import atomic_write
from evagen.kernels.words import counted

CUT = 0.2
"""Mean change from one frame to the next, in [0, 2], from which on it is drawn as a cut: far above motion's."""
BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], columns: int = 60) -> str:
    """Values of equal steps of time as a line of bars from 0 to the largest, each the mean of its part of them."""
    parts = np.array_split(np.asarray(values, dtype=float), min(columns, len(values)))
    means = np.array([part.mean() for part in parts])
    heights = means / (means.max() or 1) * (len(BARS) - 1)
    return "".join(BARS[int(height)] for height in heights.round())


def graph(lengths: Sequence[int], changes: Sequence[float]) -> str:
    """Two lines for the terminal: tokens of the blocks, and changes from frame to frame, over the same time."""
    return f"tokens {sparkline(lengths)} at most {max(lengths)} a block\nmotion {sparkline(changes)}"


def draw(
    lengths: Sequence[int],
    changes: Sequence[float],
    frames_per_second: float,
    frames_per_block: int,
    path: Path,
    tokens_per_second: float | None = None,
) -> None:
    """The picture: tokens of each block, and their mean a second over four seconds; below them the mean change from
    each frame to the next, in [0, 2], with cuts. tokens_per_second: a rate that was asked for, drawn as a line."""
    block_seconds = frames_per_block / frames_per_second
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    edges = np.arange(len(lengths) + 1) * block_seconds
    above.stairs(lengths, edges, fill=True, color="#9dbfe0", label="tokens of a block")
    window = min(len(lengths), max(1, round(4 / block_seconds)))
    sums = np.convolve(lengths, np.ones(window), "valid") / window / block_seconds
    rate = above.twinx()
    rate.plot(edges[window:], sums, color="#b02f4f", label=f"tokens a second, over the last {counted(window, 'block')}")
    if tokens_per_second is not None:
        rate.axhline(tokens_per_second, color="#b02f4f", linestyle=":", label="the rate asked for")
    rate.set(ylim=(0, 1.15 * max([*sums, tokens_per_second or 0])), ylabel="tokens a second")
    above.set(ylabel="tokens of a block", xlim=(0, edges[-1]))
    handles = [each for axis in (above, rate) for each in axis.get_legend_handles_labels()[0]]
    above.legend(handles=handles, loc="upper right", fontsize=8)
    times = np.arange(len(changes)) / frames_per_second
    below.plot(times, changes, color="#555555", linewidth=0.8)
    for cut in times[np.asarray(changes) > CUT]:
        for axis in (above, below):
            axis.axvline(cut, color="#2a7a3f", linestyle="--", linewidth=0.8)
    below.set(ylabel="change of the picture", xlabel="seconds", ylim=(0, None))
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, dpi=130)
