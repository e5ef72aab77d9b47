"""What `evagen encode`, `decode`, `reconstruct` and `sample` take: commands that need no config."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from evagen.commands import COMMANDS
from evagen.data.found_files import VIDEO_SUFFIXES
from evagen.errors import UserError
from evagen.kernels.names import as_argument
from evagen.kernels.sources import FOR_CLASSES, FOR_VIDEOS

ComputedIn = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option("--precision", help="Of the models; auto: bf16 on a GPU that has it, else fp32"),
]

TokenizerName = Annotated[str, typer.Option(help="A model in the box, a trained tokenizer's folder, or a hub id")]
RouterName = Annotated[str | None, typer.Option(help="The router trained for it; if none, the one that lies beside it")]


def then(command: str) -> None:
    """Says on standard error what can be done next."""
    print(f"next: {command}", file=sys.stderr)


def told(tokenizer: str) -> str:
    """What has to be typed so that a command takes this tokenizer."""
    return "" if tokenizer.startswith("evagen/") else f" --tokenizer {as_argument(tokenizer)}"


def whole_numbers(option: str, text: str) -> list[int]:
    """`512,128` → [512, 128]. Raises UserError for anything else."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UserError(f"{option} {text}: whole numbers with commas between them are needed, as 512,128") from error


def encode(
    video: Annotated[Path, typer.Argument(help="A video file of any length and size")],
    out: Annotated[Path, typer.Argument(help="Where the tokens go: a .safetensors file")],
    tokenizer: TokenizerName = FOR_VIDEOS,
    router: RouterName = None,
    preference: Annotated[float | None, typer.Option(help="Quality: 0.8 few tokens … 1.6 best; 1.2 if none")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="At most so many for each clip, or block of a memory")] = None,
    mean_tokens: Annotated[float | None, typer.Option(help="At most so many tokens a clip on average")] = None,
    prefix: Annotated[str, typer.Option(help="Tokens of each clip's first blocks, for instance 512,128")] = "",
    tokens_per_second: Annotated[float | None, typer.Option(help="With a memory: never more than so many …")] = None,
    rate_window: Annotated[float | None, typer.Option(help="… in any window of so many seconds; 4 if none")] = None,
    lengths: Annotated[str, typer.Option(help="With a memory: tokens of the blocks, the last for all others")] = "",
    short_side: Annotated[int | None, typer.Option(min=1, help="Pixels encoded; as trained if none")] = None,
    clips_per_chunk: Annotated[int, typer.Option(min=1, help="Clips in memory at once")] = 4,
    plot: Annotated[Path | None, typer.Option(help="Draw tokens over time: .png, .svg or .pdf")] = None,
    precision: ComputedIn = "auto",
    score: Annotated[bool, typer.Option(help="Whether to decode too, and say how much the tokens give back")] = True,
) -> None:
    """Turn one video file into tokens, as good as asked for or within a budget."""
    from evagen.commands.encode import Dials, main
    from evagen.commands.info import to_decode
    from evagen.commands.reconstruct import compare

    first, given = whole_numbers("--prefix", prefix), whole_numbers("--lengths", lengths)
    dials = Dials(preference, max_tokens, mean_tokens, first, tokens_per_second, rate_window, given)
    written, graph = main(video, out, tokenizer, router, dials, short_side, clips_per_chunk, plot, precision)
    print(written.summary())
    print(graph)
    if score:
        print(compare(video, out, tokenizer, clips_per_chunk, precision).summary())
    print(out)
    if plot:
        print(plot)
    then(to_decode(out) + told(tokenizer))


def decode(
    tokens: Annotated[Path, typer.Argument(help="What `evagen encode` wrote")],
    out: Annotated[Path, typer.Argument(help="The video: .mp4, .avi, .gif, or .mkv without loss")],
    tokenizer: Annotated[
        str | None, typer.Option(help="The tokenizer that made the tokens; found among those in the box if none")
    ] = None,
    clips_per_chunk: Annotated[int, typer.Option(min=1, help="Clips in memory at once")] = 4,
    precision: ComputedIn = "auto",
) -> None:
    """Turn a file of tokens back into a video of the same length, size and frame rate."""
    from evagen.commands.decode import main

    main(tokens, out, tokenizer, clips_per_chunk, precision)
    print(out)


def reconstruct(
    video: Annotated[Path, typer.Argument(help="A video file of any length and size")],
    out: Annotated[Path, typer.Argument(help="Both side by side: .mp4, .avi, .gif, or .mkv without loss")],
    tokenizer: TokenizerName = FOR_VIDEOS,
    router: RouterName = None,
    preference: Annotated[float | None, typer.Option(help="Quality: 0.8 few tokens … 1.6 best; 1.2 if none")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="At most so many for each clip, or block of a memory")] = None,
    short_side: Annotated[int | None, typer.Option(min=1, help="Pixels encoded; as trained if none")] = None,
    clips_per_chunk: Annotated[int, typer.Option(min=1, help="Clips in memory at once")] = 4,
    precision: ComputedIn = "auto",
) -> None:
    """Write a video beside what its tokens give back, the tokens of each block beneath, and say how alike they are."""
    from evagen.commands.encode import Dials
    from evagen.commands.reconstruct import main

    dials = Dials(preference, max_tokens)
    written, scores = main(video, out, tokenizer, router, dials, short_side, clips_per_chunk, precision)
    print(written.summary())
    print(scores.summary())
    print(out)


def sample(
    config: Annotated[
        str | None, typer.Argument(help="A YAML file, or the name of a shipped config, for all that can be asked for")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value…", help="options.top_p=0.9")] = None,
    classes: Annotated[list[str] | None, typer.Option("--class", help="May be repeated; every class if none")] = None,
    model: Annotated[str | None, typer.Option(help="A model in the box, a pipeline's folder, or a hub id")] = None,
    out: Annotated[Path | None, typer.Option(help="A video file of all clips; with CONFIG the run folder")] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Clips of each class; 4, or with all classes 1")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same clips")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Try a shipped config at full size, for one clip")] = False,
) -> None:
    """Write new clips with a trained generator: of the model in the box, or by a config."""
    if config and "=" in config:
        raise UserError(f"{config} changes a config, and none is named: evagen sample quickstart/sample {config}")
    if config and Path(config).suffix in VIDEO_SUFFIXES:
        raise UserError(f"{config} is a video's name, and a config stands there; what is written is --out {config}")
    from evagen.sampling.classes import check_classes, check_no_class

    if config and "/" not in config and not Path(config).exists():
        check_no_class(config, model or FOR_CLASSES)
    if config is None:
        if dry_run:
            raise UserError(
                "--dry-run tries a shipped config, and none is named: evagen sample quickstart/sample --dry-run"
            )
        model = model or FOR_CLASSES
        check_classes(model, classes or [])  # before imports that take seconds
        from evagen.commands.sample_one import main

        path, lines = main(model, classes, out, clips or (4 if classes else 1), seed or 0)
        print(*lines, sep="\n")
        print(path)
        name = as_argument(model)
        then(f"evagen demo --model {name}")
        then(f"evagen sample quickstart/sample generator={name} tokenizer={name} run.out=runs/mine/clips")
        return
    given = {
        "classes": json.dumps(classes, ensure_ascii=False) if classes else None, "generator": model,
        "tokenizer": model, "run.out": out, "clips_per_class": clips, "run.seed": seed,
    }  # fmt: skip
    overrides = [*(f"{key}={value}" for key, value in given.items() if value is not None), *(overrides or [])]
    COMMANDS["sample"].from_command_line(config, overrides, dry_run)
