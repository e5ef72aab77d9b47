"""What is logged of a training: means over all processes, as lines of `metrics.jsonl`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor


class Mean(NamedTuple):
    """A mean over so many things in this process, by whose number processes are weighted."""

    value: Tensor | float
    number: float = 1


def over_processes(metrics: Mapping[str, Mean | Tensor | float], accelerator: Accelerator) -> dict[str, float]:
    """Means over all processes, which all call this at the same step with the same names. A plain number is a mean
    over one thing."""
    means = [value if isinstance(value, Mean) else Mean(value) for value in metrics.values()]
    values = torch.stack([torch.as_tensor(mean.value, device=accelerator.device).detach().double() for mean in means])
    numbers = torch.tensor([mean.number for mean in means], dtype=torch.float64, device=values.device)
    sums, numbers = accelerator.reduce(torch.stack([values * numbers, numbers]), "sum")
    return dict(zip(metrics, (sums / numbers).tolist()))


class MetricsLog:
    """`metrics.jsonl`: a line for each logged step."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, step: int, values: dict[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in values.items()}}) + "\n")

    def drop_after(self, step: int) -> None:
        """Removes lines beyond the step that a run resumes from: they will be written again."""
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if json.loads(line)["step"] <= step]
            self.path.write_text("".join(f"{line}\n" for line in kept))


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The logged steps of a run folder."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
