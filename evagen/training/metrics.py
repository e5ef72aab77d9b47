"""What is logged of a training: means over all processes, as lines of `metrics.jsonl`."""

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from evagen.kernels.files import atomic_write, no_room
from evagen.tokenizer import CodebookUsage


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


class SinceLastLine:
    """What the next line of a tokenizer's log tells of earlier batches: which codes they took, and what was last told
    by networks that learn after the tokenizer. Belongs to the loop's state, so that a resumed run logs what an
    uninterrupted one does."""

    def __init__(self, codebook_size: int, accelerator: Accelerator):
        self.accelerator = accelerator
        self.usage = CodebookUsage(codebook_size)
        self.terms: dict[str, Tensor] = {}

    def take(self) -> dict[str, Tensor | float]:
        """For all processes together: what the line at hand tells. Codes are counted anew after it."""
        usage = CodebookUsage.of(self._counts_of_all())
        of_codes = {"codes_used": usage.used_fraction(), "perplexity": usage.perplexity()}
        self.usage.reset()
        return {**self.terms, **of_codes}

    def state_dict(self) -> dict[str, Any]:
        """For all processes together: the counts of all, and means of the terms."""
        counts = self._counts_of_all().cpu()
        return {"counts": counts, "terms": over_processes(self.terms, self.accelerator) if self.terms else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        counts = state["counts"] if self.accelerator.is_main_process else torch.zeros_like(state["counts"])
        self.usage = CodebookUsage.of(counts)
        self.terms = {name: torch.tensor(value, dtype=torch.float64) for name, value in state["terms"].items()}

    def _counts_of_all(self) -> Tensor:
        """How often each code was taken, int64 (K,) on the accelerator's device."""
        return self.accelerator.reduce(self.usage.counts.to(self.accelerator.device), "sum")


class MetricsLog:
    """`metrics.jsonl`: a line for each logged step."""

    def __init__(self, path: Path):
        self.path = path
        self._waiting = b""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Where the disk is full, the line is kept and written with a later one."""
        line = json.dumps({"step": step, **{name: float(f"{value:.7g}") for name, value in values.items()}}) + "\n"
        self._waiting += line.encode()
        with self.path.open("ab", buffering=0) as file:
            whole = file.tell()
            try:
                written = file.write(self._waiting)
            except OSError as error:
                if not no_room(error):
                    raise
                written = 0
            if written == len(self._waiting):
                self._waiting = b""
            elif written:
                file.truncate(whole)

    def drop_after(self, step: int) -> None:
        """Removes lines beyond the step that a run resumes from: they will be written again. They are the last ones, so
        no others are looked at."""
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        kept = len(data)
        while kept:
            begin = data.rfind(b"\n", 0, kept - 1) + 1
            if data.endswith(b"\n", begin, kept) and _step_of(data[begin:kept]) <= step:
                break
            kept = begin
        if kept < len(data):
            with atomic_write(self.path) as unfinished:
                unfinished.write_bytes(memoryview(data)[:kept])


def _step_of(line: bytes) -> float:
    """Of a line of the log; beyond all steps for one that a killed process has not finished."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def iterate_metrics(folder: Path) -> Iterator[dict[str, float]]:
    """The logged steps of a run folder, without a line that a killed process has not finished."""
    with (folder / "metrics.jsonl").open("rb") as log:
        for line in log:
            with suppress(ValueError):
                values = json.loads(line)
                if isinstance(values, dict) and "step" in values:
                    yield values


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """All of them; of a long training they take gigabytes."""
    return list(iterate_metrics(folder))


Columns = Mapping[str, tuple[array, array]]
"""Of each name in a log the steps that tell it, and its values, float64 both."""


def columns_of(lines: Iterable[Mapping[str, float]]) -> Columns:
    """A log by names, `step` among them: a seventh of what the lines take."""
    columns: dict[str, tuple[array, array]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in columns:
                columns[name] = array("d"), array("d")
            steps, values = columns[name]
            steps.append(line["step"])
            values.append(value)
    return columns
