"""Lets torchvision import beside a torch build that its compiled operators do not fit.

timm, torchmetrics and much of transformers import torchvision. Where torch is the CPU build and
torchvision's wheel is a CUDA build, torchvision's operator library does not load, and its import
fails with "operator torchvision::nms does not exist". Nothing in this project calls these operators:
declaring their schemas before the first import is enough. Where the compiled operators do load,
they must not be declared a second time, so this is done only when they are absent.

Importing this module does the work; the packages here import it before anything else.
"""

import importlib.machinery
import importlib.util
from pathlib import Path

import torch


def _compiled_operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")  # finds the package without importing it
    if spec is None or spec.origin is None:
        return True  # no torchvision at all: its own ImportError says so better than we could
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        library = Path(spec.origin).parent / f"_C{suffix}"
        if library.exists():
            try:
                torch.ops.load_library(str(library))
            except OSError:
                return False
            return True
    return False


_schemas: torch.library.Library | None = None  # torch drops the operators when this is collected

if not hasattr(torch.ops.torchvision, "nms") and not _compiled_operators_load():
    _schemas = torch.library.Library("torchvision", "DEF")
    _schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
