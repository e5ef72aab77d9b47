import torchvision_ops  # noqa: F401  (before anything that imports torchvision)
