"""The settings that training commands share."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from evagen.config import ONLY_HOW, Section
from evagen.run import Attends, RunFolder, Seeded


def _no_is_a_word(value: Any) -> Any:
    """YAML reads a bare `no` as false."""
    return "no" if value is False else value


class TrainingSettings(Seeded, RunFolder):
    """How a training is carried out, whatever the model."""

    log_every: Annotated[int, ONLY_HOW] = Field(10, ge=1)
    """Steps between log lines."""
    save_every: Annotated[int, ONLY_HOW] = Field(1000, ge=1)
    """Steps between checkpoints."""
    mixed_precision: Annotated[Literal["no", "bf16", "fp16"] | None, BeforeValidator(_no_is_a_word)] = None
    """Accelerate's setting if None."""
    tracker: Annotated[Literal["tensorboard", "wandb", "none"], ONLY_HOW] = "tensorboard"
    """Where Accelerate sends what is logged, beside `metrics.jsonl` in the run folder."""


class LayerSettings(Attends):
    """How the layers of the tokenizer and the generator are computed in training."""

    gradient_checkpointing: Annotated[bool, ONLY_HOW] = False
    """Compute the layers' activations again in the backward pass instead of keeping them: a third more time for a
    fraction of the memory."""
    compile: Annotated[bool, ONLY_HOW] = False
    """Compile the model's layers with torch.compile, for any number of tokens at once."""


class OptimizerConfig(Section):
    """AdamW, or Muon for the matrices and AdamW for the rest; linear warm-up, and then a schedule of the learning
    rate."""

    matrices: Literal["adamw", "muon"] = "adamw"
    """What trains the matrices of the layers, and those from and to a tokenizer's pixels. Muon reaches in 100 steps
    what AdamW does in several hundred on the small models here (docs/log.md)."""

    steps: int = Field(ge=1)
    """Updates of the weights, in all."""
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
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """How the rate goes after the warm-up. `cosine` falls from its peak to `final_learning_rate`, as the paper's
    tokenizers do (1e-4 to 1e-6, section H). `wsd`, warm-up-stable-decay (arXiv 2405.18392), stays at its peak and falls
    in a straight line in the last part, as the paper's generators do. `constant` stays."""
    final_learning_rate: float = Field(0.0, ge=0)
    """Of AdamW, after the last step; Muon's falls to the same share of its own."""
    decay_share: float = Field(0.2, gt=0, le=1)
    """With `wsd`: the last part of all steps, in which the rate falls. It begins after the warm-up at the earliest."""
    weight_decay: float = Field(0.01, ge=0)
    """On matrices only, not on norms, biases and embeddings."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay of the means of gradients and of their squares."""
    gradient_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights, which is what a run leaves; 0 leaves the last weights. The average
    starts with a smaller decay, (1 + step) / (10 + step)."""

    @model_validator(mode="after")
    def _the_floor_lies_below_the_peak(self) -> "OptimizerConfig":
        final, peak = self.final_learning_rate, self.learning_rate
        if final > peak:
            raise ValueError(
                f"final_learning_rate={final:g} lies above learning_rate={peak:g}, from which the rate falls to it"
            )
        if final and self.schedule == "constant":
            raise ValueError(
                f"final_learning_rate={final:g} does nothing with schedule=constant: give schedule=cosine or wsd, or 0"
            )
        return self
