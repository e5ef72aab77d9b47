"""From real video to new clips, small: data → proxy tokenizer → curation → router → final tokenizer → tokens →
generator → samples → scores → report.

Every stage is the ordinary command with a config of `configs/quickstart/`, or of `configs/quickstart_videos/` for a
folder of one's own videos, which is copied into the run folder with its paths. Started again, it goes on where it
stopped.
"""

import json
import platform
import re
import time
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard

from evagen.commands.roads import Road, arcade_road, command_of, describe_plan, road_of
from evagen.commands.sample_one import clips_of
from evagen.config import find_config
from evagen.data.corpus import read_corpus
from evagen.errors import UserError
from evagen.kernels.files import num_cores, write_whole
from evagen.kernels.names import as_argument, check_utf8
from evagen.kernels.sources import FOR_CLASSES, box
from evagen.report.first_look import write_first_look
from evagen.report.measure import measure_quickstart
from evagen.report.page import GeneratedClip, Report, write_report
from evagen.report.stopwatch import StageClock
from evagen.training.generator import new_generator

STAGES = {
    "proxy tokenizer": "proxy", "curation": "curation", "router": "router", "final tokenizer": "final",
    "tokens": "tokens", "generator": "generator", "samples": "sample",
}  # fmt: skip
"""Their names in the report, and the configs that they run."""


def main(out: Path, videos: Path | None = None) -> Path:
    """Runs what has not finished in `out` yet; returns the path of the report. videos: a folder of one's own, of the
    four games if None. Raises UserError where a stage does, and for an `out` that is not UTF-8."""
    try:
        check_utf8(out)
    except ValueError as error:
        raise UserError(str(error)) from error
    road = arcade_road() if videos is None else road_of(videos)
    if videos is None:
        first_look(out / "first_look.html")
    elif not (out / "summary.json").exists():
        print(describe_plan(videos, out))
    with StageClock(out, len(STAGES) + 2) as clock:
        clock.run("data", lambda: road.prepare(out / road.data), done=(out / "proxy").exists())
        for stage, name in STAGES.items():
            command = command_of(road.configs, name)
            config = command.load(_copy_config(road, name, out))
            started = (config.run.out / "done").exists()
            clock.run(stage, lambda command=command, config=config: command.run(config), done=started)
            (config.run.out / "done").touch()
        report = clock.run("scores", lambda: _measure(road, out))
    report.summary |= {"total_seconds": clock.total_seconds, "peak_rss_mb": clock.peak_rss_mb, "stages": clock.stages}
    write_whole(out / "summary.json", json.dumps(report.summary, indent=1))
    path = write_report(report, out / "report.html")
    print(f"report: {path.resolve().as_uri()}")
    return path


def first_look(path: Path) -> None:
    """Something to look at while the stages run: clips of the model in the box. Nothing where there is none, and where
    the page is there already."""
    if FOR_CLASSES not in box() or path.exists():
        return
    begun = time.monotonic()
    names, clips, tokens = clips_of(FOR_CLASSES, None, 2, seed=0)
    shown = [GeneratedClip(*each) for each in zip(clips, (each.lengths.tolist() for each in tokens), map(str, names))]
    card = ModelCard.load(box()[FOR_CLASSES] / "README.md").text.strip()  # without what is for machines
    write_first_look(path, FOR_CLASSES, shown, time.monotonic() - begun, card)
    print(f"a first look, at a model that was trained before: {path.resolve().as_uri()}")
    print("now the same road, small and live:")


def _copy_config(road: Road, name: str, out: Path) -> Path:
    """The shipped config with the run folder's paths, written beside the results."""
    path = out / "configs" / f"{name}.yaml"
    shipped = find_config(f"{road.configs}/{name}").read_text(encoding="utf-8")
    ours = json.dumps(str(out), ensure_ascii=False)[1:-1]  # what JSON puts between quotes, YAML reads as it is
    write_whole(path, re.sub(rf"runs/{road.configs}([\w/]*)", lambda found: f'"{ours}{found[1]}"', shipped))
    return path


def _measure(road: Road, out: Path) -> Report:
    final, generator, sampling = (_load(road, name, out) for name in ("final", "generator", "sample"))
    torch.manual_seed(generator.run.seed)
    settings = generator.model.model_dump(exclude={"size"})
    untrained = new_generator(
        read_corpus(generator.corpus), settings, generator.class_dropout, generator.use_classes
    ).eval()
    minute = road.minute(out, final.data)
    report = measure_quickstart(out, road.title, final.data, final.preference, sampling, untrained, STAGES, minute)
    report.environment, report.commands = _environment(final.run.seed), _commands(road, out)
    return report


def _load(road: Road, name: str, out: Path) -> Any:
    return command_of(road.configs, name).load(out / "configs" / f"{name}.yaml")


def _environment(seed: int) -> dict[str, str]:
    return {
        "Machine": f"{num_cores()} cores, {platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "Seed": str(seed),
    }


def _commands(road: Road, out: Path) -> dict[str, str]:
    commands = {"data": road.typed(out / road.data)}
    for stage, config in STAGES.items():
        commands[stage] = f"evagen {command_of(road.configs, config).name} {as_argument(out)}/configs/{config}.yaml"
    return commands
