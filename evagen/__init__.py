"""evagen: autoregressive video generation on adaptive-length video tokens."""

import os

# Threads that wait for each other spin, by default for milliseconds. When another program takes one of few cores,
# the rest spin for one that is not running, and training slows down fifteenfold; spinning less costs nothing
# (docs/log.md). Read once when torch loads its thread library, hence here.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import torchvision_ops  # noqa: F401  (before anything that imports torchvision)

__version__ = "0.1.0"
