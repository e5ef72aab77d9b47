"""Adaptive lengths against a tokenizer that was trained for one length (EVATok §4, its fixed-length baseline).

    evagen study fixed-against-adaptive quickstart/fixed_against_adaptive

For each training time and each seed two tokenizers are trained from scratch with equal steps, size and data: one with a
router's lengths, one with the same length for every block. The adaptive one is scored twice: with as many tokens as the
fixed one, and with a share fewer. On the tokens of each tokenizer, of the adaptive one the fewer, a generator is
trained with equal steps of equally many tokens.

Everything else is the ordinary commands, whose run folders lie in `<run.out>/<training>x/seed<seed>/`: stopped, the
same command goes on where it was. Seeds and training times may be run by several processes, a part each
(`seeds=[1]`), and gathered by a last one. Leaves `comparison.json`, `table.md` and `comparison.png`.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import torch
from accelerate import PartialState
from pydantic import Field
from torch import Tensor

from evagen.commands import COMMANDS
from evagen.commands.benchmark import main as benchmark
from evagen.commands.benchmark import read_rows
from evagen.config import ONLY_HOW, Place, Section, find_config, read_header, with_overrides
from evagen.data.clips import ClipDataset
from evagen.data.loader import collate_clips
from evagen.errors import UserError
from evagen.eval import Interval, paired_bootstrap
from evagen.kernels.files import write_whole
from evagen.models.loading import fingerprint, load_model
from evagen.report.comparison_plot import draw
from evagen.run import RunFolder, claim_folder, claim_results
from evagen.scoring.clips import list_fingerprint
from evagen.scoring.config import Benchmark
from evagen.scoring.record import Record, read_record
from evagen.scoring.setup import protocol_of, real_clips
from evagen.scoring.table import markdown
from evagen.scoring.videos import list_videos, without_missing
from evagen.tokenizer import Router

FIXED, MATCHED, FEWER = "fixed length", "adaptive, as many tokens", "adaptive, fewer tokens"
"""The rows of the table. The generators are of the first and the last."""

LOOKED_AT = 512
"""Clips, of all classes in turn, that tell how much the router spends at a preference."""

MEASURES = {"psnr": "PSNR, dB", "perceptual": "perceptual", "motion": "motion explained"}


class Scoring(Section):
    """How everything is scored: values of `evagen benchmark`, beside the models."""

    reconstruction: str = "larp-ucf101-recon"
    """The protocol that tokenizers are scored by."""
    generation: str = "evagen-ucf101-heldout"
    """And generators."""
    settings: dict[str, Any]
    """Further values for both: `data`, `changes`, `detector`, …"""
    generation_settings: dict[str, Any] = Field(default_factory=dict)
    """And for generators alone: `options`, …"""


class Stage(Section):
    """A command's config, as on its command line."""

    config: Place
    """A file or a shipped name."""
    overrides: list[str] = Field(default_factory=list)
    """`key=value` each: `data.root=…`."""


class FixedAgainstAdaptive(Section):
    run: RunFolder
    tokenizer_training: Stage
    """Of `train-tokenizer`, with a router: the adaptive tokenizer."""
    tokenization: Stage
    """Of `tokenize`: the clips that the generators learn from."""
    generator_training: Stage
    """Of `train-generator`, in batches of equally many tokens, which makes the compute equal."""
    fixed_length: int = Field(ge=1)
    """Tokens of every block of the fixed tokenizer."""
    fewer: float = Field(0.244, gt=0, lt=1)
    """Share of the fixed tokenizer's tokens that the adaptive one does without; 24.4% is the paper's gain."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], ONLY_HOW] = Field([0, 1, 2], min_length=1)
    """Of the repetitions: a seed is that of every training in one of them."""
    trainings: Annotated[list[Annotated[float, Field(gt=0)]], ONLY_HOW] = Field([1.0, 2.0], min_length=1)
    """Training times, as multiples of the configs' steps."""
    scoring: Scoring


@dataclass(frozen=True)
class KindScores:
    """One kind of lengths after one training time. By seed: generator_records, None where the kind has no generator.
    Over seeds and clips: tokens, and per measure the mean, its interval, and the gain over the fixed tokenizer with
    its interval, over clips, of the mean over seeds."""

    kind: str
    training: float
    records: list[Record]
    generator_records: list[Record] | None
    values: dict[str, Interval | None]
    gains: dict[str, Interval | None]

    @property
    def tokens(self) -> float:
        return mean(record.tokens.tokens_per_clip for record in self.records if record.tokens)


def main(config: FixedAgainstAdaptive) -> Path:
    """Trains and scores what is not there yet, and compares; returns the run folder."""
    claim_folder(config, config.run.out)
    base = _load("train-tokenizer", config.tokenizer_training)
    check(config, base)
    stages = {
        "train-tokenizer": config.tokenizer_training, "tokenize": config.tokenization,
        "train-generator": config.generator_training,
    }  # fmt: skip
    for command, stage in stages.items():  # all cells are of the same configs, whenever they are run
        claim_folder(_load(command, stage), config.run.out / "stages" / command)
    _claim_parts(config, base)
    preferences = find_preferences(config, base.router)
    scores, number, parts = [], 0, len(config.trainings) * len(config.seeds)
    for training in config.trainings:
        cells = {}
        for seed in config.seeds:
            number += 1
            print(f"part {number} of {parts}: {training:g} times the steps, seed {seed}", file=sys.stderr)
            cells[seed] = _run_cell(config, base, training, seed, preferences)
        scores += _gather(training, cells)
    write_whole(config.run.out / "table.md", table(scores) + "\n")
    write_whole(config.run.out / "comparison.json", json.dumps(_as_values(config, preferences, scores), indent=1))
    draw(scores, config.run.out / "comparison.png")
    print(table(scores))
    return config.run.out


def check(config: FixedAgainstAdaptive, base: Any) -> None:
    """Raises UserError for configs that do not make a fair comparison."""
    if not base.router:
        raise UserError(f"{config.tokenizer_training.config} has no router: give the config of an adaptive tokenizer")
    optimizer = _load("train-generator", config.generator_training).optimizer
    if optimizer.tokens_per_batch is None:
        raise UserError(
            f"{config.generator_training.config} has batches of {optimizer.batch_size} clips, which are more tokens "
            "where clips are longer; for equal compute give generator_training.overrides=[optimizer.batch_size=null, "
            "optimizer.tokens_per_batch=…]"
        )


def _claim_parts(config: FixedAgainstAdaptive, base: Any) -> None:
    """Raises UserError where parts of the study are of other clips than there are now, or of another router, which
    would choose other preferences. Scores that could not be computed after the trainings are refused here too."""
    made_from = {
        "trained videos": ClipDataset(base.data).fingerprint(),
        "tokenized videos": ClipDataset(_load("tokenize", config.tokenization).data).fingerprint(),
        "router": fingerprint(load_model(Router, base.router)),
    }
    for name in (config.scoring.reconstruction, config.scoring.generation):
        asked = _benchmark(config, name, config.run.out)
        protocol, _ = protocol_of(asked)
        videos = list_videos(protocol, asked.data)
        protocol = without_missing(protocol, videos, asked.accept_incomplete)
        made_from[f"clips of {name}"] = list_fingerprint(real_clips(protocol, videos))
    claim_results(config.run.out / "stages", made_from)


def find_preferences(config: FixedAgainstAdaptive, router_source: str) -> dict[str, float]:
    """Which preference of the router spends as many tokens as the fixed tokenizer, or the share fewer, at most, over
    clips of the tokens' config: found there, so that the scored clips have no part in it. Raises UserError for a
    budget that the router does not keep at any preference."""
    router = load_model(Router, router_source, PartialState().device)
    data = _load("tokenize", config.tokenization).data
    dataset = ClipDataset(data.model_copy(update={"limit": min(data.limit or LOOKED_AT, LOOKED_AT)}))
    some = range(0, len(dataset), -(-len(dataset) // LOOKED_AT))  # a video may have hundreds of clips
    clips = collate_clips([dataset[key] for key in some]).video
    batches = [batch.to(router.device) for batch in clips.split(32)]
    full = config.fixed_length * router.assignments.num_blocks
    found = {}
    for kind, budget in ((MATCHED, full), (FEWER, full * (1 - config.fewer))):
        try:
            assigned = router.assign_video(batches, budget)
        except ValueError as error:
            raise UserError(f"fixed_length={config.fixed_length} and the router at {router_source}: {error}") from error
        if assigned.max_tokens is not None:
            raise UserError(
                f"the router at {router_source} spends more than {budget:g} tokens a clip at its lowest preference; "
                "give a larger fixed_length"
            )
        found[kind] = round(assigned.preference, 6)
    return found


Cell = dict[str, tuple[Path, Path | None]]
"""Of each kind of lengths the run folders of its scores: of the tokenizer, and of the generator where it has one."""


def _run_cell(
    config: FixedAgainstAdaptive, base: Any, training: float, seed: int, preferences: dict[str, float]
) -> Cell:
    """All of one training time and one seed: both tokenizers, their scores, both generators and their scores."""
    out = config.run.out / f"{training:g}x" / f"seed{seed}"
    length = config.fixed_length
    uniform = ["router=null", f"uniform_length={length}"]
    steps = round(training * base.optimizer.steps)
    cell: Cell = {}
    for name, kinds, lengths in (
        ("fixed", {FIXED: uniform}, [*uniform, "random_share=0", f"model.levels=[{length}]"]),
        ("adaptive", {kind: [f"router={base.router}", f"preference={preferences[kind]}"] for kind in preferences}, []),
    ):
        tokenizer = out / name / "tokenizer"
        changes = [*lengths, f"run.out={tokenizer}", f"run.seed={seed}", f"optimizer.steps={steps}"]
        _run("train-tokenizer", config.tokenizer_training, changes)
        for kind, how in kinds.items():
            generator = None
            folder = out / name / kind.split(", ")[-1].replace(" ", "-")
            scored = _score(config, config.scoring.reconstruction, folder / "reconstruction", kind, [
                f"tokenizer={tokenizer}", *how,
            ])  # fmt: skip
            if kind != MATCHED:
                generator = _generator(config, folder, kind, training, seed, tokenizer, how)
            cell[kind] = (scored, generator)
    return cell


def _generator(
    config: FixedAgainstAdaptive, folder: Path, kind: str, training: float, seed: int, tokenizer: Path, how: list[str]
) -> Path:
    """Tokens, a generator on them, and its score: the run folder of that."""
    tokens, generator = folder / "tokens", folder / "generator"
    _run("tokenize", config.tokenization, [*how, f"tokenizer={tokenizer}", f"run.out={tokens}"])
    steps = round(training * _load("train-generator", config.generator_training).optimizer.steps)
    changes = [f"corpus={tokens}", f"run.out={generator}", f"run.seed={seed}", f"optimizer.steps={steps}"]
    _run("train-generator", config.generator_training, changes)
    models = [f"tokenizer={tokenizer}", f"generator={generator}", f"run.seed={seed}"]
    return _score(config, config.scoring.generation, folder / "generation", kind, models)


def _run(command: str, stage: Stage, changes: list[str]) -> None:
    """As `evagen COMMAND CONFIG key=value …` runs it."""
    COMMANDS[command].run(_load(command, stage, changes))


def _load(command: str, stage: Stage, changes: Sequence[str] = ()) -> Any:
    """Raises UserError where the config is of another command, and as `load_config` does."""
    header = read_header(find_config(stage.config))
    if header.command not in ("", command):
        raise UserError(f"{stage.config} is a config of {header.command}; one of {command} is needed here")
    return COMMANDS[command].load(stage.config, [*stage.overrides, *changes])


def _score(config: FixedAgainstAdaptive, protocol: str, out: Path, kind: str, models: list[str]) -> Path:
    """By `evagen benchmark`, unless it is scored already."""
    if not (out / "record.json").exists():
        benchmark(_benchmark(config, protocol, out, [*models, f"label={kind}"]))
    return out


def _benchmark(config: FixedAgainstAdaptive, protocol: str, out: Path, overrides: Sequence[str] = ()) -> Benchmark:
    settings = dict(config.scoring.settings)
    if protocol == config.scoring.generation:
        settings.pop("compare", None)  # of reconstructions alone
        settings |= config.scoring.generation_settings
    return with_overrides(
        Benchmark, {"protocol": protocol, **settings}, [*overrides, f"run.out={out}"], "scoring.settings"
    )


def _gather(training: float, cells: dict[int, Cell]) -> list[KindScores]:
    """The scores of all kinds after one training time, over all seeds."""
    columns = {kind: _columns([cell[kind][0] for cell in cells.values()]) for kind in (FIXED, MATCHED, FEWER)}
    found = []
    for kind in (FIXED, MATCHED, FEWER):
        folders = [cell[kind] for cell in cells.values()]
        generated = [read_record(folder) for _, folder in folders if folder]
        values = _intervals(columns[kind])
        gains = _intervals(columns[kind], columns[FIXED])
        records = [read_record(folder) for folder, _ in folders]
        found.append(KindScores(kind, training, records, generated or None, values, gains))
    return found


def _columns(folders: list[Path]) -> dict[str, Tensor]:
    """Scored clips of several seeds, by column: float64 (seeds, clips)."""
    names = ("psnr", "perceptual", "moving_error", "still_error")
    tables = [read_rows(folder, read_record(folder).generated_clips) for folder in folders]
    return {name: torch.stack([torch.as_tensor(rows[name][:]).double() for rows in tables]) for name in names}


def _motion(columns: dict[str, Tensor]) -> Tensor:
    return (1 - columns["moving_error"].sum(1) / columns["still_error"].sum(1)).mean()


OVER_CLIPS = {
    "psnr": lambda columns: columns["psnr"].mean(),
    "perceptual": lambda columns: columns["perceptual"].mean(),
    "motion": _motion,
}
"""From the columns of some clips, (seeds, clips) each, to a measure: its mean over seeds."""


def _intervals(scored: dict[str, Tensor], against: dict[str, Tensor] | None = None) -> dict[str, Interval | None]:
    """Of each measure, or of what it gains; None where it is not defined: motion explained where nothing moves."""
    found = {name: paired_bootstrap(measure, scored, against) for name, measure in OVER_CLIPS.items()}
    return {name: None if isnan(each.value) else each for name, each in found.items()}


def table(scores: list[KindScores]) -> str:
    """In markdown: means over seeds; in brackets intervals over clips, and for Fréchet distances the least and the
    largest of the seeds."""
    heads = [
        "training", "lengths", "tokens a clip", *MEASURES.values(), "Fréchet of reconstructions",
        "Fréchet of generated clips", "their change from frame to frame, of the real",
    ]  # fmt: skip
    rows = []
    for score in scores:
        digits = {"psnr": 2, "perceptual": 3, "motion": 3}
        cells = [_with_range(score.values[name], digits[name]) for name in MEASURES]
        cells.append(_spread([record.score.value for record in score.records]))
        generated = score.generator_records
        cells.append(_spread([record.score.value for record in generated]) if generated else "")
        cells.append(_spread(movement(generated), 2) if generated else "")
        rows.append([f"{score.training:g}×", score.kind, f"{score.tokens:.1f}", *cells])
        if score.kind != FIXED:
            gains = [_with_range(score.gains[name], digits[name], sign=True) for name in MEASURES]
            rows.append(["", "– gain over fixed", "", *gains, "", "", ""])
    return markdown(heads, rows)


def movement(generated: list[Record]) -> list[float]:
    """Change from frame to frame of generated clips as a share of the real ones', by seed."""
    moves = [record.movement for record in generated if record.movement]
    return [each.frame_change / each.real_frame_change for each in moves if each.real_frame_change]


def _with_range(found: Interval | None, digits: int, sign: bool = False) -> str:
    if found is None:
        return "–"
    shown = f"+.{digits}f" if sign else f".{digits}f"
    return f"{found.value:{shown}} [{found.low:{shown}}, {found.high:{shown}}]"


def _spread(values: list[float], digits: int = 1) -> str:
    if not values:
        return "–"
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _as_values(config: FixedAgainstAdaptive, preferences: dict[str, float], scores: list[KindScores]) -> dict[str, Any]:
    return {
        "seeds": config.seeds,
        "preferences": preferences,
        "scores": [
            {
                "training": score.training,
                "lengths": score.kind,
                "tokens": score.tokens,
                "values": {name: found and asdict(found) for name, found in score.values.items()},
                "gains": {name: found and asdict(found) for name, found in score.gains.items()},
                "frechet": [record.score.value for record in score.records],
                "generated_frechet": [record.score.value for record in score.generator_records or []],
                "generated_movement": movement(score.generator_records or []),
            }
            for score in scores
        ],
    }
