"""What the report page tells of a run folder, read from the files that the run has left so far."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evagen.data.pictures import FOLDER
from evagen.data.video_reader import VideoError, count_frames, iterate_frames
from evagen.errors import UserError
from evagen.report.logged_times import logged_times
from evagen.report.page import GeneratedClip
from evagen.report.training_facts import batch_of
from evagen.sampling.rows import file_of, finished_rows
from evagen.scoring.record import read_record
from evagen.scoring.table import figures_of
from evagen.training.best import read_best
from evagen.training.metrics import Columns, columns_of, iterate_metrics

SOURCES = ("tokenizer", "router", "record", "corpus", "generator", "proxy", "final", "start_from", "samples")
"""Keys of configs that name other runs."""
MODEL_FILE = "diffusion_pytorch_model*.safetensors*"
LEFT_BY = {
    "train-tokenizer": MODEL_FILE, "curate": "record", "train-router": MODEL_FILE, "tokenize": "table",
    "train-generator": MODEL_FILE, "sample": "manifest.json", "benchmark": "record.json",
    "study quality-cost": "summary.json", "study fixed-against-adaptive": "comparison.json",
    "study long": "summary.json",
}  # fmt: skip
"""By command: what a run folder has when it is finished."""
MOST_POINTS, MOST_PICTURES, MOST_CLIPS, MOST_FRAMES, WIDEST_CLIP = 300, 12, 16, 64, 128
"""What of a run is shown at most: points of a curve, pictures, sampled clips, frames of each and their pixels."""


@dataclass(frozen=True)
class Curve:
    """Lines of one drawing, by name (empty where there is one only): steps and values. percent: whether the values are
    shares of 100; is_first: whether it tells of what is learnt, and not of how."""

    title: str
    series: Mapping[str, tuple[Sequence[int], Sequence[float]]]
    percent: bool = False
    is_first: bool = True


CURVES = (
    ("loss", ("loss", "content_loss", "length_loss")),
    ("held-out loss, nats a token", ("held_out_loss", "held_out_content_loss", "held_out_length_loss")),
    ("terms of the loss", ("l1", "l2", "perceptual", "codebook", "commitment")),
    ("further terms", ("alignment", "adversarial", "discriminator", "lecam")),
    ("held-out PSNR, dB", ("held_out_psnr",)),
    ("held-out motion explained", ("held_out_motion",)),
    ("held-out perceptual distance", ("held_out_perceptual",)),
    ("held-out reward of the best", ("held_out_reward", "held_out_percentile")),
)  # fmt: skip
"""What belongs into one drawing and comes first; everything else that is logged gets one of its own."""
TITLES = {
    "codes used": "share of the codes in use", "length share predicted": "how often each length is predicted",
    "length share true": "how often each length occurs", "tokens per clip": "tokens a clip",
}  # fmt: skip
"""Of drawings that are not named in `CURVES`, where the name in the log says too little."""


@dataclass(frozen=True)
class Progress:
    """How far a run is. step, steps: of a training, done and in all; took, left: seconds up to now and still to come at
    the present pace, None where it is not known."""

    is_finished: bool
    step: int | None = None
    steps: int | None = None
    took: float | None = None
    left: float | None = None


@dataclass(frozen=True)
class Run:
    """A run folder. name: as it was given; command: that made it; values: of its config, as they stand there; changed:
    dotted keys and values that are not the defaults; facts: what it is, in words; fingerprint: of its weights;
    tokens_of: the fingerprint of the tokenizer whose tokens it holds, learns or decodes."""

    path: Path
    name: str
    command: str
    values: Mapping[str, Any]
    changed: Mapping[str, str]
    facts: Mapping[str, str]
    progress: Progress
    curves: Sequence[Curve] = ()
    pictures: Sequence[Path] = ()
    video: Path | None = None
    clips: Sequence[GeneratedClip] = ()
    scores: Mapping[str, str] = field(default_factory=dict)
    best: Mapping[str, Any] | None = None

    @property
    def fingerprint(self) -> str | None:
        return self.facts.get("fingerprint")

    @property
    def tokens_of(self) -> str | None:
        found = self.facts.get("tokenizer_fingerprint") or self.facts.get("tokenizer", "").partition(",")[0]
        return found or None

    @property
    def sources(self) -> dict[str, str]:
        """Other runs that its config names, by key."""
        return sources_in(self.values)

    def is_at(self, source: str) -> bool:
        """Whether a config that names `source` means this run: by its path, or by the path that it had when it ran."""
        run = source.rpartition("@")[0] or source
        own = str((self.values.get("run") or {}).get("out", ""))
        return Path(run) == Path(own) or Path(run).resolve() == self.path.resolve()


def sources_in(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= sources_in(value, f"{prefix}{key}.")
        elif key in SOURCES and isinstance(value, str):
            found[prefix + key] = value
    return found


def read_run(
    path: Path, command: str, values: Mapping[str, Any], changed: Mapping[str, str], facts: Mapping[str, str]
) -> Run:
    """Everything of a run that is in its folder. command, changed, facts: as in `Run`."""
    log = columns_of(iterate_metrics(path) if (path / "metrics.jsonl").exists() else ())
    pictures = sorted((path / FOLDER).glob("*.png"))
    rows: list[dict[str, Any]] = []
    scores: Mapping[str, str] = {}
    try:
        if command == "sample":
            rows = _without_codes(path)
        if command == "benchmark" and (path / "record.json").exists():
            scores = figures_of(read_record(path))
    except UserError as error:  # damaged
        facts = {"not readable": str(error), **facts}
    if rows:
        tokens = sum(row["tokens"] for row in rows) / len(rows)
        facts = {"clips": f"{len(rows)}", "tokens": f"{tokens:.1f} a clip", **facts}
    return Run(
        path, str(path), command, values, changed, facts,
        progress=progress_of(path, command, values, log),
        curves=curves_of(log),
        pictures=_thinned(pictures, MOST_PICTURES) or sorted(path.glob("*.png")),
        video=max((path / FOLDER).glob("*.mp4"), default=None),
        clips=_clips(path, rows),
        scores=scores,
        best=read_best(path),
    )  # fmt: skip


def _without_codes(samples: Path) -> list[dict[str, Any]]:
    """The rows of sampled clips, each once, with the number of their codes instead of these."""
    found = {int(row["number"]): row | {"codes": None, "tokens": len(row["codes"])} for row in finished_rows(samples)}
    return list(found.values())


def progress_of(path: Path, command: str, values: Mapping[str, Any], log: Columns) -> Progress:
    """log: what stands in a training's `metrics.jsonl`."""
    left_something = any(path.glob(LEFT_BY.get(command, "summary.json")))
    steps = (values.get("optimizer") or {}).get("steps")
    if not steps:
        return Progress(left_something)
    step = int(_last(log, "step") or 0)
    took, pace = _times(path)
    rate = _last(log, "clips_per_second")
    if pace is None and rate and values["optimizer"].get("batch_size"):
        pace = batch_of(values, path) / rate
    is_finished = left_something and step >= steps
    return Progress(is_finished, step, steps, took, None if is_finished or pace is None else (steps - step) * pace)


def _times(path: Path) -> tuple[float | None, float | None]:
    """Seconds that a training has taken over all its starts, and seconds of a step in the newest one; from what
    TensorBoard was told, None where that is nothing. The steps before the first that a start has logged count as those
    between the first two."""
    took, pace = 0.0, None
    for file in sorted(path.glob("tracker/events*"), key=lambda each: each.stat().st_mtime):
        seen = logged_times(file)
        if len(seen) > 1:
            first, second, *_ = steps = sorted(seen)
            pace = (seen[steps[-1]] - seen[first]) / (steps[-1] - first)
            took += pace * (steps[-1] - first + min(first, second - first))
    return (took, pace) if pace is not None else (None, None)


def _last(log: Columns, name: str) -> float | None:
    return log[name][1][-1] if name in log else None


def curves_of(log: Columns) -> list[Curve]:
    """A training's log as drawings: first the losses and the held-out scores."""
    names = [name for name in log if name != "step"]
    groups = [(title, [name for name in members if name in names]) for title, members in CURVES]
    known = {name for _, members in groups for name in members}
    rest: dict[str, list[str]] = {}
    for name in names:
        if name not in known:  # `share_4`, `share_16` … in one
            rest.setdefault(re.sub(r"_\d+$", "", name).replace("_", " "), []).append(name)
    return [
        Curve(TITLES.get(title, title), _lines(log, title, members), members == ["codes_used"], title not in rest)
        for title, members in [*groups, *rest.items()]
        if members
    ]


def _lines(log: Columns, title: str, members: Sequence[str]) -> dict[str, tuple[list[int], list[float]]]:
    """The lines of one drawing, by what tells them apart."""
    series = {}
    for name in members:
        label = name.replace("_", " ").removeprefix("held out ").removeprefix(title).strip() or title
        series[label if len(members) > 1 else ""] = _series(log, name, 100 if name == "codes_used" else 1)
    return series


def _series(log: Columns, name: str, factor: float) -> tuple[list[int], list[float]]:
    """Steps and values; of a long log the means of its parts."""
    steps, values = map(np.asarray, log[name])
    points = np.stack([steps, values * factor], axis=1)
    parts = np.array_split(points, min(len(points), MOST_POINTS))
    return [int(part[-1, 0]) for part in parts], [float(part[:, 1].mean()) for part in parts]


def _thinned(pictures: Sequence[Path], most: int) -> list[Path]:
    """At equal distances, the first and the last among them."""
    places = np.linspace(0, len(pictures) - 1, min(len(pictures), most)).round().astype(int)
    return [pictures[place] for place in places]


def _clips(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[GeneratedClip]:
    """Some of each class, small enough for a page; of rows whose files are videos."""
    by_class: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_class.setdefault(row.get("class") or "clips", []).append(row)
    each = max(1, MOST_CLIPS // max(1, len(by_class)))
    clips: list[GeneratedClip] = []
    for name, some in list(by_class.items())[:MOST_CLIPS]:
        for row in some[:each]:
            try:
                clips.append(GeneratedClip(*_beginning(file_of(path, row), row["lengths"]), name))
            except (OSError, VideoError, UserError):  # taken away, a picture, or not of this run
                continue
    return clips


def _beginning(video: Path, lengths: Sequence[int]) -> tuple[np.ndarray, Sequence[int]]:
    """The first frames of a sampled video, uint8 F H W 3, and the lengths of their blocks."""
    frames = np.stack([_small(frame) for frame in islice(iterate_frames(video), MOST_FRAMES)])
    frames_a_block = math.ceil(count_frames(video) / len(lengths))
    return frames, lengths[: math.ceil(len(frames) / frames_a_block)]


def _small(frame: np.ndarray) -> np.ndarray:
    height, width, _ = frame.shape
    if width <= WIDEST_CLIP:
        return frame
    size = (WIDEST_CLIP, round(height * WIDEST_CLIP / width))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
