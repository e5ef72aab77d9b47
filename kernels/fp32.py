"""fp32 that is fp32: without autocast, and without TF32, the ten bits that GPUs from Ampere on multiply fp32 by."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def in_fp32(device: torch.device) -> Iterator[None]:
    """What is computed on a device within has fp32 whatever is around it: autocast is off, and so is TF32, which
    cuDNN's convolutions take unless they are told otherwise. The settings come back afterwards."""
    cudnn: Any = torch.backends.cudnn  # whose parts type checkers do not know
    operations = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul)
    before = [each.fp32_precision for each in operations]
    for each in operations:
        each.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for each, precision in zip(operations, before):
            each.fp32_precision = precision
