"""Which versions of what computed a result."""

import platform

import diffusers
import torch
import transformers

from evagen import __version__


def versions() -> dict[str, str]:
    """Names and versions, for manifests and records."""
    return {
        "evagen": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "diffusers": diffusers.__version__,
    }
