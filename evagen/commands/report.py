"""`evagen report`: a page for any runs."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evagen.commands import COMMANDS, info
from evagen.config import Section, changed, check_config, dotted, read_values
from evagen.errors import UserError
from evagen.report.run_folder import Run, read_run
from evagen.report.runs_page import write_runs_page
from evagen.scoring.config import Benchmark

logger = logging.getLogger(__name__)

CONFIG = "config.yaml"
SAY_LITTLE = ("sample", "study ", "benchmark")
"""Commands of whose folders `evagen info` says nothing that the page does not."""


def main(folders: Sequence[Path], out: Path | None = None, chain: bool = False) -> Path:
    """Writes the page; returns its path. folders: of runs, or of folders of runs; out: if None `report.html` in the
    first of them, or `runs.html` in a folder of runs, where the quickstart has a report of its own; chain: also the
    runs that these were made from. Raises UserError for a folder without runs."""
    found: dict[Path, Path] = {}
    for folder in folders:
        for run in runs_in(folder):
            found.setdefault(run.resolve(), run)
    read = [_read(run) for run in found.values()]
    for run in read if chain else ():
        for source in run.sources.values():
            path = Path(source.rpartition("@")[0] or source)
            if (path / CONFIG).exists() and path.resolve() not in found:
                found[path.resolve()] = path
                read.append(_read(path))
    name = "report.html" if (folders[0] / CONFIG).exists() else "runs.html"
    return write_runs_page(read, out or folders[0] / name)


def runs_in(folder: Path) -> list[Path]:
    """The folder itself if it has a config, or else the runs in it, by name. Raises UserError where there are none."""
    inside = [folder] if (folder / CONFIG).exists() else sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    runs = [each for each in inside if _is_run(each)]
    if not runs:
        there = "it holds no run, which a config.yaml would tell" if folder.is_dir() else "there is no such folder"
        raise UserError(f"no report of {folder}: {there}; give the run.out of any command, or a folder of such")
    return runs


def _is_run(folder: Path) -> bool:
    """Whether a config.yaml is one of ours: other programs have files of this name too, which we need not be able to
    read."""
    try:
        run = read_values(folder / CONFIG).get("run")
    except UserError as error:
        logger.warning("left out: %s", error)
        return False
    return isinstance(run, dict) and "out" in run


def _read(folder: Path) -> Run:
    values = read_values(folder / CONFIG)
    command, schema = _command_of(values)
    try:
        differing = changed(check_config(schema, values, str(folder / CONFIG)))
    except UserError:  # written by another version
        differing = dotted(values)
    facts = {} if command.startswith(SAY_LITTLE) else _facts(folder)
    return read_run(folder, command, values, {key: _text(value) for key, value in differing.items()}, facts)


def _command_of(values: dict[str, Any]) -> tuple[str, type[Section]]:
    """The command whose config has these keys, or most of them."""
    schemas = {name: command.schema_class() for name, command in COMMANDS.items()} | {"benchmark": Benchmark}
    name = min(schemas, key=lambda name: len(set(values) ^ set(schemas[name].model_fields)))
    return name, schemas[name]


def _facts(folder: Path) -> dict[str, str]:
    try:
        facts = dict(info.main(folder))
    except UserError as error:  # damaged
        return {"not readable": str(error)}
    facts.pop("what")
    return facts


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
