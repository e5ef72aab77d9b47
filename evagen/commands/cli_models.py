"""What `evagen export pipeline` and `evagen push` take: trained models on their way to other people."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def export_pipeline(
    out: Annotated[Path, typer.Argument(help="The folder to be made")],
    tokenizer: Annotated[str, typer.Option(help="A trained tokenizer: folder, run@step or hub id")],
    router: Annotated[str | None, typer.Option(help="The router trained for it")] = None,
    generator: Annotated[str | None, typer.Option(help="The generator trained on its tokens")] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in fp16, for half the size")] = False,
    name: Annotated[str | None, typer.Option(help="The card's name of it: its hub id. OUT if none")] = None,
    record: Annotated[list[Path] | None, typer.Option(help="A run of `evagen benchmark`; may be repeated")] = None,
    notes: Annotated[Path | None, typer.Option(help="Markdown for the card: limits, sources, licence text")] = None,
    licence: Annotated[str | None, typer.Option(help="As the hub names it: apache-2.0")] = None,
) -> None:
    """Tokenizer, router and generator as one folder for diffusers and the hub, with a model card."""
    from evagen.commands.export_pipeline import About, main

    told = main(out, tokenizer, router, generator, half, About(name, record or [], notes, licence))
    if told:
        print(f"note: {told}", file=sys.stderr)
    print(out)


def push(
    folder: Annotated[Path, typer.Argument(help="What `evagen export pipeline` made, or the folder of one model")],
    repo: Annotated[str, typer.Argument(help="Its name on the hub: you/my-model")],
    private: Annotated[bool, typer.Option("--private", help="Visible to you alone, where it is new")] = False,
) -> None:
    """Put trained models on the Hugging Face hub, with their card."""
    from evagen.commands.push import main

    print(main(folder, repo, private))
