"""Trained models as a command's settings want them computed."""

import logging
from pathlib import Path
from typing import Literal

import torch

from evagen.errors import UserError
from evagen.kernels.backends import Precision, has_bf16
from evagen.models.larp import LarpTokenizer, config_at, is_larp, load_larp
from evagen.models.loading import Model, load_model
from evagen.run import Infers
from evagen.tokenizer import VideoTokenizer

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""A precision as the generator takes it; the tokenizer and the router take it from `autocast`."""
RunPrecision = Literal["auto", "fp32", "bf16", "fp16"]
logger = logging.getLogger(__name__)


def precision_on(asked: RunPrecision, device: torch.device) -> Precision:
    """What the models compute in on a device; says so where a GPU has no bf16. Raises UserError for a bf16 that the
    GPU does not have."""
    if asked not in ("auto", "bf16") or device.type != "cuda":
        return "fp32" if asked == "auto" else asked
    if has_bf16(device):
        return "bf16"
    name = torch.cuda.get_device_name(device)
    if asked == "bf16":
        raise UserError(f"precision=bf16: {name} has no bf16; give fp16, or fp32, or leave it out")
    logger.warning("%s has no bf16: computing in fp32; precision=fp16 is faster", name)
    return "fp32"


def load_for(
    run: Infers, kind: type[Model], source: str | Path, device: torch.device, precision: Precision | None = None
) -> Model:
    """`load_model`, with the attention that a run asks for, which has to work in a precision: the run's if None."""
    model = load_model(kind, source, device)
    dtype = HALF.get(precision or precision_on(run.precision, device), torch.float32)
    run.choose_attention(model, device, dtype)
    return model


def load_any_tokenizer(
    run: Infers, source: str, device: torch.device, precision: Precision | None = None
) -> VideoTokenizer | LarpTokenizer:
    """`load_for`, of a tokenizer that is to encode and decode and nothing else: ours or LARP's, by its config.json."""
    config = config_at(source)
    if not config and not Path(source).is_dir():
        raise UserError(f"no tokenizer at {source}: neither a local folder nor a hub id within reach")
    if not is_larp(config):
        return load_for(run, VideoTokenizer, source, device, precision)
    if run.attention not in ("auto", "torch"):
        raise UserError(f"run.attention={run.attention}: LARP's sequences are not packed; use auto or torch")
    return load_larp(source, device)


def autocast(run: Infers, device: torch.device) -> torch.autocast:
    """A context in which tokenizer and router compute their matrix products in the run's precision. Networks that
    metrics look through turn it off for themselves."""
    return autocast_to(precision_on(run.precision, device), device)


def autocast_to(precision: Precision, device: torch.device) -> torch.autocast:
    """`autocast` for a precision that is not the run's."""
    return torch.autocast(device.type, HALF.get(precision), enabled=precision in HALF)


def made_in(run: Infers, device: torch.device) -> dict[str, str]:
    """What a clip table says of the precision that its rows were computed in: nothing of fp32. Rows of two precisions
    are not put into one table."""
    precision = precision_on(run.precision, device)
    return {} if precision == "fp32" else {"precision": precision}
