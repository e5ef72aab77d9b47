"""Watches a training for numbers that are NaN or infinite."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


class NotFinite:
    """Remembers the first step at which a term was NaN or infinite, and which terms. It looks at every step but
    keeps what it sees on the device, so that nothing waits for it until `first` is asked."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.step = torch.zeros((), dtype=torch.int64, device=accelerator.device)  # 0: none so far
        self.names: list[str] = []
        self._places: dict[tuple[str, ...], Tensor] = {}  # of terms that come together, on the device
        self.broken = torch.zeros(0, dtype=torch.bool, device=accelerator.device)

    @torch.no_grad()
    def look(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """terms: scalars by name, or none; `step` counts from 1."""
        if not terms:
            return
        for name in terms:
            if name not in self.names:
                self.names.append(name)
                self.broken = torch.cat([self.broken, self.broken.new_zeros(1)])
        values = torch.ones_like(self.broken, dtype=torch.float32)
        if tuple(terms) not in self._places:
            numbers = [self.names.index(name) for name in terms]
            self._places[tuple(terms)] = torch.tensor(numbers, device=values.device)
        values[self._places[tuple(terms)]] = torch.stack(
            [term.detach().float().to(values.device) for term in terms.values()]
        )
        broken = ~values.isfinite()
        is_first = (self.step == 0) & broken.any()
        self.broken = torch.where(is_first, broken, self.broken)
        self.step = torch.where(is_first, step, self.step)

    def first(self) -> tuple[int, list[str]] | None:
        """The step and the terms, in any process, so that all stop together."""
        steps = self.accelerator.gather(self.step[None]).tolist()
        if not any(steps):
            return None
        names = [name for name, is_broken in zip(self.names, self.broken.tolist()) if is_broken]
        return min(step for step in steps if step), names or ["a term in another process"]
