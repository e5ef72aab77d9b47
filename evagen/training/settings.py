"""The settings that training commands share."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from evagen.config import MAY_GROW, ONLY_HOW, Section
from evagen.run import Attends, RunFolder, Seeded

OURS = ("cosine", "wsd", "constant")
OF_DIFFUSERS = ("linear", "polynomial", "cosine_with_restarts", "piecewise_constant")
"""Schedules of the learning rate."""


Tracker = Literal[
    "tensorboard", "wandb", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab", "trackio", "none"
]  # fmt: skip


class TrainingSettings(Seeded, RunFolder):
    """How a training is carried out, whatever the model."""

    log_every: Annotated[int, ONLY_HOW] = Field(10, ge=1)
    """Steps between log lines."""
    save_every: Annotated[int, ONLY_HOW] = Field(1000, ge=1)
    """Steps between checkpoints: the loop's state, and a snapshot of the model."""
    checkpoints: Annotated[int, ONLY_HOW] = Field(2, ge=1)
    """How many of the newest loop states are kept. Each has about three times the size of the model, four with an
    average; one before the newest is gone on from where that is damaged."""
    snapshots: Annotated[int, ONLY_HOW] = Field(1, ge=1)
    """How many of the newest snapshots are kept. They load as `runs/x@35000`, the newest of an unfinished run as
    `runs/x`."""
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """Accelerate's setting if None."""
    tracker: Annotated[Tracker, ONLY_HOW] = "tensorboard"
    """Where Accelerate sends what is logged and the config, beside `metrics.jsonl` in the run folder."""
    project: Annotated[str, ONLY_HOW] = "evagen"
    """The project's name there; TensorBoard has none."""


class LayerSettings(Attends):
    """How the layers of the tokenizer and the generator are computed in training."""

    gradient_checkpointing: Annotated[bool, ONLY_HOW] = False
    """Compute the layers' activations again in the backward pass instead of keeping them: a third more time for a
    fraction of the memory."""
    compile: Annotated[bool, ONLY_HOW] = False
    """Compile the model's layers with torch.compile, for any number of tokens at once."""


Decay = Annotated[float, Field(ge=0, lt=1)]
FACTOR = r"(\d+\.?\d*|\.\d+)"
LOWEST_OF_POLYNOMIAL = 1e-7
"""Where diffusers' `polynomial` ends."""
OF_ONE_SCHEDULE = {"cycles": "cosine_with_restarts", "power": "polynomial", "decay_share": "wsd"}


class OptimizerConfig(Section):
    """AdamW, or Muon for the matrices and AdamW for the rest; linear warm-up, and then a schedule of the learning
    rate."""

    matrices: Literal["adamw", "muon"] = "adamw"
    """What trains the matrices of the layers, and those from and to a tokenizer's pixels. Muon reaches in 100 steps
    what AdamW does in several hundred on the small models here (docs/log.md)."""

    steps: Annotated[int, MAY_GROW] = Field(ge=1)
    """Updates of the weights, in all. A run, finished or not, goes on to more when it is given more."""
    batch_size: int = Field(ge=1)
    """Clips of a batch in each process."""
    accumulation: int = Field(1, ge=1)
    """Batches whose gradients make one step, for large batches on small devices."""
    learning_rate: float = Field(gt=0)
    """Of AdamW."""
    muon_learning_rate: float = Field(0.02, gt=0)
    """Of Muon, scaled to AdamW's update size (torch's `match_rms_adamw`)."""
    warmup_steps: int = Field(0, ge=0)
    """Steps in which the rate rises from 0 to its peak."""
    schedule: Literal[(*OURS, *OF_DIFFUSERS)] = "cosine"  # type: ignore[valid-type]
    """How the rate goes after the warm-up. `cosine` falls from its peak to `final_learning_rate`, as the paper's
    tokenizers do (1e-4 to 1e-6, section H). `wsd`, warm-up-stable-decay (arXiv 2405.18392), stays at its peak and falls
    in a straight line in the last part, as the paper's generators do. `constant` stays. The others are diffusers':
    `linear`, `polynomial`, `cosine_with_restarts`, `piecewise_constant`."""
    cycles: int = Field(1, ge=1)
    """With `cosine_with_restarts`: how often the rate falls to 0."""
    power: float = Field(1.0, gt=0)
    """With `polynomial`: of what is left of the training."""
    pieces: str = ""
    """With `piecewise_constant`: factors of the rate and the steps that they last to, as `1:10000,0.1:20000,0.01`."""
    final_learning_rate: float = Field(0.0, ge=0)
    """Of AdamW, after the last step; Muon's falls to the same share of its own."""
    decay_share: float = Field(0.2, gt=0, le=1)
    """With `wsd`: the last part of all steps, in which the rate falls. It begins after the warm-up at the earliest."""
    weight_decay: float = Field(0.01, ge=0)
    """Not on norms, biases and embedding tables; on all else, so on the codebook and a router's position embedding
    too."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """AdamW's decay of the means of gradients and of their squares."""
    gradient_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights, which is what a run leaves; 0 leaves the last weights. The average
    starts with a smaller decay, (1 + step) / (10 + step)."""

    def items_per_step(self, num_processes: int) -> int:
        """Clips of a step, in all processes; or tokens, where the batches are measured in these."""
        of_batch = self.batch_size or getattr(self, "tokens_per_batch", 0)
        return of_batch * self.accumulation * num_processes

    @model_validator(mode="after")
    def _the_floor_lies_below_the_peak(self) -> "OptimizerConfig":
        final, peak = self.final_learning_rate, self.learning_rate
        if final > peak:
            raise ValueError(
                f"final_learning_rate={final:g} lies above learning_rate={peak:g}, from which the rate falls to it"
            )
        if final and self.schedule not in ("cosine", "wsd"):
            raise ValueError(
                f"final_learning_rate={final:g} does nothing with schedule={self.schedule}: give schedule=cosine or "
                "wsd, or 0"
            )
        return self

    @model_validator(mode="after")
    def _muon_has_matrices(self) -> "OptimizerConfig":
        given, usual = self.muon_learning_rate, type(self).model_fields["muon_learning_rate"].default
        if given != usual and self.matrices != "muon":
            raise ValueError(
                f"muon_learning_rate={given:g} does nothing with matrices={self.matrices}: give matrices=muon, or "
                f"{usual:g}, as without it"
            )
        return self

    @model_validator(mode="after")
    def _the_schedule_knows_its_settings(self) -> "OptimizerConfig":
        for name, schedule in OF_ONE_SCHEDULE.items():
            given, usual = getattr(self, name), type(self).model_fields[name].default
            if given != usual and self.schedule != schedule:
                raise ValueError(
                    f"{name}={given:g} does nothing with schedule={self.schedule}: give schedule={schedule}, or "
                    f"{usual:g}, as without it"
                )
        if self.schedule == "polynomial" and self.learning_rate <= LOWEST_OF_POLYNOMIAL:
            raise ValueError(
                f"learning_rate={self.learning_rate:g} must lie above {LOWEST_OF_POLYNOMIAL:g}, to which "
                "schedule=polynomial falls"
            )
        return self

    @model_validator(mode="after")
    def _pieces_are_those_of_a_schedule(self) -> "OptimizerConfig":
        if (self.schedule == "piecewise_constant") != bool(self.pieces):
            raise ValueError("schedule=piecewise_constant and pieces=1:10000,0.1 (factor:last step, …) go together")
        if self.pieces and self.warmup_steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} does nothing with schedule=piecewise_constant: give 0")
        if self.pieces and not re.fullmatch(rf"({FACTOR}:\d+,)+{FACTOR}", self.pieces):
            raise ValueError(f"pieces={self.pieces} should read factor:last step, …, factor, as 1:10000,0.1:20000,0.01")
        return self
