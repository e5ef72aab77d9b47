"""The loop state that every training command shares: run folder, optimiser, log and checkpoints. Each command's loop is
its own.

A run folder holds `config.yaml` (resolved), `metrics.jsonl` (one object a logged step), `checkpoints/`
(loop states; the same command resumes from the newest that is whole), `snapshots/` (the model of the newest steps) and
the model's weights when it is done.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from tqdm.auto import tqdm

from evagen.config import Section
from evagen.errors import UserError
from evagen.models.inference import HALF
from evagen.run import start_accelerator
from evagen.training.checkpoints import Checkpoints, final_weights
from evagen.training.failures import where_room
from evagen.training.loop_state import LoopState
from evagen.training.metrics import Mean, MetricsLog, over_processes
from evagen.training.not_finite import NotFinite
from evagen.training.optimizers import make_optimizers, make_scheduler
from evagen.training.resuming import check_batch, may_differ
from evagen.training.settings import LayerSettings, OptimizerConfig, TrainingSettings
from evagen.training.sharding import WholeAverage, average_of, prepare, spread_again, whole, whole_model
from evagen.training.stopping import StopRequest

SHOWN = ("loss", "codes_used", "clips_per_second", "accuracy", "content_loss")
"""What the progress bar shows of the log."""


class TrainingRun:
    """The run folder, Accelerator, optimiser, averaged weights, log and checkpoints of one training command.

        run = TrainingRun(config, config.run, config.optimizer, model)
        run.resume()
        for batch_number in run.batches():
            ...
            run.update(loss, {"l1": ..., ...}, num_clips)
            if run.log_is_due:
                run.log({"loss": loss, ...})
        run.finish()

    A *step* is one change of the weights, after `accumulation` batches. `run.model` is the model as Accelerate
    wrapped it, `run.step` the number of steps done.

    SIGTERM and SIGINT end it after the step at hand, with a checkpoint, by SystemExit of status 143 and 130.
    """

    def __init__(self, config: Section, run: TrainingSettings, optimizer: OptimizerConfig, model: nn.Module):
        self.config, self.run, self.optimizer_config = config, run, optimizer
        self.accelerator = start_accelerator(
            config, run.out, mixed_precision=run.mixed_precision, tracker=run.tracker, project=run.project,
            accumulation=optimizer.accumulation,
            may_differ=may_differ(config, run.out, optimizer),
        )  # fmt: skip
        self._checkpoints = Checkpoints(run.out, optimizer, run.snapshots, run.checkpoints)
        self.first_step = self.step = self._num_updates = 0
        optimizers = make_optimizers(model, optimizer)
        if self.accelerator.mixed_precision == "fp16" and len(optimizers) > 1:
            raise UserError("run.mixed_precision=fp16 scales the gradients of one optimiser only; use bf16, or adamw")
        if isinstance(run, LayerSettings):
            prepare_layers(model, run, self.accelerator)
        self.model, self.optimizers = prepare(self.accelerator, model, *optimizers)  # FSDP needs them together
        self.schedulers = [make_scheduler(each, optimizer) for each in self.optimizers]
        self.average = average_of(self.model, optimizer.ema_decay) if optimizer.ema_decay else None
        self._log = MetricsLog(run.out / "metrics.jsonl") if self.accelerator.is_main_process else None
        self._gradient_norm = torch.zeros(())
        self._not_finite = NotFinite(self.accelerator)
        self._clips, self._started = 0, time.monotonic()
        self._stop = StopRequest()

    def resume(self, keep: Sequence[Any] = ()) -> None:
        """Takes up the newest checkpoint that is whole, if there is one. To be called once, when everything that
        belongs to the loop's state is prepared; `keep` lists further objects with a `state_dict`, which must be the
        same in all processes. Raises UserError where checkpoints are there and none of them can be gone on from."""
        kept = [*self.schedulers, *keep, *([WholeAverage(self.average)] if self.average else [])]
        self._state = LoopState(self.accelerator, kept)
        self.first_step = self.step = self._resume()
        if self.average:
            self.average.to(self.device)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def ends_step(self) -> bool:
        """Whether the batch at hand is the last of its step."""
        return self.accelerator.sync_gradients

    @property
    def first_batch(self) -> int:
        """The number of the first batch that this run sees: 0 unless it resumes."""
        return self.first_step * self.optimizer_config.accumulation

    def batches(self) -> Iterator[int]:
        """Numbers of the batches from where the run stands to its end, under a progress bar of steps."""
        steps, accumulation = self.optimizer_config.steps, self.optimizer_config.accumulation
        self._bar = tqdm(
            total=steps,
            initial=self.first_step,
            desc=self.run.out.name,
            disable=not self.accelerator.is_local_main_process,
            dynamic_ncols=True,
        )
        with self._bar, self._stop.watched():
            for batch_number in range(self.first_batch, steps * accumulation):
                self.step = batch_number // accumulation
                with self.accelerator.accumulate(self.model):
                    yield batch_number
                if self.ends_step:  # here, when the loop has done all that belongs to the step
                    self._end_step(self.step + 1)

    def _end_step(self, step: int) -> None:
        is_due = self._checkpoints.is_due(step, self.run.save_every)
        is_saved = is_due and self._save(step)
        if (number := self._stop.asked()) and step < self.optimizer_config.steps:
            is_saved = is_saved or self._save_state(step)
            self._end_trackers()
            if self.accelerator.is_main_process:
                name, out = signal.Signals(number).name, self.run.out
                left = f"the same command goes on there, in {out}" if is_saved else "its checkpoint found no room"
                print(f"{name}: stopped after step {step} of {self.optimizer_config.steps}; {left}", file=sys.stderr)
            raise SystemExit(128 + number)

    def update(self, loss: Tensor, terms: Mapping[str, Tensor], num_clips: float) -> None:
        """Adds the gradient of `loss`; where the batch ends a step, changes the weights. Loss, gradient and `terms`,
        scalars, are watched."""
        self.accelerator.backward(loss)
        self._clips += num_clips * self.accelerator.num_processes
        watched = {"loss": loss, **terms}
        if not self.ends_step:
            self.watch(watched)
            return
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.optimizer_config.gradient_clip)
        self._gradient_norm = whole(torch.as_tensor(norm))
        if self.accelerator.mixed_precision != "fp16":  # where the scaler skips steps with infinite gradients
            watched["gradient_norm"] = self._gradient_norm
        self.watch(watched)
        for each in (*self.optimizers, *self.schedulers):
            each.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        if self.average:
            self.average.step(self.model.parameters())
        self._num_updates += 1
        self._bar.update()

    def watch(self, terms: Mapping[str, Tensor]) -> None:
        """Scalars of the step at hand: where one is not finite, the next log line or checkpoint, of this step too, is a
        UserError in its place."""
        self._not_finite.look(self.step + 1, terms)

    @property
    def log_is_due(self) -> bool:
        """Whether the step that the batch at hand has ended gets a line in the log."""
        done = self.step + 1
        return self.ends_step and (done % self.run.log_every == 0 or done == self.optimizer_config.steps)

    def brings_look(self, every: int) -> bool:
        """Whether the line of the log that is due tells of a look at what is held out: the first line after each
        multiple of `every` steps does, and the last."""
        done, last_line = self.step + 1, self.step // self.run.log_every * self.run.log_every
        return done == self.optimizer_config.steps or done // every > last_line // every

    def log(self, metrics: Mapping[str, Mean | Tensor | float]) -> None:
        """Writes a line of the log: means over all processes, which all call this, with the gradient's norm, the
        learning rate and the speed."""
        self._check_finite()
        values = over_processes({**metrics, "gradient_norm": self._gradient_norm}, self.accelerator)
        values["learning_rate"] = self.schedulers[-1].get_last_lr()[0]
        values["clips_per_second"] = self._clips / (time.monotonic() - self._started)
        self._clips, self._started = 0, time.monotonic()
        self._track(values)
        if self._log:
            self._log.write(self.step + 1, values)
        self._bar.set_postfix({name: f"{value:.3g}" for name, value in values.items() if name in SHOWN})

    def _track(self, values: dict[str, float]) -> None:
        for tracker in list(self.accelerator.trackers):  # one that failed once may fail for ever
            write = partial(tracker.log, values, step=self.step + 1)
            if not where_room(f"step {self.step + 1} in {tracker.name}", write, "and tells it no more"):
                self.accelerator.trackers.remove(tracker)

    def finish(self) -> None:
        """Writes the loop's last state, from which the run could go on to more steps, and the trained weights, averaged
        if so configured, into the run folder."""
        steps = self.optimizer_config.steps
        if self.first_step + self._num_updates < steps:
            raise UserError(
                f"only {self.first_step + self._num_updates} of {steps} steps were trained, so no weights are written: "
                "the batches ended early, or Accelerate accumulates gradients by a setting of its own"
            )
        if self.first_step < steps:
            self._save_state(steps, is_last=True)
        with self.model_so_far() as trained:
            if self.accelerator.is_main_process:
                final_weights(self.run.out, trained.save_pretrained)
        self.accelerator.wait_for_everyone()
        self._end_trackers()  # nothing that needs all processes may come after it: some may be gone

    def _end_trackers(self) -> None:
        """As Accelerate's `end_training`, which also gives up the group of processes: DDP's reducer, freed later, would
        then be the last to have it, and wait, with the interpreter's lock, for a thread that wants the lock."""
        for tracker in self.accelerator.trackers:
            where_room(f"what {tracker.name} has not written yet", tracker.finish, "and ends")

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The averaged weights in the model, where there is an average: those that the run leaves. Afterwards the
        trained ones are back, to the last bit. For all processes."""
        spread_again(self.model)
        if self.average is None:
            yield
            return
        with torch.no_grad():
            parameters = list(self.model.parameters())
            trained = [parameter.detach().clone() for parameter in parameters]
            try:
                for parameter, average in zip(parameters, self.average.shadow_params):
                    parameter.copy_(average)
                yield
            finally:
                spread_again(self.model)
                for parameter, weights in zip(parameters, trained):
                    parameter.copy_(weights)

    @contextmanager
    def model_so_far(self) -> Iterator[ModelMixin]:
        """The model as the run would leave it now, whole in the main process. For all processes; it draws no random
        number of the training's."""
        with self.averaged_weights(), torch.random.fork_rng([]):  # a model is made anew on the CPU
            yield whole_model(self.accelerator, self.accelerator.unwrap_model(self.model))

    def _check_finite(self) -> None:
        found = self._not_finite.first()
        if found is None:
            return
        step, names = found
        newest = next(iter(self._checkpoints.candidates()), None)
        begins = f", and start_from={self.run.out} to begin with the weights of then"
        raise UserError(
            f"step {step}: {', '.join(names)} became NaN or infinite. "
            + (f"The last good checkpoint is {newest.folder}" if newest else "No checkpoint had been written yet")
            + "; give another run.out, a lower optimizer.learning_rate or more optimizer.warmup_steps"
            + (begins if newest and hasattr(self.config, "start_from") else "")
        )

    def _save(self, step: int) -> bool:
        """Whether the loop's state could be written."""
        is_saved = self._save_state(step)
        with self.model_so_far() as model:
            self._write(step, "snapshot", lambda: self._checkpoints.snapshot(step, model.save_pretrained))
        return is_saved

    def _save_state(self, step: int, is_last: bool = False) -> bool:
        """Whether it could be written."""
        self._check_finite()
        save, processes = self._state.collect(), self.accelerator.num_processes
        batch = self.optimizer_config.items_per_step(processes)
        return self._write(
            step, "checkpoint", lambda: self._checkpoints.write(step, save, processes, batch), must=is_last
        )

    def _write(self, step: int, what: str, write: Callable[[], None], must: bool = False) -> bool:
        """Has the main process write something; where the disk is full and it need not, the training goes on."""
        written = [True]
        if self.accelerator.is_main_process:
            if not (self.run.out / "config.yaml").exists():
                raise FileNotFoundError(f"{self.run.out} was to take the {what} of step {step}")
            if must:
                write()
            else:
                written = [where_room(f"the {what} of step {step}", write)]
        return broadcast_object_list(written)[0]

    def _resume(self) -> int:
        found: list[Any] = [None, []]
        if self.accelerator.is_main_process:
            self._checkpoints.tidy()
            found = list(self._checkpoints.newest())
        newest, damaged = broadcast_object_list(found)
        for each in damaged:
            self.accelerator.print(f"{each.folder} is damaged and left aside: {each.reason}")
        if newest is not None:
            check_batch(newest.manifest, self.run.out, self.optimizer_config, self.accelerator.num_processes)
            if self.accelerator.is_main_process:
                self._checkpoints.set_aside_the_finished()
            self._state.load(newest.folder)
        step = newest.step if newest else 0
        if self._log:
            self._log.drop_after(step)
        if newest:
            self.accelerator.print(f"resuming {self.run.out} at step {step} of {self.optimizer_config.steps}")
        if newest and not self._checkpoints.agrees(newest):
            self.accelerator.print(
                f"it was to end after {newest.manifest.planned_steps}: the learning rate, which has fallen, rises again"
            )
        return step


def prepare_layers(model: nn.Module, run: LayerSettings, accelerator: Accelerator) -> None:
    """Sets how the layers compute, before Accelerate wraps the model."""
    run.choose_attention(model, accelerator.device, HALF.get(accelerator.mixed_precision, torch.float32))
    if run.gradient_checkpointing:
        if not getattr(model, "_supports_gradient_checkpointing", False):
            raise UserError(f"run.gradient_checkpointing is not offered by {type(model).__name__}; leave it off")
        model.enable_gradient_checkpointing()
    if run.compile:
        model.compile_repeated_blocks(dynamic=True)


def batch_generator(seed: int, batch_number: int, process_index: int = 0) -> torch.Generator:
    """The random numbers of one batch: they depend on nothing else, so a resumed run draws the same."""
    return torch.Generator().manual_seed((seed * 1_000_003 + batch_number) * 4_099 + process_index)


def seed_draws(seed: int, process_index: int) -> None:
    """Starts torch's own random numbers, which are dropout's, anew: other ones in every process, and none that the
    weights were made of. Checkpoints hold each process's place among them, so `resume` comes after this."""
    torch.manual_seed(int(np.random.SeedSequence([seed, process_index]).generate_state(1, np.uint64)[0]))
