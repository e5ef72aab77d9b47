"""What `evagen encode`, `decode` and `reconstruct` take: commands from one file to another, without a config."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from evagen.errors import UserError

ComputedIn = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option("--precision", help="Of the models; auto: bf16 on a GPU that has it, else fp32"),
]


def whole_numbers(option: str, text: str) -> list[int]:
    """`512,128` → [512, 128]. Raises UserError for anything else."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UserError(f"{option} {text}: whole numbers with commas between them are needed, as 512,128") from error


def encode(
    video: Annotated[Path, typer.Argument(help="A video file of any length and size")],
    out: Annotated[Path, typer.Argument(help="Where the tokens go: a .safetensors file")],
    tokenizer: Annotated[str, typer.Option(help="A trained tokenizer, folder or hub id")],
    router: Annotated[str | None, typer.Option(help="The router trained for it; not needed with --lengths")] = None,
    preference: Annotated[float | None, typer.Option(help="Quality: 0.8 few tokens … 1.6 best; 1.2 if none")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="At most so many for each clip, or block of a memory")] = None,
    mean_tokens: Annotated[float | None, typer.Option(help="At most so many tokens a clip on average")] = None,
    prefix: Annotated[str, typer.Option(help="Tokens of each clip's first blocks, for instance 512,128")] = "",
    tokens_per_second: Annotated[float | None, typer.Option(help="With a memory: never more than so many …")] = None,
    rate_window: Annotated[float, typer.Option(help="… in any window of so many seconds")] = 4.0,
    lengths: Annotated[str, typer.Option(help="With a memory: tokens of the blocks, the last for all others")] = "",
    short_side: Annotated[int | None, typer.Option(min=1, help="Pixels encoded; as trained if none")] = None,
    clips_per_chunk: Annotated[int, typer.Option(min=1, help="Clips in memory at once")] = 4,
    plot: Annotated[Path | None, typer.Option(help="Draw tokens over time: .png, .svg or .pdf")] = None,
    precision: ComputedIn = "auto",
) -> None:
    """Turn one video file into tokens, as good as asked for or within a budget."""
    from evagen.commands.encode import Dials, main

    first, given = whole_numbers("--prefix", prefix), whole_numbers("--lengths", lengths)
    dials = Dials(preference, max_tokens, mean_tokens, first, tokens_per_second, rate_window, given)
    written, graph = main(video, out, tokenizer, router, dials, short_side, clips_per_chunk, plot, precision)
    print(written.summary())
    print(graph)
    print(out)
    if plot:
        print(plot)


def decode(
    tokens: Annotated[Path, typer.Argument(help="What `evagen encode` wrote")],
    out: Annotated[Path, typer.Argument(help="The video: .mp4, .avi, .gif, or .mkv without loss")],
    tokenizer: Annotated[str, typer.Option(help="The tokenizer that made the tokens, folder or hub id")],
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
    tokenizer: Annotated[str, typer.Option(help="A trained tokenizer, folder or hub id")],
    router: Annotated[str, typer.Option(help="The router trained for it")],
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
