"""The page of `evagen report`: any runs, how they belong together, and what each has come to so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from evagen import __version__
from evagen.kernels.files import write_whole
from evagen.report import figures
from evagen.report.clips import data_uri, picture_uri, sprite_strip
from evagen.report.findings import format_duration
from evagen.report.page import templates
from evagen.report.run_folder import MOST_FRAMES, Run

WHAT = {
    "train-tokenizer": "Tokenizer training", "curate": "Curation", "train-router": "Router training",
    "tokenize": "Token corpus", "train-generator": "Generator training", "sample": "Samples", "benchmark": "Scores",
}  # fmt: skip
"""By command; the others are studies."""
FRAMES_PER_SECOND = 8
"""Of the clips on the page, slow enough to look at."""


@dataclass(frozen=True)
class Link:
    """Another run that one was made from. key: in its config; name: the other's folder, or what stands in the config;
    number: its place on the page, None where it is not there; remark: whether its weights are still those, where that
    can be told."""

    key: str
    name: str
    number: int | None = None
    remark: str = ""


def write_runs_page(runs: Sequence[Run], path: Path) -> Path:
    """Writes one HTML file that needs no network, and returns its path. runs: at least one, in any order; on the page
    each stands behind those that it was made from."""
    ordered = in_order(runs)
    environment = templates()
    environment.filters["strip"] = partial(sprite_strip, lossless=False)
    clips = [clip for run in ordered for clip in run.clips]
    html = environment.get_template("runs.html").render(
        runs=[
            {
                "run": run,
                "what": what_of(run),
                "state": state_of(run),
                "links": links_of(run, ordered),
                "curves": _curves(run, number),
                "pictures": _pictures(run),
                "video": data_uri(run.video.read_bytes(), "video/mp4") if run.video else None,
            }
            for number, run in enumerate(ordered)
        ],
        version=__version__,
        has_clips=bool(clips),
        most_frames=MOST_FRAMES,
        frames_per_second=FRAMES_PER_SECOND,
        num_blocks_shown=sorted({len(clip.lengths) for clip in clips}),
        longest_block=max((max(clip.lengths) for clip in clips), default=1),
    )
    write_whole(path, html, errors="xmlcharrefreplace")
    return path


def what_of(run: Run) -> str:
    """In words."""
    return WHAT.get(run.command) or run.command.removeprefix("study ").replace("-", " ").capitalize() + ", a study"


def state_of(run: Run) -> str:
    """Finished or not, how far, and how long it takes."""
    progress = run.progress
    took = "" if progress.took is None else f" in {format_duration(progress.took)}"
    if progress.steps is None:
        return "finished" if progress.is_finished else "not finished"
    if progress.is_finished:
        return f"finished: {progress.steps:,} steps{took}"
    left = "" if progress.left is None else f"; at its pace {format_duration(progress.left)} more"
    return f"not finished: {progress.step:,} of {progress.steps:,} steps{took}{left}"


def in_order(runs: Sequence[Run]) -> list[Run]:
    """Each behind those that it was made from, otherwise in the order they had."""
    ordered: list[Run] = []

    def place(run: Run, above: tuple[Run, ...] = ()) -> None:
        if any(run is each for each in (*ordered, *above)):
            return
        for source in run.sources.values():
            for other in runs:
                if other.is_at(source):
                    place(other, (*above, run))
        ordered.append(run)

    for run in runs:
        place(run)
    return ordered


def links_of(run: Run, ordered: Sequence[Run]) -> list[Link]:
    """What a run was made from: what its config names, and the tokenizer by whose tokens it lives."""
    links = []
    for key, source in run.sources.items():
        number = next((i for i, other in enumerate(ordered) if other.is_at(source)), None)
        name, remark = source if number is None else ordered[number].name, ""
        if number is not None and key == "tokenizer" and run.tokens_of and ordered[number].fingerprint:
            same = run.tokens_of == ordered[number].fingerprint
            remark = "the same weights" if same else "other weights by now: it was trained again"
        links.append(Link(key, name, number, remark))
    if run.tokens_of and not any(link.key == "tokenizer" for link in links):
        for number, other in enumerate(ordered):
            if other.fingerprint == run.tokens_of:
                links.append(Link("tokenizer of these tokens", other.name, number, "the same weights"))
    return links


def _curves(run: Run, number: int) -> dict[str, list[tuple[str, Markup]]]:
    """Titles and drawings, those that tell of what is learnt and the others."""
    drawn: dict[str, list[tuple[str, Markup]]] = {"first": [], "further": []}
    for i, curve in enumerate(run.curves):
        svg = Markup(figures.lines(curve.series, f"run{number}curve{i}", percent=curve.percent))
        drawn["first" if curve.is_first else "further"].append((curve.title, svg))
    return drawn


def _pictures(run: Run) -> list[tuple[str, str]]:
    """Captions and pictures; without those that are empty or damaged."""
    shown = []
    for path in run.pictures:
        try:
            picture = Image.open(path).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # whatever Pillow says of such files
            continue
        shown.append((_caption(path), picture_uri(picture, lossless=False)))
    return shown


def _caption(picture: Path) -> str:
    step = picture.stem.removeprefix("step_")
    return f"step {int(step):,}" if step.isdigit() else picture.name
