"""Trained models as a command's settings want them computed."""

from pathlib import Path

import torch

from evagen.errors import UserError
from evagen.eval import Precision
from evagen.kernels.attention import choose_attention
from evagen.models.larp import LarpTokenizer, config_at, is_larp, load_larp
from evagen.models.loading import Model, load_model
from evagen.run import Infers
from evagen.tokenizer import VideoTokenizer

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""`run.precision` as the generator takes it; the tokenizer and the router take it from `autocast`."""


def load_for(run: Infers, kind: type[Model], source: str | Path, device: torch.device | str = "cpu") -> Model:
    """`load_model`, with the attention that a run asks for."""
    model = load_model(kind, source, device)
    choose_attention(model, run.attention)
    return model


def load_any_tokenizer(run: Infers, source: str, device: torch.device | str = "cpu") -> VideoTokenizer | LarpTokenizer:
    """`load_for`, of a tokenizer that is to encode and decode and nothing else: ours or LARP's, by its config.json."""
    config = config_at(source)
    if not config and not Path(source).is_dir():
        raise UserError(f"no tokenizer at {source}: neither a local folder nor a hub id within reach")
    if not is_larp(config):
        return load_for(run, VideoTokenizer, source, device)
    if run.attention not in ("auto", "torch"):
        raise UserError(f"run.attention={run.attention}: LARP's sequences are not packed; use auto or torch")
    return load_larp(source, device)


def autocast(run: Infers, device: torch.device) -> torch.autocast:
    """A context in which tokenizer and router compute their matrix products in the run's precision. Networks that
    metrics look through turn it off for themselves."""
    return autocast_to(run.precision, device)


def autocast_to(precision: Precision, device: torch.device) -> torch.autocast:
    """`autocast` for a precision that is not the run's."""
    return torch.autocast(device.type, HALF.get(precision), enabled=precision in HALF)
