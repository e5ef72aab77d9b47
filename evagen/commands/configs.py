"""The table of shipped configs: which command each is for, the size of its model, what it should reach.

A config begins with comment lines: what it is, its command, the figure it should reach, the hardware for it. The table
is made from these and from the models themselves, built without memory for weights.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from evagen.ar_model import VideoGenerator, shape_of
from evagen.commands import COMMANDS
from evagen.config import Header, read_header, read_values, shipped_configs
from evagen.data.sources import DataConfig
from evagen.tokenizer import Router, VideoTokenizer


@dataclass(frozen=True)
class ShippedConfig:
    """A line of the table. parameters: of the model that is trained, None where none is; clip: frames, height and
    width; header: its comment lines."""

    name: str
    header: Header
    parameters: int | None
    clip: tuple[int, int, int]


def list_configs() -> list[ShippedConfig]:
    """Every shipped config, folders with small models first, in each the order in which they can be run."""
    names = sorted(shipped_configs(), key=_place)
    configs = [describe(name) for name in names]
    largest: dict[str, int] = defaultdict(int)
    for config in configs:
        largest[_folder(config.name)] = max(largest[_folder(config.name)], config.parameters or 0)
    return sorted(configs, key=lambda config: largest[_folder(config.name)])


def describe(name: str) -> ShippedConfig:
    """One shipped config by name (`ucf101_k600/final`)."""
    model, tokenizer = build_model(name), tokenizer_of(name)
    size = tokenizer.config.resolution
    return ShippedConfig(
        name=name,
        header=read_header(shipped_configs()[name]),
        parameters=sum(parameter.numel() for parameter in model.parameters()) if model else None,
        clip=(tokenizer.config.num_frames, size, size),
    )


def build_model(name: str) -> nn.Module | None:
    """The model that a shipped config trains, on the meta device; None for a stage that trains none. The generator has
    no class tokens, which depend on the data."""
    command, tokenizer = read_header(shipped_configs()[name]).command, tokenizer_of(name)
    if command == "train-tokenizer":
        return tokenizer
    config = tokenizer.config
    settings = {**(_read(name).get("model") or {}), "levels": list(config.levels)}
    if command == "train-router":
        shape = {key: config[key] for key in ("num_frames", "resolution", "temporal_patch")}
        return _build(Router, json.dumps(settings | shape))
    if command == "train-generator":
        vocabulary = {"codebook_size": config.codebook_size, "num_blocks": tokenizer.assignments.num_blocks}
        size = settings.pop("size", None)
        settings |= shape_of(size) if size else {}
        return _build(VideoGenerator, json.dumps(settings | vocabulary))
    return None


def tokenizer_of(name: str) -> VideoTokenizer:
    """The tokenizer that a config trains or builds on, on the meta device: what a config reads is what the config of
    that name in its folder writes."""
    values = _read(name)
    if "model" in values and "data" in values:
        data = DataConfig.model_validate(values["data"])
        shape = {"num_frames": data.frames, "resolution": data.size}
        return _build(VideoTokenizer, json.dumps(values["model"] | shape))
    source = next(values[key] for key in ("tokenizer", "record", "corpus") if key in values)
    return tokenizer_of(f"{_folder(name)}/{source.rpartition('/')[2]}")


def format_table(configs: Sequence[ShippedConfig]) -> str:
    """A line for each config, folders apart."""
    lines = [("config", "command", "model", "clip", "target")]
    for config in configs:
        model = "" if config.parameters is None else f"{config.parameters / 1e6:.1f}M"
        header = config.header
        lines.append((config.name, header.command, model, "×".join(map(str, config.clip)), header.target))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    rows = []
    for previous, line in zip([lines[0], *lines], lines):
        if _folder(line[0]) != _folder(previous[0]):
            rows.append("")
        cells = [
            cell.rjust(width) if column == 2 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        ]
        rows.append("  ".join([*cells, line[4]]).rstrip())
    return "\n".join(rows)


@lru_cache
def _build(component: Callable[..., Any], arguments: str) -> Any:
    """Once for configs with the same model. arguments: as JSON."""
    with torch.device("meta"):
        return component(**json.loads(arguments))


@lru_cache
def _read(name: str) -> dict[str, Any]:
    return read_values(shipped_configs()[name])


@lru_cache
def _place(name: str) -> tuple[int, int]:
    """Comes after the configs of its folder whose results it reads; of several, in the order of the commands."""
    texts = json.dumps({key: value for key, value in _read(name).items() if key != "run"})
    others = [other for other in shipped_configs() if _folder(other) == _folder(name) and other != name]
    read = [other for other in others if json.dumps(_read(other)["run"]["out"]) in texts]
    after = 1 + max((_place(other)[0] for other in read), default=-1)
    return after, list(COMMANDS).index(read_header(shipped_configs()[name]).command)


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
