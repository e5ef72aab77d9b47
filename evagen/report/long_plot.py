"""The picture of the study of long videos: each measure against tokens a minute, a line for each way."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from evagen.kernels.files import atomic_write

MARKS: list[dict[str, Any]] = [
    {"color": "#b02f4f", "marker": "o", "linestyle": "-"},
    {"color": "#b02f4f", "marker": "s", "linestyle": ":", "alpha": 0.6},
    {"color": "#2f6fb0", "marker": "o", "linestyle": "-"},
    {"color": "#2f6fb0", "marker": "s", "linestyle": ":", "alpha": 0.6},
]
MEASURES = {
    "psnr": "PSNR, dB (higher is better)",
    "perceptual": "perceptual distance (lower is better)",
    "motion": "motion explained (higher is better)",
}


def _line(points: list, measure: str) -> tuple[list[float], list[float]]:
    """Tokens and values where there is one: motion explained is not defined where nothing moves."""
    defined = [(point.tokens, value) for point in points if (value := getattr(point, measure)) is not None]
    return [tokens for tokens, _ in defined], [value for _, value in defined]


def draw(ways: list[str], points: list, path: Path) -> None:
    """points: `long_ways.RatePoint`."""
    figure = Figure(figsize=(15, 4.4), layout="constrained")
    axes = figure.subplots(1, len(MEASURES))
    for way, marks in zip(ways, MARKS):
        mine = sorted((point for point in points if point.way == way), key=lambda point: point.tokens)
        for axis, name in zip(axes, MEASURES):
            axis.plot(*_line(mine, name), label=way, **marks)
    for axis, label in zip(axes, MEASURES.values()):
        axis.set(xlabel="tokens a minute", ylabel=label, xscale="log")
        axis.grid(alpha=0.25)
    axes[0].legend(fontsize=9)
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, dpi=110)
