"""`evagen export pipeline`: trained models as one folder that diffusers and the hub know, with a model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin

from evagen.ar_model import VideoGenerator
from evagen.errors import UserError
from evagen.kernels.files import atomic_folder
from evagen.kernels.sources import BEST, SNAPSHOTS, locate
from evagen.models.loading import check_empty, fingerprint, load_model
from evagen.report.model_card import CardOptions, write_card
from evagen.report.training_facts import Facts, training_facts
from evagen.sampling.pipeline import VideoPipeline
from evagen.scoring.record import read_record
from evagen.tokenizer import VideoTokenizer
from evagen.training.best import read_best
from evagen.training.checkpoints import step_of


@dataclass(frozen=True)
class About:
    """For the model card. name: under which the models will be found, the folder's if None; records: run folders of
    `evagen benchmark`; notes: a markdown file; licence: as the hub names it, apache-2.0."""

    name: str | None = None
    records: Sequence[Path] = ()
    notes: Path | None = None
    licence: str | None = None


def main(
    out: Path,
    tokenizer: str,
    router: str | None = None,
    generator: str | None = None,
    half: bool = False,
    about: About | None = None,
) -> str | None:
    """Writes a pipeline folder: `model_index.json`, a folder for each model, `README.md`. half: weights in fp16.
    Returns what changed with `half` and is worth telling, if anything.

    Raises UserError for a folder that holds something, for models that are missing or do not fit each other, for notes
    and records that cannot be read, and for weights too large for fp16; nothing is left behind then."""
    check_empty(out)
    about = about or About()
    for record in about.records:
        read_record(record)
    sources = {
        part: source
        for part, source in (("tokenizer", tokenizer), ("router", router), ("generator", generator))
        if source is not None
    }
    options = CardOptions(
        about.name or str(out), about.licence, _notes(about.notes), about.records, trainings(sources)
    )  # fmt: skip
    pipeline = VideoPipeline.of(generator, tokenizer, router)
    with atomic_folder(out) as folder:
        told = _save_half(pipeline, folder) if half else pipeline.save_pretrained(folder)
        write_card(folder, options)
        VideoPipeline.from_pretrained(folder)  # all that is there fits
    return told


def _notes(path: Path | None) -> str:
    try:
        return path.read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the notes at {path} cannot be read as text: {error}") from error


def trainings(sources: Mapping[str, str]) -> dict[str, Facts]:
    """What the run folders of these models tell."""
    facts = {}
    for part, source in sources.items():
        try:
            folder = locate(source, part, only_cached=True).folder
        except FileNotFoundError as error:
            raise UserError(str(error)) from error
        if folder is None:
            continue
        if folder.parent.name == SNAPSHOTS:
            facts[part] = training_facts(part, folder.parents[1], step_of(folder))
        elif folder.name == BEST:
            best = read_best(folder.parent)
            facts[part] = training_facts(part, folder.parent, best and best["step"])
            facts[part]["weights"] = "those of the best held-out score"
        else:
            facts[part] = training_facts(part, folder)
    return facts


def _save_half(pipeline: VideoPipeline, folder: Path) -> str | None:
    """Rounds the weights to fp16 and saves them so. The tokenizer is another one then, if by little, and the generator
    is told."""
    for name, model in pipeline.components.items():
        if model is not None:
            _check_half(name, model)
            torch.nn.Module.to(model, torch.float16)  # diffusers' own warns of layers to be kept in fp32, and has none
    pipeline.save_pretrained(folder)
    if pipeline.generator is None:
        return None
    found = fingerprint(load_model(VideoTokenizer, folder / "tokenizer"))
    before = pipeline.generator.config.tokenizer_fingerprint
    if before in (None, found):
        return None
    generator = load_model(VideoGenerator, folder / "generator")
    generator.register_to_config(tokenizer_fingerprint=found)
    generator.save_config(folder / "generator")
    return (
        f"the tokenizer's weights are rounded to fp16, so its fingerprint is {found} in place of {before}; the "
        "generator's config.json says so. Tokens that the exact tokenizer made are not exchanged with this one's"
    )


def _check_half(name: str, model: ModelMixin) -> None:
    """Raises UserError for a weight that fp16 cannot hold."""
    most = torch.finfo(torch.float16).max
    for key, weight in model.state_dict().items():
        if weight.is_floating_point() and weight.numel() and weight.abs().max() > most:
            raise UserError(f"{key} of the {name} has weights above {most:g}, which fp16 cannot hold: leave out --half")
