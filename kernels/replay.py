"""One launch for a function of many: its kernels are recorded once in a CUDA graph and started together.

On a GPU a small kernel takes less time than the CPU needs to start it; a step of a generator has about a thousand.
"""

import logging
from collections.abc import Callable, Hashable

import torch

logger = logging.getLogger(__name__)


class Replayed:
    """Records of functions without arguments that read and write tensors which stay where they are, and whose launches
    depend on nothing but a key. The first call with a key runs the function, the second records it too, all others
    replay the record.

    Elsewhere than on CUDA, and where recording fails, which is logged, it is called as it is. The function is given
    with every call and not kept: it belongs to whoever has this, and with it in a circle a GPU's memory would not be
    free before Python looks for circles."""

    def __init__(self, device: torch.device):
        self.device, self.records = device, device.type == "cuda"
        self._run: set[Hashable] = set()
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}

    def __call__(self, function: Callable[[], None], key: Hashable = None) -> None:
        if self.records and key in self._run and key not in self._graphs:
            self._record(function, key)
        if key in self._graphs:
            self._graphs[key].replay()
        else:
            function()
            self._run.add(key)

    def forget(self) -> None:
        """Starts anew: the tensors are other ones now."""
        self._run.clear()
        self._graphs.clear()

    def _record(self, function: Callable[[], None], key: Hashable) -> None:
        graph, device = torch.cuda.CUDAGraph(), self.device
        try:
            # The outer stream is there again whatever happens; a stream of torch's own would be another device's. Other
            # threads, such as a loader's that pins memory, may do meanwhile what a record cannot hold.
            with (
                torch.cuda.device(device),
                torch.cuda.stream(torch.cuda.current_stream(device)),
                torch.cuda.graph(graph, stream=torch.cuda.Stream(device), capture_error_mode="thread_local"),
            ):
                function()  # runs nothing yet
        except RuntimeError as error:
            logger.warning("a step could not be recorded as a CUDA graph and is launched kernel by kernel: %s", error)
            self.records = False
        else:
            self._graphs[key] = graph
