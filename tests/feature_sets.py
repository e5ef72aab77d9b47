"""What tests of distances between features share: sets of clips, a detector for them, and a second process."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta

import torch
import torch.distributed
from torch import Tensor, nn
from warm import WARM


class PixelDetector(nn.Module):
    """Eight pixels of each clip as its features, through a layer that has weights."""

    name, fingerprint, num_features = "pixels", "0", 8

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8, bias=False)
        nn.init.eye_(self.layer.weight)

    def forward(self, videos: Tensor) -> Tensor:
        return self.layer(videos.flatten(1)[:, :8])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def clips(count: int, seed: int) -> Tensor:
    return random(count, 3, 2, 4, 4, seed=seed).float()


def in_two_processes(function: Callable[[int], float], rendezvous: str) -> list[float]:
    """What `function(rank)` of a test module gives in each of two processes that are connected."""
    with ProcessPoolExecutor(1, mp_context=WARM) as pool:
        other = pool.submit(_as_process, function, 1, rendezvous)
        return [_as_process(function, 0, rendezvous), other.result()]


def _as_process(function: Callable[[int], float], rank: int, rendezvous: str) -> float:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    try:
        return function(rank)
    finally:
        torch.distributed.destroy_process_group()
