"""The command line: `evagen COMMAND …`. Each training command is also a module for `accelerate launch -m`."""

import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from evagen.errors import UserError

app = typer.Typer(
    help="Autoregressive video generation on adaptive-length video tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Make and inspect video data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

ConfigPath = Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped config: quickstart/proxy")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="key=value…", help="optimizer.steps=500 run.seed=1")]

# command, module, its config class, help. Modules are imported only when called: some take seconds.
STAGES = [
    (
        "train-tokenizer",
        "evagen.train_tokenizer",
        "TokenizerTraining",
        "Train a video tokenizer (stages 1 and 4).",
    ),
    ("curate", "evagen.curate", "Curation", "Measure every candidate assignment of every clip (stage 2)."),
    (
        "train-router",
        "evagen.train_router",
        "RouterTraining",
        "Train the router on a curation record (stage 3).",
    ),
    ("tokenize", "evagen.tokenize", "Tokenization", "Turn videos into a token corpus."),
    (
        "train-generator",
        "evagen.train_generator",
        "GeneratorTraining",
        "Train the generator on a token corpus.",
    ),
    ("sample", "evagen.sample", "Sampling", "Write new clips with a trained generator."),
]


def run_stage(module: str, schema: str, config: str, overrides: list[str]) -> Any:
    """Loads a config and runs the stage; the last line printed is where its results are."""
    from evagen.config import load_config

    stage = importlib.import_module(module)
    result = stage.main(load_config(getattr(stage, schema), config, overrides))
    print(result)
    return result


def stage_main(module: str) -> None:
    """What `accelerate launch -m evagen.<stage> CONFIG [key=value …]` runs."""
    name, _, schema, _ = next(stage for stage in STAGES if stage[1] == module)
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(f"usage: accelerate launch -m {module} CONFIG [key=value …]     (or: evagen {name} CONFIG …)")
    with explained_errors():
        run_stage(module, schema, sys.argv[1], sys.argv[2:])


class explained_errors:
    """Prints a UserError as one message without a traceback, and exits with status 2."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)


def _add_stage(name: str, module: str, schema: str, description: str) -> None:
    def command(config: ConfigPath, overrides: Overrides = None) -> None:
        run_stage(module, schema, config, overrides or [])

    app.command(name, help=description)(command)


for _stage in STAGES:
    _add_stage(*_stage)


@data_app.command()
def arcade(
    out: Annotated[Path, typer.Option(help="Folder for the data set, in the UCF-101 layout")],
    games: Annotated[str, typer.Option(help="How many games, or their names: 8, or pong,breakout")] = "8",
    clips_per_game: Annotated[int, typer.Option(help="Video files for each game")] = 200,
    frames: Annotated[int, typer.Option(help="Frames in each file")] = 16,
    size: Annotated[int | None, typer.Option(help="Short side in pixels; the console's own 160 if not given")] = None,
    seed: int = 0,
    test_fraction: Annotated[float, typer.Option(help="Share of the play-throughs in the test list")] = 0.25,
    frame_skip: Annotated[int, typer.Option(help="Console frames for each frame of video")] = 4,
    workers: Annotated[int | None, typer.Option(help="Processes; one on each core if not given")] = None,
) -> None:
    """Record Atari 2600 games as labelled video: real, unlimited, seeded."""
    from evagen.data.arcade import build_arcade

    chosen = int(games) if games.isdigit() else [game.strip() for game in games.split(",")]
    summary = build_arcade(out, chosen, clips_per_game, frames, size, seed, test_fraction, frame_skip, workers)
    for game, reason in summary.left_out.items():
        print(f"left out {game}: {reason}")
    print(
        f"{len(summary.class_names)} classes, {summary.train_clips} training and {summary.test_clips} test clips "
        f"in {summary.out} ({summary.written} written, {summary.kept} already there)"
    )


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for everything it makes")] = Path("runs/quickstart"),
) -> None:
    """The whole road on real video, small: data, tokenizer, router, generator, samples, scores, report."""
    from evagen.quickstart import main

    main(out)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="attention")],
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object on standard output")] = False,
) -> None:
    """Measure speed and memory as ratios, in one run on this machine."""
    from benchmarks import BENCHMARKS, print_table

    if name not in BENCHMARKS:
        raise UserError(f"no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
    with contextlib.redirect_stdout(sys.stderr):
        result = importlib.import_module(f"benchmarks.{name}").run()
    if json_output:
        print(json.dumps(result))
    else:
        print_table(result)


def main() -> None:
    """The console script."""
    with explained_errors():
        app()
