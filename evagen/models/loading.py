"""Models from a hub id or a local folder, with errors that say what to do."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin

from evagen.errors import UserError
from evagen.kernels.files import read_json
from evagen.kernels.packed_linear import pack_linears
from evagen.kernels.sources import CONFIG, box, locate
from evagen.kernels.weights import weights_fingerprint
from evagen.models.larp import LarpTokenizer, config_at, is_larp
from evagen.tokenizer import BlockRouter, Router, VideoTokenizer, check_block_router_fits, check_router_fits

Model = TypeVar("Model", bound=ModelMixin)


def load_model(kind: type[Model], source: str | Path, device: torch.device | str = "cpu") -> Model:
    """A model for inference: in eval mode, its weights frozen and, on a CPU, packed when needed. `source`: whatever
    `kernels.sources` lists. Raises UserError where no such model is."""
    try:
        where = locate(source, kind.part)
    except FileNotFoundError as error:
        raise UserError(str(error)) from error
    folder = where.folder
    if folder and not (folder / CONFIG).exists():
        raise UserError(
            f"{folder} holds no trained {kind.__name__} (config.json is missing): "
            "the run that should have left it there has not finished"
        )
    try:
        if folder:
            config = read_json(folder / CONFIG)
            _refuse_larp(config, source, kind)
            if (found := config.get("_class_name")) != kind.__name__:
                raise UserError(f"{folder} holds a {found}, a {kind.__name__} is needed")
        model = kind.from_pretrained(where.source, subfolder=where.subfolder)
    except ValueError as error:
        raise UserError(f"the {kind.__name__} at {source} cannot be loaded: {error}") from error
    except OSError as error:
        if folder:
            raise UserError(
                f"the weights in {folder} are missing or damaged ({error}): copy or train them again"
            ) from error
        _refuse_larp(config_at(source, only_cached=True), source, kind)
        raise UserError(
            f"no {kind.__name__} at {source}: no local folder, no hub id within reach, and none of the models in the "
            f"box: {', '.join(box()) or 'none'}"
        ) from error
    return pack_linears(model.to(device).eval().requires_grad_(False))


def load_router(tokenizer: VideoTokenizer | LarpTokenizer, source: str) -> Router | BlockRouter:
    """The router of a tokenizer, on its device: of whole clips, or, with a memory, of one block after another. Raises
    UserError where there is none, and unless its lengths are the tokenizer's: levels, frames of a block, and what is
    seen together."""
    remembers = getattr(tokenizer.config, "memory_blocks", None) is not None
    router = load_model(BlockRouter if remembers else Router, source, tokenizer.device)
    check_router(tokenizer, router, f"the router at {source}")
    return router


def router_beside(tokenizer: str | Path) -> str | None:
    """Where the router of a tokenizer is, if that is part of a pipeline or of a model in the box that has one."""
    try:
        where = locate(tokenizer, "router")
    except FileNotFoundError:
        return None
    return str(tokenizer) if where.subfolder else None


def tokenizer_of(tokens: str | None) -> str:
    """The model in the box whose tokenizer has this fingerprint. Raises UserError where none has."""
    for name in box():
        if tokens == fingerprint(load_model(VideoTokenizer, name)):
            return name
    raise UserError(
        f"the tokens are of tokenizer {tokens or '(not said)'}, which is none of the models in the box "
        f"({', '.join(box()) or 'none'}): give --tokenizer, the one that they were encoded with"
    )


def check_router(tokenizer: VideoTokenizer | LarpTokenizer, router: Router | BlockRouter, whose: str) -> None:
    """Raises UserError unless the router says lengths for this tokenizer. whose: names it."""
    remembers = getattr(tokenizer.config, "memory_blocks", None) is not None
    kind, check = (BlockRouter, check_block_router_fits) if remembers else (Router, check_router_fits)
    if not isinstance(router, kind):
        raise UserError(f"{whose} is a {type(router).__name__}, and this tokenizer needs a {kind.__name__}")
    try:
        check(tokenizer, router)
    except ValueError as error:
        raise UserError(f"{whose} does not fit: {error}") from error


def _refuse_larp(config: dict[str, Any], source: str | Path, kind: type[ModelMixin]) -> None:
    if is_larp(config):
        raise UserError(
            f"{source} holds a LARP tokenizer, a {kind.__name__} is needed: LARP's is only scored by reconstruction, "
            "with `evagen benchmark` (docs/evaluation.md); give a model that evagen trained"
        )


def new_model(kind: type[Model], **arguments: Any) -> Model:
    """An untrained model. Raises UserError where its settings do not go together."""
    try:
        return kind(**arguments)
    except ValueError as error:
        raise UserError(f"no {kind.__name__} can be made with these settings: {error}") from error


def start_from(model: Model, source: str | Path) -> Model:
    """Gives a new model the weights of a trained one, to train it further; returns the trained one. Raises UserError
    unless both have weights of the same names and shapes, with the same meaning. model: a tokenizer or a generator."""
    trained = load_model(type(model), source)
    theirs, ours = trained.state_dict(), model.state_dict()
    shapes = [{name: tensor.shape for name, tensor in weights.items()} for weights in (theirs, ours)]
    if shapes[0] != shapes[1] or trained.meaning_of_weights() != model.meaning_of_weights():
        settings = {name: value for name, value in model.config.items() if not name.startswith("_")}
        differing = [
            f"{name} is {trained.config.get(name)} there and {value} here"
            for name, value in settings.items()
            if trained.config.get(name) != value
        ]
        raise UserError(f"the weights at {source} do not fit this model: {', '.join(differing)}; use its settings")
    model.load_state_dict(theirs)
    return trained


def fingerprint(model: torch.nn.Module) -> str:
    """16 hexadecimal digits that change with any weight."""
    return weights_fingerprint(model.state_dict())


def check_empty(out: Path) -> None:
    """Raises UserError for a folder, to be written to, that holds something already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another place, or delete it")
