"""A training that is told to end ends after its step, with a checkpoint."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import distributed

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STDERR = 2
SAME_SECONDS = 1.0
"""A signal so soon after the first is the same one: `accelerate launch` passes on what the terminal sends to all."""


class StopRequest:
    """Whether this process, or one that trains with it, was told to end by SIGTERM or SIGINT. To be made by all
    processes together."""

    def __init__(self) -> None:
        self._signal = 0
        self._first = 0.0
        several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        self._several = several
        # on the CPU, so that nobody waits for the GPUs
        self._group = distributed.new_group(backend="gloo") if several and distributed.get_backend() != "gloo" else None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within it the first signal is noted, and a second one ends the process at once, as it would without."""
        if threading.current_thread() is not threading.main_thread():  # others can have no handlers
            yield
            return
        before = {each: _usual(each) for each in SIGNALS}
        for each in SIGNALS:
            signal.signal(each, self._note)
        try:
            yield
        finally:
            for each, handler in before.items():
                if signal.getsignal(each) == self._note:
                    signal.signal(each, handler)

    def asked(self) -> int:
        """The signal's number; 0 where there was none. All processes together: they get the same answer."""
        if not self._several:
            return self._signal
        found = torch.tensor(self._signal)
        distributed.all_reduce(found, distributed.ReduceOp.MAX, group=self._group)
        return int(found)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._signal:
            self._signal, self._first = number, time.monotonic()
            name = signal.Signals(number).name
            said = f"\n{name}: a checkpoint is written after this step; once more ends at once\n"
            os.write(STDERR, said.encode())  # print may be at work just now
        elif time.monotonic() - self._first > SAME_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _usual(number: int) -> Any:
    """What a signal does where no training runs; one that broke off may not have taken its handler down yet."""
    handler = signal.getsignal(number)
    if handler is None or getattr(handler, "__func__", None) is StopRequest._note:
        return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    return handler
