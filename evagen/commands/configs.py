"""The tables of shipped configs: which command each is for, the size of its model, what it should reach; and what each
training sees and costs.

A config begins with comment lines: what it is, its command, the figure it should reach, the hardware for it. The tables
are made from these, from the settings, and from the models themselves, built without memory for weights.
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from torch import nn

from evagen.ar_model import VideoGenerator
from evagen.commands import COMMANDS
from evagen.config import Header, read_header, shipped_configs
from evagen.tokenizer import BlockRouter, Router, VideoTokenizer
from evagen.training.operations import (
    TRAINED,
    generator_forward,
    objective_of_clip,
    router_forward,
    tokenizer_forward,
)
from evagen.training.shipped_models import build_model, folder_of, read_shipped, tokenizer_of

H100_TFLOPS = 989
"""Of an H100 (SXM) a second, dense products in bf16: the peak that its maker states."""
UTILISATION = 0.4
"""The share of it that a training is assumed to reach. Not measured: none of these trainings has been run on one."""

FOOTNOTE = f"""\
clips a step: batch × accumulation × the GPUs of the config's `# hardware:` line; one process where it names none.
tokens: of whole sequences, length tokens too. A router's lengths count as their published mean; where there is none,
and where lengths are drawn at random, as the mean over all assignments.
TFLOP a clip: of a step of training, forward and backward, with the networks that losses look through.
hours, estimated: TFLOP a clip × clips, at an assumed {UTILISATION:.0%} of {H100_TFLOPS} TFLOP/s (an H100's dense bf16)
on each GPU. An assumption and no measurement. Decoding videos is left out, and small models are far from that share."""


@dataclass(frozen=True)
class Cost:
    """What a training sees and takes.

    clips_per_step: of all processes; clips, tokens: seen in all, tokens by generators only; operations: of one clip in
    a step of training, forward and backward; hours: on the GPUs of the header if they were H100s, each doing
    `UTILISATION` of `H100_TFLOPS`, None where it names none."""

    clips_per_step: float
    clips: float
    tokens: float | None
    operations: float
    hours: float | None


@dataclass(frozen=True)
class ShippedConfig:
    """A line of the tables. parameters: of the model that is trained, None where none is, like cost; clip: frames,
    height and width; header: its comment lines."""

    name: str
    header: Header
    parameters: int | None
    clip: tuple[int, int, int]

    @property
    def cost(self) -> Cost | None:
        return cost_of(self.name)


def list_configs() -> list[ShippedConfig]:
    """Every shipped config, folders with small models first, in each the order in which they can be run."""
    names = sorted(shipped_configs(), key=_place)
    configs = [describe(name) for name in names]
    largest: dict[str, int] = defaultdict(int)
    for config in configs:
        largest[folder_of(config.name)] = max(largest[folder_of(config.name)], config.parameters or 0)
    return sorted(configs, key=lambda config: (largest[folder_of(config.name)], folder_of(config.name)))


def describe(name: str) -> ShippedConfig:
    """One shipped config by name (`ucf101_k600/final`)."""
    model, tokenizer = build_model(name), tokenizer_of(name)
    size, data = tokenizer.config.resolution, read_shipped(name).get("data", {})
    return ShippedConfig(
        name=name,
        header=read_header(shipped_configs()[name]),
        parameters=sum(parameter.numel() for parameter in model.parameters()) if model else None,
        clip=(data.get("frames", tokenizer.config.num_frames), size, size),
    )


@lru_cache
def cost_of(name: str) -> Cost | None:
    """What the training of a shipped config sees, and what it would take; None where nothing is trained."""
    model, header = build_model(name), read_header(shipped_configs()[name])
    if model is None:
        return None
    config: Any = COMMANDS[header.command].load(name)
    optimizer, processes = config.optimizer, header.num_gpus or 1
    tokens = _tokens_of_clip(name, config)
    batch = optimizer.batch_size or optimizer.tokens_per_batch / tokens
    per_step = batch * optimizer.accumulation * processes
    clips = per_step * optimizer.steps
    operations = _operations(model, config, tokens)
    seconds = clips * operations / (processes * UTILISATION * H100_TFLOPS * 1e12)
    return Cost(
        per_step, clips, clips * tokens if isinstance(model, VideoGenerator) else None, operations,
        seconds / 3600 if header.num_gpus else None,
    )  # fmt: skip


def _operations(model: nn.Module, config: Any, tokens: float) -> float:
    if isinstance(model, VideoTokenizer):
        beside = objective_of_clip(config.loss, model, config.optimizer.steps)
        return TRAINED * tokenizer_forward(model, tokens) + beside  # a router's pass is less than 1% of the first
    if isinstance(model, VideoGenerator):
        return TRAINED * generator_forward(model, tokens)
    return TRAINED * router_forward(cast(Router | BlockRouter, model))


def _tokens_of_clip(name: str, config: Any) -> float:
    """Of a clip in a tokenizer's or router's training; of a whole sequence in a generator's."""
    space = tokenizer_of(name).assignments
    if not hasattr(config, "corpus"):
        uniform = getattr(config, "uniform_length", None)
        return uniform * space.num_blocks if uniform else _mean_tokens(name, getattr(config, "router", None))
    source = _written_by(name, str(config.corpus))
    begun = read_shipped(source).get("prefix", []) if read_shipped(source).get("given_frames") else []
    given = sum(begun) + len(begun) + 1 if begun else 0  # their own lengths, and a separator
    blocks = config.blocks or space.num_blocks  # of a window, or of a clip
    contents = _mean_tokens(name, str(config.corpus)) * blocks / space.num_blocks
    return contents + blocks + given + 2  # a class before, an end behind


def _mean_tokens(name: str, source: str | None) -> float:
    """What the config that writes `source`, a router or a corpus, names as its target; or else the mean over all
    assignments."""
    target = read_header(shipped_configs()[_written_by(name, source)]).target if source else ""
    if found := re.search(r"(\d+) tokens a clip", target):
        return int(found[1])
    space = tokenizer_of(name).assignments
    return space.num_blocks * sum(space.levels) / len(space.levels)


def _written_by(name: str, source: str) -> str:
    """The config of the same folder that writes a run folder."""
    return f"{folder_of(name)}/{source.rpartition('/')[2]}"


def format_table(configs: Sequence[ShippedConfig]) -> str:
    """A line for each config, folders apart: what it is for."""
    lines = [("config", "command", "model", "clip", "target")]
    for config in configs:
        model = "" if config.parameters is None else f"{config.parameters / 1e6:.1f}M"
        clip = "×".join(map(str, config.clip))
        lines.append((config.name, config.header.command, model, clip, config.header.target))
    return _aligned(lines, numbers=(2,))


def format_costs(configs: Sequence[ShippedConfig]) -> str:
    """A line for each config that trains, and for each whose hours are published: what it sees and takes."""
    lines = [
        ("training", "steps", "clips a step", "clips seen", "tokens seen", "TFLOP a clip", "hours, estimated",
         "hours, published"),
    ]  # fmt: skip
    for config in configs:
        cost, header = config.cost, config.header
        if cost is None:
            if header.hours:
                lines.append((config.name, "", "", "", "", "", "", header.hours))
            continue
        steps, hours = f"{cost.clips / cost.clips_per_step:,.0f}", ""
        if cost.hours is not None:
            hours = f"{_short(cost.hours)} on {header.num_gpus} H100"
        lines.append(
            (config.name, steps, f"{cost.clips_per_step:,.0f}", _short(cost.clips), _short(cost.tokens),
             _short(cost.operations / 1e12), hours, header.hours)
        )  # fmt: skip
    return _aligned(lines, numbers=range(1, 6))


def _short(number: float | None) -> str:
    """Three digits, in thousands, millions or billions where it is as large."""
    if number is None:
        return ""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{letter}"
    if number < 0.01:
        return "<0.01"
    return f"{number:.2f}" if number < 0.1 else f"{number:.1f}" if number < 10 else f"{number:.0f}"


def _aligned(lines: Sequence[tuple[str, ...]], numbers: Collection[int]) -> str:
    """Lines of cells as columns, a blank line between folders. numbers: columns to be flush right."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    rows = []
    for previous, line in zip([lines[0], *lines], lines):
        if folder_of(line[0]) != folder_of(previous[0]):
            rows.append("")
        cells = (
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        )
        rows.append("  ".join(cells).rstrip())
    return "\n".join(rows)


@lru_cache
def _place(name: str) -> tuple[int, int]:
    """Comes after the configs of its folder that it names or whose results it reads; of several, in the order of the
    commands."""
    text = json.dumps({key: value for key, value in read_shipped(name).items() if key != "run"})
    others = [other for other in shipped_configs() if folder_of(other) == folder_of(name) and other != name]
    read = [
        other for other in others if json.dumps(other) in text or json.dumps(read_shipped(other)["run"]["out"]) in text
    ]
    after = 1 + max((_place(other)[0] for other in read), default=-1)
    return after, list(COMMANDS).index(read_header(shipped_configs()[name]).command)
