"""From real video to new clips, small: data → proxy tokenizer → curation → router → final tokenizer → tokens →
generator → samples → scores → report.

Every stage is the ordinary command with a config of `configs/quickstart/`, which is copied into the run folder
with its paths. Started again, it goes on where it stopped.
"""

import json
import os
import platform
import shlex
import time
from pathlib import Path
from typing import Any

import torch

from evagen.commands import COMMANDS, Command
from evagen.commands.sample_one import clips_of
from evagen.config import find_config, read_header
from evagen.data.arcade import build_arcade
from evagen.data.corpus import read_corpus
from evagen.kernels.sources import IN_THE_BOX, box
from evagen.report.first_look import write_first_look
from evagen.report.measure import measure_quickstart
from evagen.report.page import GeneratedClip, Report, write_report
from evagen.report.stopwatch import StageClock
from evagen.training.generator import new_generator

ARCADE = {
    "games": ["frogger", "frostbite", "skiing", "time_pilot"], "clips_per_game": 320, "size": 64, "seed": 0,
    "test_fraction": 0.1,
}  # fmt: skip


SECONDS_OF_EACH = 15
"""Of a minute that is shown: the four games, one after another."""
FRAMES_PER_SECOND = 15
STAGES = {
    "proxy tokenizer": "proxy", "curation": "curation", "router": "router", "final tokenizer": "final",
    "tokens": "tokens", "generator": "generator", "samples": "sample",
}  # fmt: skip
"""Their names in the report, and the configs of `configs/quickstart/` that they run."""


def main(out: Path) -> Path:
    """Runs what has not finished in `out` yet; returns the path of the report."""
    first_look(out / "first_look.html")
    with StageClock(out, len(STAGES) + 2) as clock:
        clock.run("data", lambda: build_arcade(out / "arcade", **ARCADE), done=(out / "proxy").exists())
        for stage, name in STAGES.items():
            command = _command_of(name)
            config = command.load(_copy_config(name, out))
            started = (config.run.out / "done").exists()
            clock.run(stage, lambda command=command, config=config: command.run(config), done=started)
            (config.run.out / "done").touch()
        report = clock.run("scores", lambda: _measure(out))
    report.summary |= {"total_seconds": clock.total_seconds, "peak_rss_mb": clock.peak_rss_mb, "stages": clock.stages}
    (out / "summary.json").write_text(json.dumps(report.summary, indent=1))
    path = write_report(report, out / "report.html")
    print(f"report: {path.resolve().as_uri()}")
    return path


def first_look(path: Path) -> None:
    """Something to look at while the stages run: clips of the model in the box. Nothing where there is none, and where
    the page is there already."""
    if IN_THE_BOX not in box() or path.exists():
        return
    begun = time.monotonic()
    names, clips, tokens = clips_of(IN_THE_BOX, None, 2, seed=0)
    shown = [GeneratedClip(*each) for each in zip(clips, (each.lengths.tolist() for each in tokens), map(str, names))]
    card = (box()[IN_THE_BOX] / "README.md").read_text()
    write_first_look(path, IN_THE_BOX, shown, time.monotonic() - begun, card)
    print(f"a first look, at a model that was trained before: {path.resolve().as_uri()}")
    print("now the same road, small and live:")


def _command_of(config: str) -> Command:
    return COMMANDS[read_header(find_config(f"quickstart/{config}")).command]


def _copy_config(name: str, out: Path) -> Path:
    """The shipped config with the run folder's paths, written beside the results."""
    path = out / "configs" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(find_config(f"quickstart/{name}").read_text().replace("runs/quickstart", str(out)))
    return path


def _measure(out: Path) -> Report:
    final, generator, sampling = (_load(name, out) for name in ("final", "generator", "sample"))
    torch.manual_seed(generator.run.seed)
    settings = generator.model.model_dump(exclude={"size"})
    untrained = new_generator(
        read_corpus(generator.corpus), settings, generator.class_dropout, generator.use_classes
    ).eval()
    minute = final.data.model_copy(
        update={"root": out / "minute", "frames": SECONDS_OF_EACH * FRAMES_PER_SECOND, "clip": "first"}
    )
    build_arcade(minute.root, ARCADE["games"], 1, minute.frames, ARCADE["size"], ARCADE["seed"] + 1, test_fraction=0)
    report = measure_quickstart(out, final.data, final.preference, sampling, untrained, STAGES, minute)
    report.environment, report.commands = _environment(), _commands(out)
    return report


def _load(name: str, out: Path) -> Any:
    return _command_of(name).load(out / "configs" / f"{name}.yaml")


def _environment() -> dict[str, str]:
    return {
        "Machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "Seed": str(ARCADE["seed"]),
    }


def _commands(out: Path) -> dict[str, str]:
    quoted = shlex.quote(str(out))
    values = {key: ",".join(value) if isinstance(value, list) else value for key, value in ARCADE.items()}
    data = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in values.items())
    commands = {"data": f"evagen data arcade --out {quoted}/arcade {data}"}
    for stage, config in STAGES.items():
        commands[stage] = f"evagen {_command_of(config).name} {quoted}/configs/{config}.yaml"
    return commands
