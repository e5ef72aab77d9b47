"""What every training command shares: its run folder, optimiser, log and checkpoints. Each command's loop is its own.

A run folder holds `config.yaml` (resolved), `metrics.jsonl` (one object a logged step), `checkpoints/`
(the newest loop state; the same command resumes from it) and the model's weights when it is done.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, InitProcessGroupKwargs, ProjectConfiguration
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from tqdm.auto import tqdm

from evagen.config import ONLY_HOW, Section, differences, load_config, save_config
from evagen.errors import UserError
from evagen.kernels.attention import choose_attention
from evagen.kernels.backends import AttentionBackend
from evagen.training.sharding import WholeAverage, whole, whole_model


def _no_is_a_word(value: Any) -> Any:
    """YAML reads a bare `no` as false."""
    return "no" if value is False else value


class RunConfig(Section):
    """Where a run leaves its results and how it is carried out."""

    out: Annotated[Path, ONLY_HOW]
    """The run folder. Running the same command again resumes what is unfinished there."""
    seed: int = Field(0, ge=0)
    """Seed of weights, data order and all other draws."""
    log_every: Annotated[int, ONLY_HOW] = Field(10, ge=1)
    """Steps between log lines."""
    save_every: Annotated[int, ONLY_HOW] = Field(1000, ge=1)
    """Steps between checkpoints."""
    mixed_precision: Annotated[Literal["no", "bf16", "fp16"] | None, BeforeValidator(_no_is_a_word)] = None
    """Accelerate's setting if None."""
    tracker: Annotated[Literal["tensorboard", "wandb", "none"], ONLY_HOW] = "tensorboard"
    num_workers: Annotated[int, ONLY_HOW] = Field(0, ge=0)
    """Processes that decode video beside the training process."""
    gradient_checkpointing: Annotated[bool, ONLY_HOW] = False
    """Compute the layers' activations again in the backward pass instead of keeping them: a third more time for a
    fraction of the memory."""
    compile: Annotated[bool, ONLY_HOW] = False
    """Compile the model's layers with torch.compile, for any number of tokens at once."""
    attention: Annotated[AttentionBackend, ONLY_HOW] = "auto"
    """Which kernels compute attention over packed sequences; `auto` takes the fastest that the device has."""


class OptimizerConfig(Section):
    """AdamW, or Muon for the matrices of the transformer layers and AdamW for the rest; linear warm-up and
    cosine decay to zero."""

    matrices: Literal["adamw", "muon"] = "adamw"
    """What trains the matrices of the layers. Muon reaches in 100 steps what AdamW does in several hundred on
    the small models here (docs/log.md)."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    """Clips of a batch in each process."""
    accumulation: int = Field(1, ge=1)
    """Batches whose gradients make one step, for large batches on small devices."""
    learning_rate: float = Field(gt=0)
    """Of AdamW."""
    muon_learning_rate: float = Field(0.02, gt=0)
    """Of Muon, scaled to AdamW's update size (torch's `match_rms_adamw`)."""
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    """On matrices only, not on norms, biases and embeddings."""
    betas: tuple[float, float] = (0.9, 0.95)
    gradient_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights, which is what a run leaves; 0 leaves the last weights. The average
    starts with a smaller decay, (1 + step) / (10 + step)."""


class TrainingRun:
    """The run folder, Accelerator, optimiser, averaged weights, log and checkpoints of one training command.

        run = TrainingRun(config, config.run, config.optimizer, model)
        run.resume()
        for batch_number in run.batches():
            ...
            run.update(loss, {"l1": ..., ...}, num_clips)
        run.finish(model)

    A *step* is one change of the weights, after `accumulation` batches. `run.model` is the model as Accelerate
    wrapped it, `run.step` the number of steps done.
    """

    def __init__(self, config: Section, run: RunConfig, optimizer: OptimizerConfig, model: nn.Module):
        self.config, self.run, self.optimizer_config = config, run, optimizer
        self.accelerator = start_accelerator(config, run, optimizer.accumulation)
        self.first_step = self.step = 0
        optimizers = make_optimizers(model, optimizer)
        if self.accelerator.mixed_precision == "fp16" and len(optimizers) > 1:
            raise UserError("run.mixed_precision=fp16 scales the gradients of one optimiser only; use bf16, or adamw")
        prepare_layers(model, run)
        self.model, *self.optimizers = self.accelerator.prepare(model, *optimizers)  # FSDP needs them together
        self.schedulers = [
            get_cosine_schedule_with_warmup(each, optimizer.warmup_steps, optimizer.steps) for each in self.optimizers
        ]
        decay = optimizer.ema_decay
        self.average = EMAModel(self.model.parameters(), decay=decay, foreach=True) if decay else None
        self.log = MetricsLog(run.out / "metrics.jsonl") if self.accelerator.is_main_process else None
        self._not_finite = NotFinite(self.accelerator)
        self._clips, self._started = 0, time.monotonic()

    def resume(self, keep: Sequence[Any] = ()) -> None:
        """Takes up the newest checkpoint, if there is one. To be called once, when everything that belongs to the
        loop's state is prepared; `keep` lists further objects with a `state_dict`."""
        kept = [*self.schedulers, *keep, *([WholeAverage(self.average)] if self.average else [])]
        self.accelerator.register_for_checkpointing(*kept)
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
        with self._bar:
            for batch_number in range(self.first_batch, steps * accumulation):
                self.step = batch_number // accumulation
                with self.accelerator.accumulate(self.model):
                    yield batch_number
                due = self.ends_step and (self.step + 1) % self.run.save_every == 0 and self.step + 1 < steps
                if due:
                    self._save(self.step + 1)  # here, when the loop has done all that belongs to the step

    def update(self, loss: Tensor, metrics: dict[str, Any], num_clips: int) -> None:
        """Adds the gradient of `loss`; where the batch ends a step, changes the weights and writes a log line if one
        is due. `metrics` holds scalars to log; a function as value is called only then.
        Raises UserError at the next log line or checkpoint after a loss, a term or a gradient that is not finite."""
        self.accelerator.backward(loss)
        self._clips += num_clips * self.accelerator.num_processes
        terms = {"loss": loss, **{name: value for name, value in metrics.items() if isinstance(value, Tensor)}}
        if not self.ends_step:
            self._not_finite.look(self.step + 1, terms)
            return
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.optimizer_config.gradient_clip)
        norm = whole(torch.as_tensor(norm))
        if self.accelerator.mixed_precision != "fp16":  # where the scaler skips steps with infinite gradients
            terms["gradient_norm"] = norm
        self._not_finite.look(self.step + 1, terms)
        for each in (*self.optimizers, *self.schedulers):
            each.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        if self.average:
            self.average.step(self.model.parameters())
        self._bar.update()
        done = self.step + 1
        if done % self.run.log_every == 0 or done == self.optimizer_config.steps:
            self._write_log(done, {"loss": loss, **metrics, "gradient_norm": norm})

    def finish(self, model: nn.Module) -> None:
        """Writes the trained weights, averaged if so configured, into the run folder and drops the loop state, which
        is done with."""
        if self.average:
            self.average.foreach = False  # FSDP's tensors cannot be copied in one call
            self.average.copy_to(self.model.parameters())
        trained = whole_model(self.accelerator, self.accelerator.unwrap_model(model))
        if self.accelerator.is_main_process:
            trained.save_pretrained(self.run.out)
            shutil.rmtree(self.run.out / "checkpoints", ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()  # the processes part: nothing that needs all of them may come after it

    def _write_log(self, step: int, metrics: dict[str, Any]) -> None:
        self._check_finite()
        values = {name: value() if callable(value) else value for name, value in metrics.items()}
        values = {name: float(v.detach().float() if isinstance(v, Tensor) else v) for name, v in values.items()}
        values["learning_rate"] = self.schedulers[-1].get_last_lr()[0]
        values["clips_per_second"] = self._clips / (time.monotonic() - self._started)
        self._clips, self._started = 0, time.monotonic()
        self.accelerator.log(values, step=step)
        if self.log:
            self.log.write(step, values)
        self._bar.set_postfix({name: f"{value:.3g}" for name, value in values.items() if name in SHOWN})

    def _check_finite(self) -> None:
        found = self._not_finite.first()
        if found is None:
            return
        step, names = found
        newest = self._newest_checkpoint()
        raise UserError(
            f"step {step}: {', '.join(names)} became NaN or infinite. "
            + (f"The last good checkpoint is {newest}" if newest else "No checkpoint had been written yet")
            + "; try a lower optimizer.learning_rate or more optimizer.warmup_steps"
        )

    def _save(self, step: int) -> None:
        self._check_finite()
        folder = self.run.out / "checkpoints" / f"step_{step:08d}"
        self.accelerator.save_state(str(folder), safe_serialization=True)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            (folder / "complete").touch()
            for old in folder.parent.iterdir():
                if old != folder:
                    shutil.rmtree(old)

    def _newest_checkpoint(self) -> Path | None:
        finished = (self.run.out / "checkpoints").glob("step_*/complete")
        return max((path.parent for path in finished), default=None)

    def _resume(self) -> int:
        newest = self._newest_checkpoint()
        if newest is None:
            return 0
        self.accelerator.load_state(str(newest))
        step = int(newest.name.removeprefix("step_"))
        if self.log:
            self.log.drop_after(step)
        self.accelerator.print(f"resuming {self.run.out} at step {step}")
        return step


class NotFinite:
    """Remembers the first step at which a term was NaN or infinite, and which terms. It looks at every step but
    keeps what it sees on the device, so that nothing waits for it until `first` is asked."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.step = torch.zeros((), dtype=torch.int64, device=accelerator.device)  # 0: none so far
        self.names: list[str] = []
        self.broken = torch.zeros(0, dtype=torch.bool, device=accelerator.device)

    @torch.no_grad()
    def look(self, step: int, terms: dict[str, Tensor]) -> None:
        """terms: scalars by name; `step` counts from 1."""
        for name in terms:
            if name not in self.names:
                self.names.append(name)
                self.broken = torch.cat([self.broken, self.broken.new_zeros(1)])
        values = torch.ones_like(self.broken, dtype=torch.float32)
        places = torch.tensor([self.names.index(name) for name in terms], device=values.device)
        values[places] = torch.stack([term.detach().float().to(values.device) for term in terms.values()])
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


def prepare_layers(model: nn.Module, run: RunConfig) -> None:
    """Sets how the layers compute, before Accelerate wraps the model."""
    choose_attention(model, run.attention)
    if run.gradient_checkpointing:
        if not getattr(model, "_supports_gradient_checkpointing", False):
            raise UserError(f"run.gradient_checkpointing is not offered by {type(model).__name__}; leave it off")
        model.enable_gradient_checkpointing()
    if run.compile:
        model.compile_repeated_blocks(dynamic=True)


SHOWN = ("loss", "codes_used", "clips_per_second", "accuracy", "content_loss")


def start_accelerator(
    config: Section, run: RunConfig, accumulation: int = 1, patience: timedelta | None = None, claim: bool = True
) -> Accelerator:
    """Makes the run folder, writes the resolved config, starts the tracker. `patience`: how long processes wait for
    each other before they take the others for dead, torch's 10 to 30 minutes if None. `claim`: raise UserError when
    the folder holds a run with another config."""
    log_with = None if run.tracker == "none" else run.tracker
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = Accelerator(
        # Without this, Accelerate takes each of several processes on a machine without GPUs for a run of its own.
        cpu=several and not torch.accelerator.is_available(),
        mixed_precision=run.mixed_precision,
        gradient_accumulation_steps=accumulation,
        log_with=log_with,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=patience)] if patience else None,
        project_config=ProjectConfiguration(project_dir=str(run.out), logging_dir=str(run.out)),
        dataloader_config=DataLoaderConfiguration(dispatch_batches=False),
    )
    if accelerator.is_main_process:
        (claim_folder if claim else save_config)(config, run.out)
    accelerator.wait_for_everyone()
    if log_with:
        accelerator.init_trackers("tracker")
    return accelerator


def claim_folder(config: Section, out: Path) -> None:
    """Writes `config.yaml` into a run folder. Raises UserError if it already holds the config of another run, one that
    differs in more than how it is carried out."""
    existing = out / "config.yaml"
    if existing.exists() and (differing := differences(config, load_config(type(config), existing))):
        listed = [f"{key} is {theirs} there and {ours} here" for key, (ours, theirs) in differing.items()]
        more = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
        raise UserError(
            f"{out} holds a run with another config: {', '.join(listed[:4])}{more}; choose another run.out, or delete "
            "the folder to start afresh"
        )
    save_config(config, out)


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


def batch_generator(seed: int, batch_number: int, process_index: int = 0) -> torch.Generator:
    """The random numbers of one batch: they depend on nothing else, so a resumed run draws the same."""
    return torch.Generator().manual_seed((seed * 1_000_003 + batch_number) * 4_099 + process_index)


def is_finished(config: Section, out: Path) -> bool:
    """Whether a run folder already holds the trained weights of this config.
    Raises UserError if they are those of another."""
    if not (out / "diffusion_pytorch_model.safetensors").exists():
        return False
    claim_folder(config, out)
    return True


def make_optimizers(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices if asked for, AdamW for the rest, without decay on norms, biases, embeddings."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    muon, decayed, others = [], [], []
    for name, parameter in model.named_parameters():
        in_layer = "layers." in name or "blocks." in name  # ours, and timm's
        if config.matrices == "muon" and parameter.ndim == 2 and in_layer:
            muon.append(parameter)
        else:
            (others if parameter.ndim < 2 or id(parameter) in embeddings else decayed).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if muon:
        optimizers.append(
            torch.optim.Muon(muon, config.muon_learning_rate, config.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizers.append(torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas))
    return optimizers
