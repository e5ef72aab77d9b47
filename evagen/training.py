"""What every training command shares: its run folder, optimiser, log and checkpoints. Each command's loop is its own.

A run folder holds `config.yaml` (resolved), `metrics.jsonl` (one object a logged step), `checkpoints/`
(the newest loop state; the same command resumes from it) and the model's weights when it is done.
"""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration
from diffusers.optimization import get_cosine_schedule_with_warmup
from pydantic import Field
from torch import Tensor, nn
from tqdm.auto import tqdm

from evagen.config import Section, load_config, save_config
from evagen.errors import UserError


class RunConfig(Section):
    """Where a run leaves its results and how it is carried out."""

    out: Path
    """The run folder. Running the same command again resumes what is unfinished there."""
    seed: int = Field(0, ge=0)
    """Seed of weights, data order and all other draws."""
    log_every: int = Field(10, ge=1)
    """Steps between log lines."""
    save_every: int = Field(1000, ge=1)
    """Steps between checkpoints."""
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """Accelerate's setting if None."""
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    num_workers: int = Field(0, ge=0)
    """Processes that decode video beside the training process."""


class OptimizerConfig(Section):
    """AdamW, or Muon for the matrices of the transformer layers and AdamW for the rest; linear warm-up and
    cosine decay to zero."""

    matrices: Literal["adamw", "muon"] = "adamw"
    """What trains the matrices of the layers. Muon reaches in 100 steps what AdamW does in several hundred on
    the small models here (docs/log.md)."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    """Clips a step in each process."""
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


class TrainingRun:
    """The run folder, Accelerator, optimiser and log of one training command.

        run = TrainingRun(config, config.run, config.optimizer, model)
        run.resume()
        for step in run.steps():
            ...
            run.update(loss, {"l1": ..., ...}, num_clips)

    `run.model` is the model as Accelerate wrapped it.
    """

    def __init__(self, config: Section, run: RunConfig, optimizer: OptimizerConfig, model: nn.Module):
        self.config, self.run, self.optimizer_config = config, run, optimizer
        self.accelerator = start_accelerator(config, run)
        self.first_step = 0
        optimizers = make_optimizers(model, optimizer)
        self.model = self.accelerator.prepare(model)
        self.optimizers = [self.accelerator.prepare(each) for each in optimizers]
        self.schedulers = [
            get_cosine_schedule_with_warmup(each, optimizer.warmup_steps, optimizer.steps) for each in optimizers
        ]
        self.log = MetricsLog(run.out / "metrics.jsonl") if self.accelerator.is_main_process else None
        self._clips, self._started = 0, time.monotonic()

    def resume(self, keep: Sequence[Any] = ()) -> None:
        """Takes up the newest checkpoint, if there is one. To be called once, when everything that belongs to the
        loop's state is prepared; `keep` lists further objects with a `state_dict`."""
        self.accelerator.register_for_checkpointing(*self.schedulers, *keep)
        self.first_step = self._resume()

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def steps(self) -> Iterator[int]:
        """Step numbers from where the run stands to its end, under a progress bar."""
        self._bar = tqdm(
            total=self.optimizer_config.steps,
            initial=self.first_step,
            desc=self.run.out.name,
            disable=not self.accelerator.is_local_main_process,
            dynamic_ncols=True,
        )
        with self._bar:
            for step in range(self.first_step, self.optimizer_config.steps):
                yield step
                if (step + 1) % self.run.save_every == 0 and step + 1 < self.optimizer_config.steps:
                    self._save(step + 1)  # here, when the loop has done all that belongs to the step
        self.accelerator.end_training()

    def update(self, step: int, loss: Tensor, metrics: dict[str, Any], num_clips: int) -> None:
        """One optimiser step on `loss`, and a log line where one is due. `metrics` holds scalars to log;
        a function as value is called only then. Raises UserError when the loss is not finite."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.optimizer_config.gradient_clip)
        for each in (*self.optimizers, *self.schedulers):
            each.step()
        self._clips += num_clips * self.accelerator.num_processes
        self._bar.update()
        done = step + 1
        if done % self.run.log_every == 0 or done == self.optimizer_config.steps:
            self._write_log(done, loss, metrics)

    def finish(self, model: nn.Module) -> None:
        """Writes the trained weights into the run folder and drops the loop state, which is done with."""
        if self.accelerator.is_main_process:
            self.accelerator.unwrap_model(model).save_pretrained(self.run.out)
            shutil.rmtree(self.run.out / "checkpoints", ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _write_log(self, step: int, loss: Tensor, metrics: dict[str, Any]) -> None:
        values = {"loss": loss, **metrics}
        values = {name: value() if callable(value) else value for name, value in values.items()}
        values = {name: float(v.detach().float() if isinstance(v, Tensor) else v) for name, v in values.items()}
        broken = [name for name, value in values.items() if value != value or abs(value) == float("inf")]
        if broken:
            raise UserError(
                f"step {step}: {', '.join(broken)} became NaN or infinite. The newest checkpoint is kept in "
                f"{self.run.out / 'checkpoints'}; try a lower optimizer.learning_rate or more optimizer.warmup_steps"
            )
        values["learning_rate"] = self.schedulers[-1].get_last_lr()[0]
        values["clips_per_second"] = self._clips / (time.monotonic() - self._started)
        self._clips, self._started = 0, time.monotonic()
        self.accelerator.log(values, step=step)
        if self.log:
            self.log.write(step, values)
        self._bar.set_postfix({name: f"{value:.3g}" for name, value in values.items() if name in SHOWN})

    def _save(self, step: int) -> None:
        folder = self.run.out / "checkpoints" / f"step_{step:08d}"
        self.accelerator.save_state(str(folder), safe_serialization=True)
        if self.accelerator.is_main_process:
            (folder / "complete").touch()
            for old in folder.parent.iterdir():
                if old != folder:
                    shutil.rmtree(old)

    def _resume(self) -> int:
        finished = (self.run.out / "checkpoints").glob("step_*/complete")
        newest = max((path.parent for path in finished), default=None)
        if newest is None:
            return 0
        self.accelerator.load_state(str(newest))
        step = int(newest.name.removeprefix("step_"))
        if self.log:
            self.log.drop_after(step)
        self.accelerator.print(f"resuming {self.run.out} at step {step}")
        return step


SHOWN = ("loss", "codes_used", "clips_per_second", "accuracy", "content_loss")


def start_accelerator(config: Section, run: RunConfig) -> Accelerator:
    """Makes the run folder, writes the resolved config, starts the tracker.
    Raises UserError when the folder holds a run with another config."""
    log_with = None if run.tracker == "none" else run.tracker
    accelerator = Accelerator(
        mixed_precision=run.mixed_precision,
        log_with=log_with,
        project_config=ProjectConfiguration(project_dir=str(run.out), logging_dir=str(run.out)),
        dataloader_config=DataLoaderConfiguration(dispatch_batches=False),
    )
    if accelerator.is_main_process:
        claim_folder(config, run.out)
    accelerator.wait_for_everyone()
    if log_with:
        accelerator.init_trackers("tracker")
    return accelerator


def claim_folder(config: Section, out: Path) -> None:
    """Writes `config.yaml` into a run folder. Raises UserError if it already holds the config of another run."""
    existing = out / "config.yaml"
    if existing.exists() and load_config(type(config), existing) != config:
        raise UserError(
            f"{out} holds a run with another config ({existing}); choose another run.out, or delete the folder "
            "to start afresh"
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


def step_generator(seed: int, step: int, process_index: int = 0) -> torch.Generator:
    """The random numbers of one training step: they depend on nothing else, so a resumed run draws the same."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 4_099 + process_index)


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
        if config.matrices == "muon" and parameter.ndim == 2 and "layers." in name:
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
