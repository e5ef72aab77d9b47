"""The report page: plain dataclasses that a run fills in, and the HTML file written from them.

    write_report(Report(title="Quickstart", summary=summary, pairs=pairs, ...), Path("report.html"))

Letters: F frames, H height, W width, T temporal blocks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TypedDict, TypeVar

import jinja2
import numpy as np
from markupsafe import Markup

from evagen import __version__
from evagen.kernels.files import write_whole
from evagen.report import figures, findings
from evagen.report.clips import check_frames, sprite_strip
from evagen.report.minute import Minute


class Stage(TypedDict):
    """What one stage took."""

    seconds: float


class Quality(TypedDict):
    """What a tokenizer spends on the held-out clips and what it gets for it; means over clips."""

    tokens_per_clip: float
    psnr: float
    """In dB; higher is better."""
    perceptual: float
    """Perceptual distance; lower is better."""
    motion: float | None
    """Motion explained (`evagen.eval.motion`): 1 is perfect, 0 a still picture; None where nothing moves."""


class AdaptiveQuality(Quality):
    """The same with the router's lengths."""

    lengths_by_block: list[float]
    """Mean tokens of each of the T blocks."""


class PreferredQuality(Quality):
    """The same with the lengths of the router at a preference w_q."""

    preference: float


class Reconstruction(TypedDict):
    """`uniform`, `adaptive` and `further_preferences`, of which there may be none, are measured with the proxy
    tokenizer, the others with the final one: `final` at the lengths of `adaptive`, `final_longest` at the longest
    uniform ones."""

    uniform: Sequence[Quality]
    adaptive: AdaptiveQuality
    further_preferences: Sequence[PreferredQuality]
    final: Quality
    final_longest: Quality


class Frechet(TypedDict):
    """Fréchet distances under one named detector; lower is closer to the real clips."""

    detector: str
    value: float
    real_vs_real: float
    untrained: float


class Movement(TypedDict):
    """How much generated clips move, and real ones; means over clips. `ratio`: the first over the second, None where
    no real clip moves."""

    generated: float
    real: float
    ratio: float | None


class Generation(TypedDict):
    """What the generator wrote."""

    clips: int
    tokens_per_clip: float
    invalid_sequences: int
    length_patterns: dict[str, int]
    """How many different assignments of lengths the clips of each class have."""
    motion: Movement
    """Mean change from frame to frame, of values in [-1, 1]."""
    moving_share: Movement
    """Share of places that differ from the clip's still background, 0 to 1."""
    frechet: Frechet


class Summary(TypedDict):
    """The measured results of a run, as in its `summary.json`. Further keys are ignored."""

    total_seconds: float
    peak_rss_mb: float
    stages: dict[str, Stage]
    """In the order in which they ran, one after another."""
    reconstruction: Reconstruction
    generation: Generation


@dataclass
class ClipPair:
    """A held-out clip and its reconstruction, both uint8 `F H W 3`, with the lengths of its T blocks.

    `psnr` is in dB; `motion` is the motion explained, None where nothing moves.
    Raises ValueError for frames of another kind or of two different shapes."""

    original: np.ndarray
    reconstruction: np.ndarray
    lengths: Sequence[int]
    class_name: str
    psnr: float
    motion: float | None

    def __post_init__(self) -> None:
        check_frames(self.original, "original")
        check_frames(self.reconstruction, "reconstruction")
        if self.original.shape != self.reconstruction.shape:
            raise ValueError(
                f"original and reconstruction should have one shape, "
                f"not {self.original.shape} and {self.reconstruction.shape}"
            )
        _check_lengths(self.lengths)


@dataclass
class GeneratedClip:
    """A generated clip, uint8 `F H W 3`, with the lengths the generator chose for its T blocks."""

    frames: np.ndarray
    lengths: Sequence[int]
    class_name: str

    def __post_init__(self) -> None:
        check_frames(self.frames, "frames")
        _check_lengths(self.lengths)


@dataclass
class RealClip:
    """A real clip, uint8 `F H W 3`, shown under the generated clips of its class."""

    frames: np.ndarray
    class_name: str

    def __post_init__(self) -> None:
        check_frames(self.frames, "frames")


@dataclass
class LossCurve:
    """The losses of one stage: every list in `values` is as long as `steps`.

    `codebook_use` is the share of codes in use at each step, 0 to 1; empty for stages without a codebook.
    Raises ValueError for lists of another length."""

    stage: str
    steps: Sequence[int]
    values: Mapping[str, Sequence[float]]
    codebook_use: Sequence[float] = ()

    def __post_init__(self) -> None:
        lists = dict(self.values) | ({"codebook_use": self.codebook_use} if len(self.codebook_use) else {})
        for name, values in lists.items():
            if len(values) != len(self.steps):
                raise ValueError(f"{self.stage}: {name!r} has {len(values)} values for {len(self.steps)} steps")


@dataclass
class Report:
    """All that the page shows.

    `lengths_by_class` gives each class's mean tokens of each block. `environment` and `commands` are shown as they are:
    label to value, stage to command line. `minute`: a long video, where there is one."""

    title: str
    summary: Summary
    pairs: Sequence[ClipPair]
    generated: Sequence[GeneratedClip]
    real: Sequence[RealClip]
    lengths_by_class: Mapping[str, Sequence[float]]
    curves: Sequence[LossCurve] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    frames_per_second: float = 8.0
    minute: Minute | None = None


def write_report(report: Report, path: Path) -> Path:
    """Writes the report as one HTML file that needs no network, and returns its path.

    Raises KeyError if `report.summary` lacks a number that the page shows."""
    assignments = [pair.lengths for pair in report.pairs] + [clip.lengths for clip in report.generated]
    html = (
        templates()
        .get_template("report.html")
        .render(
            report=report,
            summary=report.summary,
            version=__version__,
            findings=findings.describe(report.summary),
            num_blocks_shown=sorted({len(lengths) for lengths in assignments}),
            longest_block=max((max(lengths) for lengths in assignments), default=1),
            generated_by_class=by_class(report.generated),
            real_by_class=by_class(report.real),
            classes_by_cost=sorted(report.lengths_by_class.items(), key=lambda item: -sum(item[1])),
            still_pairs=any(pair.motion is None for pair in report.pairs),
            timeline=_timeline(report.summary),
            **_figures(report),
        )
    )
    write_whole(path, html, errors="xmlcharrefreplace")
    return path


def templates() -> jinja2.Environment:
    """The pages' templates, with the filters that they use."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evagen.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "strip": sprite_strip,
        "count": findings.format_count,
        "motion": findings.format_motion,
        "percent": findings.format_percent,
        "duration": findings.format_duration,
        "memory": findings.format_memory,
    }
    return environment


def _figures(report: Report) -> dict[str, object]:
    """The page's drawings as inline SVG, by the names the template gives them."""
    reconstruction = report.summary["reconstruction"]
    marked = [
        *[
            figures.Mark(f"preference {q['preference']}", "router", *findings.cost_and_quality(q))
            for q in reconstruction["further_preferences"]
        ],
        figures.Mark("adaptive", "adaptive", *findings.cost_and_quality(reconstruction["adaptive"])),
        figures.Mark("final tokenizer", "final", *findings.cost_and_quality(reconstruction["final"])),
    ]
    uniform = [figures.Mark("", "uniform", *findings.cost_and_quality(q)) for q in reconstruction["uniform"]]
    with_motion = [mark for mark in (*uniform, *marked) if mark.motion is not None]
    codebook_use = {c.stage: (c.steps, [100 * v for v in c.codebook_use]) for c in report.curves if len(c.codebook_use)}
    return {
        "psnr_figure": Markup(figures.quality_cost(uniform, marked, "psnr")),
        "perceptual_figure": Markup(figures.quality_cost(uniform, marked, "perceptual")),
        "motion_figure": Markup(figures.quality_cost(uniform, marked, "motion")) if with_motion else None,
        "some_without_motion": 0 < len(with_motion) < len(uniform) + len(marked),
        "loss_figures": [
            (
                curve.stage,
                Markup(figures.lines({n: (curve.steps, v) for n, v in curve.values.items()}, f"loss{i}")),
            )
            for i, curve in enumerate(report.curves)
        ],
        "codebook_figure": Markup(figures.lines(codebook_use, "codebook", percent=True)) if codebook_use else None,
    }


def _timeline(summary: Summary) -> list[dict[str, object]]:
    """Each stage's place in the run, start and width as shares of the whole."""
    seconds = [stage["seconds"] for stage in summary["stages"].values()]
    starts = [0.0, *accumulate(seconds)]
    whole = max(summary["total_seconds"], starts[-1]) or 1.0
    return [
        {"name": name, "seconds": took, "start": start / whole, "width": took / whole}
        for name, took, start in zip(summary["stages"], seconds, starts)
    ]


Clip = TypeVar("Clip", GeneratedClip, RealClip)


def by_class(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    grouped: dict[str, list[Clip]] = {}
    for clip in clips:
        grouped.setdefault(clip.class_name, []).append(clip)
    return grouped


def _check_lengths(lengths: Sequence[int]) -> None:
    if not len(lengths) or min(lengths) < 1:
        raise ValueError(f"lengths should hold one positive token count for each block, not {list(lengths)}")
