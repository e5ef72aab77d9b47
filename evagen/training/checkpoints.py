"""What a training keeps on disk while it goes: loop states, from which it goes on, and snapshots of its model.

<run>/checkpoints/step_00035000/    everything that going on needs; `complete` says for how many steps it was planned
<run>/snapshots/step_00035000/      the model alone, loaded as `runs/x@35000`
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from evagen.kernels.sources import CONFIG, FINISHED, SNAPSHOTS, STEP
from evagen.training.optimizers import decay_begins, learning_rate_factor
from evagen.training.settings import OptimizerConfig

WEIGHTS = "diffusion_pytorch_model.safetensors"
"""What a finished run holds."""


class Checkpoints:
    """The loop states and snapshots of one run folder. Where several processes train, the main one alone calls what
    writes."""

    def __init__(self, out: Path, optimizer: OptimizerConfig, num_snapshots: int):
        self.out, self.optimizer, self.num_snapshots = out, optimizer, num_snapshots

    def is_due(self, step: int, every: int) -> bool:
        """Whether to save after so many steps: every so many, and before a `wsd` schedule's rate falls, from where
        alone a longer one goes on as if it had been the plan from the beginning."""
        return step < self.optimizer.steps and (step % every == 0 or step == decay_begins(self.optimizer))

    def state(self, step: int) -> Path:
        """The folder of a loop state, there or to be written."""
        return self.out / "checkpoints" / step_name(step)

    def complete(self, step: int) -> None:
        """Says that a loop state is whole, and deletes those that it makes superfluous."""
        (self.state(step) / "complete").write_text(json.dumps({"planned_steps": self.optimizer.steps}))
        needed = {self.state(step), self.state(decay_begins(self.optimizer) or step)}
        for old in self.state(step).parent.iterdir():
            if old not in needed:
                shutil.rmtree(old)

    def newest(self) -> Path | None:
        """The loop state to go on from: the newest whose learning rates so far are those of the plan at hand. Where all
        are of another plan, the newest; None where there is none."""
        found = self._states()
        return max(filter(self.agrees, found), default=max(found, default=None))

    def snapshot(self, step: int, save: Callable[[Path], object]) -> None:
        """Has `save` write the model into a folder, and keeps the newest few."""
        folder = self.out / SNAPSHOTS / step_name(step)
        whole = folder.with_name("unfinished")
        save(whole)
        shutil.rmtree(folder, ignore_errors=True)
        whole.rename(folder)
        for old in sorted(folder.parent.glob(STEP))[: -self.num_snapshots]:
            shutil.rmtree(old)

    def set_aside_the_finished(self) -> None:
        """Puts the model that a shorter training left among the snapshots, where it is never deleted."""
        if not (self.out / WEIGHTS).exists():
            return
        folder = self.out / SNAPSHOTS / (step_name(max(map(planned_steps, self._states()))) + FINISHED)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (WEIGHTS, CONFIG):
            (self.out / name).replace(folder / name)

    def _states(self) -> list[Path]:
        return [path.parent for path in (self.out / "checkpoints").glob("step_*/complete")]

    def agrees(self, state: Path) -> bool:
        """Whether the run would stand where this state does if it had been planned as it is now."""
        earlier = self.optimizer.model_copy(update={"steps": planned_steps(state)})
        steps = range(step_of(state))
        return all(learning_rate_factor(n, earlier) == learning_rate_factor(n, self.optimizer) for n in steps)


def step_name(step: int) -> str:
    """The name of a step's folder."""
    return f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """The step whose folder it is."""
    return int(folder.name.removeprefix("step_"))


def planned_steps(state: Path) -> int:
    """How long the training was to be when a loop state was written."""
    return json.loads((state / "complete").read_text())["planned_steps"]


def newest_state(out: Path) -> Path | None:
    """The newest loop state in a run folder."""
    return max((path.parent for path in (out / "checkpoints").glob("step_*/complete")), default=None)
