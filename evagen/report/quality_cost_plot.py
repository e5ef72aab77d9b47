"""The picture of the quality-cost study: a row for each set of clips, a column for each measure, against tokens."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from evagen.kernels.files import atomic_write
from evagen.scoring.length_choices import CostPoint

MARKS: dict[str, dict[str, Any]] = {
    "uniform": {"color": "#555555", "marker": "s", "linestyle": "--"},
    "threshold": {"color": "#c2781b", "linestyle": "-"},
    "max reward": {"color": "#2f6fb0", "linestyle": "-"},
    "mirror image": {"color": "#2f6fb0", "linestyle": ":"},
    "best uniform": {"color": "#999999", "linestyle": ":"},
    "router": {"color": "#b02f4f", "linestyle": "-", "linewidth": 2.2},
    "single router": {"color": "#b02f4f", "marker": "o", "linestyle": "none", "fillstyle": "none"},
    "proxy tokenizer": {"color": "#555555", "marker": "D", "linestyle": "none"},
    "final tokenizer": {"color": "#2d8a4e", "marker": "*", "markersize": 13, "linestyle": "none"},
}
"""How each way is drawn; also their order in the legend."""


MEASURES = {
    "psnr": "PSNR, dB (higher is better)",
    "perceptual": "perceptual distance (lower is better)",
    "motion": "motion explained (higher is better; 0: a still picture)",
}


def draw(points: Sequence[CostPoint], path: Path, frechet: str | None = None) -> None:
    """frechet: what its axis says, where points have such a distance."""
    sets = list(dict.fromkeys(point.clips for point in points))
    measures = MEASURES | ({"frechet": frechet} if frechet else {})
    size = (5.3 * len(measures), 4.2 * len(sets))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(sets), len(measures), squeeze=False)
    for row, name in zip(axes, sets):
        for axis, (measure, label) in zip(row, measures.items()):
            for way, marks in MARKS.items():
                mine = sorted(
                    (p.tokens, getattr(p, measure))
                    for p in points
                    if p.clips == name and p.way == way and getattr(p, measure) is not None
                )
                if mine:
                    axis.plot(*zip(*mine), label=way, **marks)
            axis.set(title=name, xlabel="tokens per clip", ylabel=textwrap.fill(label, 40, break_on_hyphens=False))
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(frameon=False)
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, dpi=130)
