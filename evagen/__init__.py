"""evagen: autoregressive video generation on adaptive-length video tokens."""

import torchvision_ops  # noqa: F401  (before anything that imports torchvision)

__version__ = "0.1.0"
