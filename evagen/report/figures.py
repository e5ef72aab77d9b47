"""The report's curves as inline SVG, drawn by matplotlib in the colours of the page's style sheet.

matplotlib knows one colour per line, a page has two schemes. So each role is drawn in a stand-in colour
that is then replaced by the style sheet's variable (`var(--accent)`), and text stays text.
"""

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from evagen.report.findings import Measure, format_count

WIDE_INCHES, SMALL_INCHES = (4.2, 3.0), (3.6, 2.7)
FONT_POINTS = 9.5
LONGEST_NAME = 20
COLOURS = {
    "ink": "#010203",
    "muted": "#040506",
    "grid": "#070809",
    "uniform": "#0a0b0c",
    "router": "#0d0e0f",
    "adaptive": "#101112",
    "final": "#131415",
    "series-1": "#161718",
    "series-2": "#191a1b",
    "series-3": "#1c1d1e",
    "series-4": "#1f2021",
    "series-5": "#222324",
}
DISTANCES_POINTS = (7.0, 16.0, 28.0, 42.0, 58.0)
PLACES = [(1, 0), (0, 1), (-1, 0), (0, -1), (0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8)]
SERIES = [name for name in COLOURS if name.startswith("series-")]


@dataclass
class Mark:
    """A point of the quality-cost curve; `role` names its colour."""

    name: str
    role: str
    tokens_per_clip: float
    psnr: float
    perceptual: float
    motion: float | None


def quality_cost(uniform: Sequence[Mark], marked: Sequence[Mark], measure: Measure) -> str:
    """Quality over tokens per clip, the tokens on a logarithmic axis: uniform lengths as a line,
    `marked` points with their names beside them. A mark without a value is left out, and at least one has to have
    one. Returns an `<svg>` element."""
    figure, axes = _axes(WIDE_INCHES)
    uniform, marked = ([mark for mark in marks if getattr(mark, measure) is not None] for marks in (uniform, marked))
    uniform = sorted(uniform, key=lambda mark: mark.tokens_per_clip)
    curve = np.array([[mark.tokens_per_clip, getattr(mark, measure)] for mark in uniform]).reshape(-1, 2)
    axes.plot(*curve.T, "-o", color=COLOURS["uniform"], linewidth=1.4, markersize=4)
    for mark in marked:
        shape = {"router": "o", "adaptive": "o", "final": "D"}[mark.role]
        filled = COLOURS[mark.role] if mark.role != "router" else "none"
        size = 5.0 if mark.role == "router" else 6.5
        axes.plot(
            mark.tokens_per_clip,
            getattr(mark, measure),
            shape,
            color=COLOURS[mark.role],
            markerfacecolor=filled,
            markersize=size,
        )
    points = np.array([[mark.tokens_per_clip, getattr(mark, measure)] for mark in (*uniform, *marked)])
    _tokens_axis(axes, points[:, 0], curve[:, 0])
    axes.margins(y=0.14)
    level = 0.0 if measure == "motion" else None  # of a still picture
    if level is not None:
        axes.axhline(level, color=COLOURS["muted"], linewidth=1.0, linestyle="--")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    axes.set_xlabel("tokens per clip")
    labels = [(mark.name, mark.role, (mark.tokens_per_clip, getattr(mark, measure))) for mark in marked[::-1]]
    if uniform:
        labels.append(("uniform lengths", "uniform", tuple(curve[len(curve) // 2])))
    _place_labels(figure, axes, labels, points, curve, level)
    return _svg(figure, measure)


def lines(series: Mapping[str, tuple[Sequence[int], Sequence[float]]], prefix: str, *, percent: bool = False) -> str:
    """Values over training steps, one line per name with the name at its end; logarithmic where
    positive values span more than a factor of 20. Returns an `<svg>` element whose ids begin with
    `prefix`, which has to be unique on the page."""
    figure, axes = _axes(SMALL_INCHES)
    ends: list[tuple[str, str, float]] = []
    for (name, (steps, values)), colour in zip(series.items(), itertools.cycle(SERIES)):
        marker = "o" if len(steps) == 1 else ""
        axes.plot(steps, values, marker=marker, color=COLOURS[colour], linewidth=1.4, markersize=4)
        finite = [value for value in values if np.isfinite(value)]
        if finite:
            ends.append((name, colour, finite[-1]))
    every = np.array([v for _, values in series.values() for v in values if np.isfinite(v)])
    if percent:
        axes.set_ylim(0, 104)
        axes.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
    elif len(every) and every.min() > 0 and every.max() / every.min() > 20:
        axes.set_yscale("log")
        subs = (1.0, 2.0, 5.0) if every.max() / every.min() < 200 else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    every_step = sorted({step for steps, _ in series.values() for step in steps})
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True) if len(every_step) > 1 else FixedLocator(every_step))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))
    axes.set_xlabel("steps")
    _label_ends(figure, axes, ends)
    return _svg(figure, prefix)


def _axes(size_inches: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size_inches, dpi=72, layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(COLOURS["muted"])
    axes.grid(axis="y", color=COLOURS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=COLOURS["muted"], labelsize=FONT_POINTS, length=0, pad=5)
    axes.xaxis.label.set(color=COLOURS["muted"], size=FONT_POINTS)
    return figure, axes


def _tokens_axis(axes: Axes, tokens: np.ndarray, ticks: np.ndarray) -> None:
    """A logarithmic axis with the measured uniform costs as ticks, since their spacing is geometric."""
    low, high = tokens.min(), tokens.max()
    reach = (high / low) ** 0.12 if high > low else 1.5
    axes.set_xscale("log")
    axes.set_xlim(low / reach, high * reach)
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(ticks.tolist() or tokens.tolist()))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _place_labels(
    figure: Figure,
    axes: Axes,
    labels: Sequence[tuple[str, str, tuple[float, float]]],
    points: np.ndarray,
    curve: np.ndarray,
    level: float | None,
) -> None:
    """Writes each label beside its point, at the nearest of its places that covers neither a point,
    the curve, the line at `level`, nor a label written before; at the least covered one if there is none."""
    figure.draw_without_rendering()
    drawn = [curve] if level is None else [curve, np.array([[x, level] for x in axes.get_xlim()])]
    obstacles = np.concatenate(
        [axes.transData.transform(points)] + [_along(axes.transData.transform(c)) for c in drawn]
    )
    inside, taken = axes.bbox, list[Bbox]()
    for label in labels:
        costs: list[tuple[float, int, tuple[float, tuple[float, float]], Bbox]] = []
        for place in itertools.product(DISTANCES_POINTS, PLACES):
            text = _write_label(axes, label, *place)
            box = text.get_window_extent()
            text.remove()
            grown = Bbox.from_extents(box.x0 - 3, box.y0 - 2, box.x1 + 3, box.y1 + 2)
            covered = sum(grown.contains(x, y) for x, y in obstacles)
            crowded = sum(grown.overlaps(other) for other in taken)
            outside = box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1
            costs.append((covered + 100 * crowded + 1000 * outside, len(costs), place, grown))
        _, _, place, grown = min(costs, key=lambda cost: cost[:2])
        _write_label(axes, label, *place, leader=place[0] > 10)
        taken.append(grown)


def _write_label(
    axes: Axes,
    label: tuple[str, str, tuple[float, float]],
    distance: float,
    direction: tuple[float, float],
    leader: bool = False,
) -> Annotation:
    """A name at a distance in points from its point; `leader` draws a thin line between the two."""
    name, role, point = label
    dx, dy = direction
    return axes.annotate(
        _brief(name),
        point,
        (dx * distance, dy * distance),
        textcoords="offset points",
        ha={1: "left", 0: "center", -1: "right"}[int(np.sign(dx))],
        va={1: "bottom", 0: "center", -1: "top"}[int(np.sign(dy))],
        color=COLOURS[role],
        size=FONT_POINTS,
        weight="bold" if role == "final" else "normal",
        parse_math=False,
        arrowprops={"arrowstyle": "-", "color": COLOURS[role], "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4}
        if leader
        else None,
    )


def _along(corners: np.ndarray) -> np.ndarray:
    """Points every few pixels along a line through `corners`, shape `N 2`."""
    pieces = [np.linspace(a, b, 60) for a, b in itertools.pairwise(corners)]
    return np.concatenate(pieces) if pieces else corners.reshape(-1, 2)


def _label_ends(figure: Figure, axes: Axes, ends: Sequence[tuple[str, str, float]]) -> None:
    """Names beside the last values, from bottom to top, moved apart to at least one line of text."""
    figure.draw_without_rendering()
    line_height, lowest = FONT_POINTS * 1.25, -np.inf
    placed = []
    for name, colour, value in sorted(ends, key=lambda end: end[2]):
        y = axes.transData.transform((0, value))[1]
        lowest = max(y, lowest + line_height)
        placed.append((name, colour, lowest))
    # What was pushed above the axes comes down again, and pushes the names below it down in turn.
    ceiling = axes.bbox.y1
    for index in range(len(placed) - 1, -1, -1):
        name, colour, y = placed[index]
        placed[index] = (name, colour, min(y, ceiling))
        ceiling = placed[index][2] - line_height
    height = axes.bbox.height
    for name, colour, y in placed:
        axes.annotate(
            _brief(name),
            (1, (y - axes.bbox.y0) / height),
            (5, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            color=COLOURS[colour],
            size=FONT_POINTS,
            parse_math=False,
        )


def _brief(name: str) -> str:
    """A name short enough to stand inside a figure."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _svg(figure: Figure, prefix: str) -> str:
    """The figure as one `<svg>` element: style-sheet colours, page font, ids that begin with `prefix`."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "evagen"}):
        figure.savefig(buffer, format="svg", metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    for pattern, replacement in (
        (r"<style.*?</style>", ""),
        (r'(<svg[^>]*?) width="[^"]*"', r"\1"),
        (r'(<svg[^>]*?) height="[^"]*"', r"\1"),
        (r' xmlns(:xlink)?="[^"]*"', ""),
        (r"xlink:href", "href"),
        (r"font-family: [^;\"]*;? ?", ""),
        (r"font: (?:(\w+) )?([\d.]+)px [^;\"]*", r"font-weight: \1; font-size: \2px"),
        (r' id="([^"]*)"', rf' id="{prefix}-\1"'),
        (r'href="#([^"]*)"', rf'href="#{prefix}-\1"'),
        (r"url\(#([^)]*)\)", rf"url(#{prefix}-\1)"),
    ):
        svg = re.sub(pattern, replacement, svg, flags=re.DOTALL)
    return svg.strip()
