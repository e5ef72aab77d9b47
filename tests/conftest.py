"""Runs before any test module is imported."""

import torchvision_ops  # noqa: F401  (before anything that imports torchvision)
