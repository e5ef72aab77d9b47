"""Weights told apart."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def weights_fingerprint(state: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that change with any name or value of a state dict: the first of the SHA-256 over names
    and bytes, in the order of the names. The device and the layout in memory do not count."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
