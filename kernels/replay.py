"""One launch for a function of many: its kernels are recorded once in a CUDA graph and started together.

On a GPU a small kernel takes less time than the CPU needs to start it; a step of a generator has about a thousand.
"""

import logging
from collections.abc import Callable, Hashable

import torch

logger = logging.getLogger(__name__)


class Replayed:
    """A function without arguments that reads and writes tensors which stay where they are, and whose launches depend
    on nothing but a key. The first call with a key runs it, the second records it too, all others replay the record.

    Elsewhere than on CUDA, and where recording fails, which is logged, it is called as it is."""

    def __init__(self, function: Callable[[], None], device: torch.device):
        self.function = function
        self.records = device.type == "cuda"
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph | None] = {}  # None: has run once

    def __call__(self, key: Hashable = None) -> None:
        if not self.records:
            self.function()
        elif key not in self._graphs:
            self._graphs[key] = None
            self.function()
        else:
            graph = self._graphs[key] or self._record(key)
            graph.replay() if graph else self.function()

    def forget(self) -> None:
        """Starts anew: the tensors are other ones now."""
        self._graphs.clear()

    def _record(self, key: Hashable) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):  # runs nothing yet
                self.function()
        except RuntimeError as error:
            logger.warning("a step could not be recorded as a CUDA graph and is launched kernel by kernel: %s", error)
            self.records = False
            return None
        self._graphs[key] = graph
        return graph
