"""The commands that take a YAML config, in the order in which a project runs them. This is the one list of them: the
command line, the quickstart and `evagen configs` read it. A shipped config says its command in a comment line."""

import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evagen.config import Section, find_config, load_config, read_header, shipped_configs, unknown_key
from evagen.errors import UserError
from evagen.kernels.folder_lock import locks_end
from evagen.kernels.names import as_argument

KEYS = Path(__file__).parent / "keys.json"
"""The keys of each command's config; `make docs` writes it."""


@dataclass(frozen=True)
class Command:
    """name: as typed; module: its file in this folder, with `main(config)`; schema: the config's class in it; help: a
    line for people; then: what can be done with its results, which lie in `{out}`. The module is imported when it is
    needed: some take seconds."""

    name: str
    module: str
    schema: str
    help: str
    then: str = ""

    def schema_class(self) -> type[Section]:
        return getattr(self._imported(), self.schema)

    def load(self, config: str | Path, overrides: Sequence[str] = ()) -> Section:
        """The checked config. Raises UserError as `load_config` does."""
        self.check_names(config, overrides)
        return load_config(self.schema_class(), config, overrides)

    def check_names(self, config: str | Path, overrides: Sequence[str]) -> None:
        """Tells a wrong name of a config or of an overridden key at once, before imports that take seconds, and a
        shipped config of another command. Raises UserError."""
        path = find_config(config)
        if path in shipped_configs().values() and (its := read_header(path).command) != self.name:
            raise UserError(f"{config} is for `evagen {its}`; {self._shipped()}")
        known = json.loads(KEYS.read_bytes())[self.name]
        for override in overrides:
            key = override.partition("=")[0]
            above = [key.rsplit(".", depth)[0] for depth in range(1, key.count(".") + 1)]
            if key not in known and not any(each in known and f"{each}." not in " ".join(known) for each in above):
                raise UserError(f"override {override!r}: {unknown_key(key, known)}")

    def _shipped(self) -> str:
        names = [name for name, path in shipped_configs().items() if read_header(path).command == self.name]
        return f"for `evagen {self.name}` there are {', '.join(names)}"

    def run(self, config: Section) -> Any:
        """Does the work; returns where the results are."""
        with locks_end():
            return self._imported().main(config)

    def from_command_line(self, config: str, overrides: Sequence[str], dry_run: bool = False) -> None:
        """Runs it, or what `--dry-run` makes of it. The last line that it prints is where the results are; what can be
        done with them goes to standard error."""
        if dry_run:
            print(importlib.import_module("evagen.commands.dry_run").main(self, config, overrides))
            return
        out = self.run(self.load(config, overrides))
        print(out)
        if self.then:
            print(f"next: {self.then.format(out=as_argument(out))}", file=sys.stderr)

    def _imported(self) -> Any:
        return importlib.import_module(f"evagen.commands.{self.module}")


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "train-tokenizer", "train_tokenizer", "TokenizerTraining", "Train a video tokenizer (stages 1 and 4).",
            "evagen curate CONFIG tokenizer={out} (after stage 1), evagen tokenize CONFIG tokenizer={out} (after 4)",
        ),
        Command(
            "curate", "curate", "Curation", "Measure every candidate assignment of every clip (stage 2).",
            "evagen train-router CONFIG record={out}",
        ),
        Command(
            "train-router", "train_router", "RouterTraining", "Train the router on a curation record (stage 3).",
            "evagen train-tokenizer CONFIG router={out}",
        ),
        Command(
            "tokenize", "tokenize", "Tokenization", "Turn videos into a token corpus.",
            "evagen train-generator CONFIG corpus={out}",
        ),
        Command(
            "train-generator", "train_generator", "GeneratorTraining", "Train the generator on a token corpus.",
            "evagen sample CONFIG generator={out} tokenizer=…",
        ),
        Command(
            "sample", "sample", "Sampling", "Write new clips with a trained generator.", "evagen fvd REAL_VIDEOS {out}"
        ),
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
