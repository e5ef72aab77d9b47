"""Whether a training goes on in the run folder of an earlier call, and what of its config may have changed since."""

import os
from pathlib import Path

from evagen.config import Section
from evagen.errors import UserError
from evagen.run import claim_folder, config_there
from evagen.training.checkpoints import WEIGHTS, Manifest, newest_state
from evagen.training.optimizers import are_the_same_until
from evagen.training.settings import OptimizerConfig

SHARING = ("optimizer.batch_size", "optimizer.tokens_per_batch", "optimizer.accumulation")
"""Keys that say how a step is shared out among processes and batches."""
PLANNING = ("optimizer.steps", "optimizer.decay_share")
"""Keys that say how long a training is to be."""


def is_finished(config: Section, out: Path) -> bool:
    """Whether a run folder already holds the trained weights of this config, and not of one with fewer steps. Raises
    UserError if they are those of another."""
    if not (out / WEIGHTS).exists():
        return False
    optimizer: OptimizerConfig = config.optimizer  # type: ignore[attr-defined]
    earlier, newest = _optimizer_there(config, out) or optimizer, newest_state(out)
    if newest is None and earlier.steps < optimizer.steps:
        how = f"further with start_from={out} and" if hasattr(config, "start_from") else "anew with"
        raise UserError(
            f"{out} is a training of {earlier.steps} steps, whose loop state is not there to go on to "
            f"{optimizer.steps}: train {how} another run.out"
        )
    claim_folder(config, out, may_differ(config, out, optimizer))
    return newest is None or newest.step == optimizer.steps


def may_differ(config: Section, out: Path, optimizer: OptimizerConfig) -> tuple[str, ...]:
    """The keys that may have other values than those that a run folder's training began with, by its newest state:
    `SHARING` where a step is as large with the processes that there are now, so also where memory had run out;
    `PLANNING` where the state stands as it would with the plan at hand from the beginning. So the plateau of a `wsd`
    schedule may end sooner."""
    newest = newest_state(out)
    earlier = _optimizer_there(config, out) if newest else None
    if newest is None or earlier is None:
        return ()
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # the Accelerator is made later
    counts_the_same = (earlier.batch_size is None) == (optimizer.batch_size is None)  # clips, or tokens
    is_as_large = newest.manifest.batch == optimizer.items_per_step(processes) and counts_the_same
    agrees = newest.step < optimizer.steps and are_the_same_until(newest.step, earlier, optimizer)
    return (*(SHARING if is_as_large else ()), *(PLANNING if agrees else ()))


def check_batch(manifest: Manifest, out: Path, optimizer: OptimizerConfig, processes: int) -> None:
    """Raises UserError where a step would have another size than those before, having other processes."""
    now = optimizer.items_per_step(processes)
    if manifest.batch != now:
        raise UserError(
            f"{out} was trained by {manifest.processes} processes, with {manifest.batch} clips (or "
            f"tokens) in a step, and {processes} would have {now}: go on with {manifest.processes}, or change "
            "optimizer.batch_size (or tokens_per_batch) or accumulation so that the product is the same"
        )


def _optimizer_there(config: Section, out: Path) -> OptimizerConfig | None:
    """The optimiser's part of the config that a run folder holds, one of the same kind as `config`."""
    there = config_there(config, out)
    return there.optimizer if there else None  # type: ignore[attr-defined]
