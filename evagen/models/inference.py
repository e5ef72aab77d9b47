"""Trained models as a command's settings want them computed."""

from pathlib import Path

import torch

from evagen.kernels.attention import choose_attention
from evagen.models.loading import Model, load_model
from evagen.run import Infers

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def load_for(run: Infers, kind: type[Model], source: str | Path, device: torch.device | str = "cpu") -> Model:
    """`load_model`, with the attention that a run asks for."""
    model = load_model(kind, source, device)
    choose_attention(model, run.attention)
    return model


def autocast(run: Infers, device: torch.device) -> torch.autocast:
    """A context in which models compute their matrix products in the run's precision."""
    return torch.autocast(device.type, HALF.get(run.precision), enabled=run.precision in HALF)
