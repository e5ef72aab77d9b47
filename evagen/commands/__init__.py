"""The commands that take a YAML config, in the order in which a project runs them. This is the one list of them: the
command line, the quickstart and `evagen configs` read it. A shipped config says its command in a comment line."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evagen.config import Section, find_config, load_config


@dataclass(frozen=True)
class Command:
    """name: as typed; module: its file in this folder, with `main(config)`; schema: the config's class in it; help: a
    line for people. The module is imported when it is needed: some take seconds."""

    name: str
    module: str
    schema: str
    help: str

    def schema_class(self) -> type[Section]:
        return getattr(self._imported(), self.schema)

    def load(self, config: str | Path, overrides: Sequence[str] = ()) -> Section:
        """The checked config. Raises UserError as `load_config` does."""
        find_config(config)  # a wrong name is told at once, before imports that take seconds
        return load_config(self.schema_class(), config, overrides)

    def run(self, config: Section) -> Any:
        """Does the work; returns where the results are."""
        return self._imported().main(config)

    def _imported(self) -> Any:
        return importlib.import_module(f"evagen.commands.{self.module}")


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "train-tokenizer", "train_tokenizer", "TokenizerTraining", "Train a video tokenizer (stages 1 and 4)."
        ),
        Command("curate", "curate", "Curation", "Measure every candidate assignment of every clip (stage 2)."),
        Command("train-router", "train_router", "RouterTraining", "Train the router on a curation record (stage 3)."),
        Command("tokenize", "tokenize", "Tokenization", "Turn videos into a token corpus."),
        Command("train-generator", "train_generator", "GeneratorTraining", "Train the generator on a token corpus."),
        Command("sample", "sample", "Sampling", "Write new clips with a trained generator."),
        Command(
            "study quality-cost", "quality_cost", "QualityCost",
            "What quality costs in tokens: uniform, threshold, max reward and router; proxy against final tokenizer.",
        ),
        Command(
            "study fixed-against-adaptive", "fixed_against_adaptive", "FixedAgainstAdaptive",
            "Tokenizers and generators of one length against adaptive ones, over training times and seeds.",
        ),
        Command(
            "study long", "long_videos", "LongVideos",
            "What a memory saves on long videos, against independent clips and uniform lengths.",
        ),
    )
}  # fmt: skip
