"""The command line: what `evagen COMMAND …` takes. The work is done in `evagen.commands` and the rooms below it."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from evagen.bench import BENCHMARKS, as_tables, run_benchmark
from evagen.commands import COMMANDS, Command, cli_models, cli_video, examples
from evagen.commands.cli_errors import explained_errors, refuse_empty
from evagen.demo.command import demo
from evagen.errors import UserError
from evagen.kernels.surroundings import keep_freed_memory, prepare_surroundings, whole_output
from evagen.kernels.words import counted

app = typer.Typer(
    help="Autoregressive video generation on adaptive-length video tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def print_version(asked: bool) -> None:
    if asked:
        from evagen import __version__

        print(f"evagen {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version, and end")
    ] = False,
) -> None:
    pass  # what comes before every command; the help is the program's


data_app = typer.Typer(help="Make and inspect video data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")
study_app = typer.Typer(help="Comparisons over trained models, with CSV and plot.", no_args_is_help=True)
app.add_typer(study_app, name="study")
export_app = typer.Typer(help="Trained models in other programs' formats.", no_args_is_help=True)
app.add_typer(export_app, name="export")
import_app = typer.Typer(help="Models from other programs' formats.", no_args_is_help=True)
app.add_typer(import_app, name="import")

ConfigPath = Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped config: quickstart/proxy")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="key=value…", help="optimizer.steps=500 run.seed=1")]


DryRun = Annotated[bool, typer.Option("--dry-run", help="Try a shipped config at full size, for two steps or one clip")]


def _add(command: Command) -> None:
    """A command of `evagen.commands.COMMANDS`."""
    group, _, name = command.name.rpartition(" ")

    def run(config: ConfigPath, overrides: Overrides = None, dry_run: DryRun = False) -> None:
        command.from_command_line(config, overrides or [], dry_run)

    def study(config: ConfigPath, overrides: Overrides = None) -> None:
        command.from_command_line(config, overrides or [])

    parent, function = (study_app, study) if group == "study" else (app, run)
    parent.command(name, help=command.help)(function)


for _command in COMMANDS.values():
    if _command.name != "sample":  # which needs no config
        _add(_command)
for _without_config in (cli_video.sample, cli_video.encode, cli_video.decode, cli_video.reconstruct, demo):
    app.command()(_without_config)
export_app.command("pipeline")(cli_models.export_pipeline)
app.command()(cli_models.push)


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
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one on each core if not given")] = None,
) -> None:
    """Record Atari 2600 games as labelled video: real, unlimited, seeded."""
    from evagen.data.arcade import build_arcade

    chosen = int(games) if games.isdecimal() else [game.strip() for game in games.split(",")]
    summary = build_arcade(out, chosen, clips_per_game, frames, size, seed, test_fraction, frame_skip, workers)
    for game, reason in summary.left_out.items():
        print(f"left out {game}: {reason}")
    print(
        f"{counted(len(summary.class_names), 'class', 'classes')}, "
        f"{summary.train_clips} training and {summary.test_clips} test clips "
        f"in {summary.out} ({summary.written} written, {summary.kept} already there)"
    )


@data_app.command()
def natural(
    out: Annotated[Path, typer.Option(help="Folder for the data set, in the UCF-101 layout")],
    clips: Annotated[int, typer.Option(help="Video files for training")] = 4000,
    test_clips: Annotated[int, typer.Option(help="Video files of pictures and videos that training never sees")] = 128,
    frames: Annotated[int, typer.Option(help="Frames in each file")] = 16,
    size: Annotated[int, typer.Option(help="Height and width in pixels")] = 128,
    seed: int = 0,
    clones: Annotated[Path, typer.Option(help="Folder with clones of the repositories among the sources")] = Path(
        "clones"
    ),
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one on each core if not given")] = None,
) -> None:
    """Cut clips from free videos, and from photographs under a moving camera, that packages ship."""
    from evagen.data.natural import build_natural, describe

    print(describe(build_natural(out, clips, test_clips, frames, size, seed, clones, workers)))


@data_app.command()
def cut(
    root: Annotated[Path, typer.Argument(help="Folder with videos; subfolders become classes")],
    out: Annotated[Path, typer.Option(help="Folder for the data set, in the UCF-101 layout")],
    frames: Annotated[int, typer.Option(help="Frames in each clip")] = 16,
    size: Annotated[int, typer.Option(help="Height and width in pixels")] = 128,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one on each core if not given")] = None,
) -> None:
    """Cut videos of one's own into all their clips, small and square, a part of them held out."""
    from evagen.data.cut import cut_videos

    print(cut_videos(root, out, frames, size, workers).describe())


@data_app.command("scan")
def data_scan(
    root: Annotated[Path, typer.Argument(help="The folder of a data set, or its name on the hub")],
    layout: Annotated[str | None, typer.Option(help="ucf101, kinetics, folder or huggingface; guessed if none")] = None,
    csv: Annotated[Path | None, typer.Option(help="Kinetics' lists, where they are not in ROOT")] = None,
    video_column: Annotated[str | None, typer.Option(help="huggingface: the column of videos")] = None,
    label_column: Annotated[str | None, typer.Option(help="huggingface: the column of classes")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one on each core if not given")] = None,
    seconds_per_file: Annotated[float, typer.Option(min=0.001, help="And 2 a megabyte: what takes longer is bad")] = 60,
    out: Annotated[Path | None, typer.Option(help="Where the list goes; ROOT/evagen_scan.json if not given")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="The list and the summary on standard output")] = False,
) -> None:
    """Decode every video, list the bad ones for the loaders to leave out, and say what the others are."""
    from evagen.config import check_config
    from evagen.data.scan import describe, guess_layout, scan
    from evagen.data.sources import VideoSource

    values = {"root": root, "layout": layout or guess_layout(root), "csv": csv, "video_column": video_column}
    values["label_column"] = label_column
    record, written = scan(check_config(VideoSource, values, "evagen data scan"), workers, seconds_per_file, out)
    if json_output:
        print(record.model_dump_json())
        return
    print(describe(record))
    print(written)


@study_app.command()
def lengths(
    samples: Annotated[Path, typer.Argument(help="The run folder of `evagen sample`")],
    corpus: Annotated[Path, typer.Argument(help="The run folder of `evagen tokenize` that its generator learnt from")],
    json_output: Annotated[bool, typer.Option("--json", help="JSON on standard output")] = False,
) -> None:
    """Whether a generator has learnt how many tokens each class deserves: its lengths against its corpus', by class."""
    from evagen.commands.lengths_by_class import as_json, describe, main

    found = main(samples, corpus)
    print(as_json(found) if json_output else describe(found))


@export_app.command("llama")
def export_llama(
    checkpoint: Annotated[str, typer.Argument(help="A trained generator, folder or hub id")],
    out: Annotated[Path, typer.Argument(help="Folder for the Llama: safetensors and JSON")],
) -> None:
    """The generator as a Llama with equal logits, for transformers or any Llama server."""
    from evagen.commands.export_llama import main

    print(main(checkpoint, out))


@import_app.command("llama")
def import_llama(
    folder: Annotated[Path, typer.Argument(help="What `evagen export llama` wrote, as it was or trained further")],
    out: Annotated[Path, typer.Argument(help="Folder for the generator")],
) -> None:
    """An exported Llama as a generator that `evagen sample` takes."""
    from evagen.commands.import_llama import main

    print(main(folder, out))


@app.command()
def configs(
    name: Annotated[str | None, typer.Argument(help="Print this one: ucf101_k600/final")] = None,
    resolved: Annotated[bool, typer.Option(help="With NAME: its values laid over those of its base")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="With NAME: every key it may have, and what it does")] = False,
) -> None:
    """List the shipped configs, what they should reach and what their training takes, or print one."""
    from evagen.config import find_config, format_values, read_text, read_values

    if name is None and (keys or resolved):
        option = "--keys" if keys else "--resolved"
        raise UserError(f"{option} is of one config: give its name, evagen configs quickstart/proxy {option}")
    if keys:
        from evagen.commands.keys import describe

        print(describe(str(name)))
        return
    if name:
        path = find_config(name)
        print(format_values(read_values(path)) if resolved else read_text(path), end="")
        return
    from evagen.commands.configs import FOOTNOTE, format_costs, format_table, list_configs

    listed = list_configs()
    print(format_table(listed), end="\n\n\n", flush=True)  # what follows takes some seconds
    print(format_costs(listed), FOOTNOTE, sep="\n\n\n")


@app.command()
def benchmark(
    protocol: Annotated[str, typer.Argument(help="A name that `evagen protocols` lists, or a YAML file")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="key=value…", help="data.root=… tokenizer=… router=… generator=… run.out=…"),
    ] = None,
) -> None:
    """Score a tokenizer, a generator or a folder of videos by a named protocol."""
    from evagen.commands.benchmark import load_benchmark, main

    print(main(load_benchmark(protocol, overrides or [])))


@app.command()
def protocols(
    name: Annotated[str | None, typer.Argument(help="Explain this one")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object on standard output")] = False,
) -> None:
    """List the protocols that scores can be measured by, or explain one."""
    from evagen.eval import PROTOCOLS, get_protocol
    from evagen.scoring.explain import explain, list_protocols

    try:
        chosen = [get_protocol(name)] if name else list(PROTOCOLS.values())
    except ValueError as error:
        raise UserError(str(error)) from error
    if json_output:
        print(json.dumps({protocol.name: protocol.as_dict() for protocol in chosen}, ensure_ascii=False))
    else:
        print(explain(chosen[0]) if name else list_protocols(chosen))


@app.command()
def fvd(
    real: Annotated[Path, typer.Argument(help="A folder of real videos, of any depth")],
    fake: Annotated[Path, typer.Argument(help="A folder of generated videos")],
    protocol: Annotated[
        str, typer.Option(help="By whose rules frames are resized, rounded and put into the network")
    ] = "larp-ucf101-class2video",
    size: Annotated[int | None, typer.Option(min=1, help="Pixels to resize to; the protocol's if none")] = None,
    detector: Annotated[str, typer.Option(help="protocol (I3D), offline or videomae")] = "protocol",
    detector_weights: Annotated[str | None, typer.Option(help="File of I3D, or folder of VideoMAE")] = None,
    detector_sha256: Annotated[str | None, typer.Option(help="Checksum of an I3D-like file of your own")] = None,
    download: Annotated[bool, typer.Option(help="Whether the detector may be downloaded")] = True,
    extrapolate: Annotated[bool, typer.Option(help="Also the value for infinitely many videos")] = False,
    resamples: Annotated[int, typer.Option(min=2, help="Bootstrap draws behind the interval")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips in memory together")] = 16,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode beside this one")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="The record on standard output")] = False,
) -> None:
    """Fréchet distance of two folders of videos: the first clip of each is scored."""
    from evagen.commands.fvd import FolderScoring, describe, main
    from evagen.config import check_config

    values = {
        "real": real, "fake": fake, "protocol": protocol, "size": size, "detector": detector,
        "detector_weights": detector_weights, "detector_sha256": detector_sha256, "download": download,
        "certainty": {"resamples": resamples, "extrapolate": extrapolate}, "batch_size": batch_size,
        "workers": workers,
    }  # fmt: skip
    record = main(check_config(FolderScoring, values, "evagen fvd"))
    print(record.model_dump_json() if json_output else describe(record))


@app.command("compare")
def compare_records(
    records: Annotated[list[Path], typer.Argument(help="Run folders of `evagen benchmark`, or record files")],
    published: Annotated[bool, typer.Option(help="Beside them the figures that papers report")] = False,
) -> None:
    """Draw a markdown table of scores, a column for each protocol and detector."""
    from evagen.scoring.table import compare

    print(compare(records, published))


@app.command()
def quickstart(
    out: Annotated[
        Path | None, typer.Option(help="Folder for everything; runs/quickstart, or runs/quickstart_videos")
    ] = None,
    videos: Annotated[Path | None, typer.Option(help="Folder of your own videos; Atari games if not given")] = None,
) -> None:
    """The whole road on real video, small: data, tokenizer, router, generator, samples, scores, report."""
    from evagen.commands.quickstart import main

    main(out or Path("runs/quickstart" if videos is None else "runs/quickstart_videos"), videos)


@app.command()
def info(
    path: Annotated[Path, typer.Argument(help="A token file, a video, or the folder of a model, a corpus or a run")],
) -> None:
    """Say what a file or a folder is, what made it, how large it is, and which command takes it."""
    from evagen.commands.info import main

    facts = main(path)
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(f"{name:{width}}  {value}")


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders of any commands, finished or not, or folders of runs")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page; report.html or runs.html in the first of them if none")
    ] = None,
    chain: Annotated[bool, typer.Option("--chain", help="Also the runs that these were made from")] = False,
) -> None:
    """Write one page about runs: what they are, their curves, pictures, samples and scores, how far they are."""
    from evagen.commands.report import main

    print(main(runs, out, chain))


@app.command()
def doctor() -> None:
    """Say what this machine has of what evagen can use, and what to type for the rest."""
    from evagen.commands.doctor import describe, examine

    findings = examine()
    print(describe(findings))
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help=f"{', '.join(BENCHMARKS[:-1])} or {BENCHMARKS[-1]}")],
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object on standard output")] = False,
) -> None:
    """Measure speed and memory as ratios, in one run on this machine."""
    if name not in BENCHMARKS:
        raise UserError(f"no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
    try:
        result = run_benchmark(name)
    except ImportError as error:
        raise UserError(str(error)) from error
    print(as_tables(result), file=sys.stderr if json_output else sys.stdout)
    if json_output:
        print(json.dumps(result))


examples.add_examples(app)


def main() -> None:
    """The console script."""
    prepare_surroundings()
    keep_freed_memory()
    try:
        with explained_errors(), whole_output():
            refuse_empty(sys.argv[1:])
            app()
    except SystemExit as ended:
        if "evagen.run" in sys.modules:  # without it there are no processes to part, and it takes seconds to load
            from evagen.run import part_processes

            part_processes(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
        raise
