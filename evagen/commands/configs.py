"""The table of shipped configs: which command each is for, the size of its model, what it should reach.

A config begins with comment lines: what it is, its command, the figure it should reach, the hardware for it. The table
is made from these and from the models themselves, built without memory for weights.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from evagen.commands import COMMANDS
from evagen.config import Header, read_header, shipped_configs
from evagen.training.shipped_models import build_model, folder_of, read_shipped, tokenizer_of


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
        largest[folder_of(config.name)] = max(largest[folder_of(config.name)], config.parameters or 0)
    return sorted(configs, key=lambda config: largest[folder_of(config.name)])


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


def format_table(configs: Sequence[ShippedConfig]) -> str:
    """A line for each config, folders apart."""
    lines = [("config", "command", "model", "clip", "hours, as published", "target")]
    for config in configs:
        model = "" if config.parameters is None else f"{config.parameters / 1e6:.1f}M"
        header = config.header
        clip = "×".join(map(str, config.clip))
        lines.append((config.name, header.command, model, clip, header.hours, header.target))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    rows = []
    for previous, line in zip([lines[0], *lines], lines):
        if folder_of(line[0]) != folder_of(previous[0]):
            rows.append("")
        cells = [
            cell.rjust(width) if column == 2 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        ]
        rows.append("  ".join([*cells, line[5]]).rstrip())
    return "\n".join(rows)


@lru_cache
def _place(name: str) -> tuple[int, int]:
    """Comes after the configs of its folder whose results it reads; of several, in the order of the commands."""
    texts = json.dumps({key: value for key, value in read_shipped(name).items() if key != "run"})
    others = [other for other in shipped_configs() if folder_of(other) == folder_of(name) and other != name]
    read = [other for other in others if json.dumps(read_shipped(other)["run"]["out"]) in texts]
    after = 1 + max((_place(other)[0] for other in read), default=-1)
    return after, list(COMMANDS).index(read_header(shipped_configs()[name]).command)
