"""How long work takes."""

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def timed(work: Callable[[], Result], on_gpu: bool = False) -> tuple[float, Result]:
    """Seconds of a call, and what it returns. on_gpu: from when the device is idle until it is so again."""
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = work()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def seconds_of(work: Callable[[], object], on_gpu: bool = False) -> float:
    """Of a call."""
    return timed(work, on_gpu)[0]


def gpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """The median time of a call, the device's work included, after one to warm up."""
    work()
    return statistics.median(seconds_of(work, on_gpu=True) for _ in range(repeats))
