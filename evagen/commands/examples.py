"""An example of every command, shown at the end of its `--help`. `tests/docs` parses each."""

import typer

EXAMPLES = {
    "train-tokenizer": "train-tokenizer quickstart/proxy run.out=runs/mine/proxy optimizer.steps=5000",
    "curate": "curate quickstart/curation tokenizer=runs/mine/proxy run.out=runs/mine/curation",
    "train-router": "train-router quickstart/router record=runs/mine/curation run.out=runs/mine/router",
    "tokenize": "tokenize quickstart/tokens data.root=videos data.layout=folder run.out=runs/mine/tokens",
    "train-generator": "train-generator quickstart/generator corpus=runs/mine/tokens run.out=runs/mine/generator",
    "sample": "sample --class Frogger",
    "study quality-cost": "study quality-cost arcade_nano/study 'single_routers={}'",
    "study fixed-against-adaptive": "study fixed-against-adaptive quickstart/fixed_against_adaptive 'seeds=[0, 1]'",
    "study long": "study long arcade_minutes/long run.out=runs/mine/long",
    "study lengths": "study lengths runs/quickstart/samples runs/quickstart/tokens",
    "encode": "encode holiday.mp4 holiday.safetensors --mean-tokens 100",
    "decode": "decode holiday.safetensors holiday_decoded.mp4",
    "reconstruct": "reconstruct holiday.mp4 side_by_side.mp4 --preference 1.6",
    "data arcade": "data arcade --out videos --games 8 --clips-per-game 200 --size 64",
    "data natural": "data natural --out videos --clips 400 --frames 20",
    "data cut": "data cut videos --out clips",
    "data scan": "data scan videos",
    "export pipeline": "export pipeline runs/mine/pipeline --tokenizer runs/quickstart/final --router "
    "runs/quickstart/router --generator runs/quickstart/generator --half",
    "push": "push runs/mine/pipeline somebody/games --private",
    "report": "report runs/quickstart/proxy runs/quickstart/final --out page.html",
    "demo": "demo --model evagen/arcade --port 7861",
    "export llama": "export llama runs/quickstart/generator runs/mine/llama",
    "import llama": "import llama runs/mine/llama runs/mine/generator",
    "configs": "configs quickstart/proxy --keys",
    "benchmark": "benchmark larp-ucf101-recon data.root=/ucf101 tokenizer=runs/final router=runs/router "
    "run.out=runs/rfvd",
    "protocols": "protocols larp-ucf101-class2video",
    "fvd": "fvd real_videos generated_videos --size 64",
    "compare": "compare runs/rfvd runs/theirs --published",
    "quickstart": "quickstart --out runs/quickstart",
    "info": "info holiday.safetensors",
    "doctor": "doctor",
    "bench": "bench attention",
}  # fmt: skip
"""By the command's name; what is typed behind `evagen`."""


def add_examples(app: typer.Typer, group: str = "") -> None:
    """Gives every command its example, but those that bring their own."""
    for command in app.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "").replace("_", "-")
        example = EXAMPLES.get(f"{group} {name}".strip())
        if example and not command.epilog:
            command.epilog = f"Example: evagen {example}"
    for each in app.registered_groups:
        if each.typer_instance is not None:
            add_examples(each.typer_instance, f"{group} {each.name}".strip())
