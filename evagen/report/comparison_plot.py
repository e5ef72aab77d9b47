"""The picture of the study of fixed against adaptive lengths: a panel for each measure, against the training time."""

from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from evagen.kernels.files import atomic_write

MARKS: list[dict[str, Any]] = [
    {"color": "#555555", "marker": "s", "linestyle": "--"},
    {"color": "#2f6fb0", "marker": "o", "linestyle": "-"},
    {"color": "#b02f4f", "marker": "o", "linestyle": "-"},
]
"""How each kind of lengths is drawn, in the order of the scores."""

OVER_CLIPS = {
    "psnr": "PSNR, dB (higher is better)",
    "perceptual": "perceptual distance (lower is better)",
    "motion": "motion explained (higher is better)",
}
FRECHET = {
    "records": "Fréchet, reconstructions (lower is better)",
    "generator_records": "Fréchet, generated clips (lower is better)",
}


def draw(scores: list, path: Path) -> None:
    """scores: `fixed_against_adaptive.KindScores`. Bars are intervals over clips; of Fréchet distances dots are
    seeds."""
    kinds = list(dict.fromkeys(score.kind for score in scores))
    figure = Figure(figsize=(22, 4.4), layout="constrained")
    axes = figure.subplots(1, len(OVER_CLIPS) + len(FRECHET))
    for kind, marks in zip(kinds, MARKS):
        mine = sorted((score for score in scores if score.kind == kind), key=lambda score: score.training)
        times = [score.training for score in mine]
        label = f"{kind} ({mean(score.tokens for score in mine):.0f} a clip)"
        for axis, name in zip(axes, OVER_CLIPS):
            defined = [score for score in mine if score.values[name]]  # nothing may move
            found = [score.values[name] for score in defined]
            reach = [[each.value - each.low for each in found], [each.high - each.value for each in found]]
            at = [score.training for score in defined]
            axis.errorbar(at, [each.value for each in found], yerr=reach, capsize=3, label=label, **marks)
        for axis, name in zip(axes[len(OVER_CLIPS) :], FRECHET):
            by_time = [[record.score.value for record in getattr(score, name) or []] for score in mine]
            if any(by_time):
                axis.plot(times, [mean(each) for each in by_time], label=label, **marks)
                for time, each in zip(times, by_time):
                    axis.plot([time] * len(each), each, ".", color=marks["color"], alpha=0.5)
    for axis, label in zip(axes, (*OVER_CLIPS.values(), *FRECHET.values())):
        axis.set(xlabel="training time, × the config's steps", ylabel=label)
        axis.set_xticks(sorted({score.training for score in scores}))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, dpi=110)
