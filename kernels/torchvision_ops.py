"""Lets torchvision import beside a torch build that its compiled operators do not fit.

timm, torchmetrics, accelerate's command and much of transformers import torchvision. Where torch is the CPU build
and torchvision's wheel is a CUDA build, torchvision's operator library does not load, and its import fails with
"operator torchvision::nms does not exist". Nothing in this project calls these operators: declaring their schemas
before torchvision is imported is enough. Where the compiled operators do load, they must not be declared a second
time, so this is done only when they are absent.

Programs such as `accelerate launch` import torchvision before any of our code runs. So this file is run at every
start of Python, by `evagen_torchvision.pth`, which is installed beside the package. It costs nothing then: it waits for
the first import of torchvision, and it must import nothing that takes time.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from pathlib import Path

_declared: list = []  # torch drops the operators when their library object is collected


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Steps in when torchvision is about to be imported, and leaves finding it to the others."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            if not compiled_operators_load():
                _declare()
        return None


def compiled_operators_load() -> bool:
    """Whether torchvision's operator library fits this torch. True without torchvision: its own ImportError says
    better what is missing."""
    spec = importlib.util.find_spec("torchvision")  # finds the package without importing it
    if spec is None or spec.origin is None:
        return True
    import torch

    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        library = Path(spec.origin).parent / f"_C{suffix}"
        if library.exists():
            try:
                torch.ops.load_library(str(library))
            except OSError:
                return False
            return True
    return False


def _declare() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)


if "torchvision" not in sys.modules and not any(type(f).__name__ == "_BeforeTorchvision" for f in sys.meta_path):
    sys.meta_path.insert(0, _BeforeTorchvision())
