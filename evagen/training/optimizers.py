"""Which optimiser trains which parameter, and how its learning rate goes."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from evagen.training.muon import BatchedMuon
from evagen.training.settings import OF_DIFFUSERS, OptimizerConfig

MATRICES = ("layers.", "blocks.", "embed_patches.", "start_query.", "to_pixels.")
"""In the names of what Muon trains: layers, ours and timm's; and the tokenizer's maps from pixels, to its first 3D
queries and to pixels, which by AdamW learn more slowly (docs/log.md)."""


def make_optimizers(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices if asked for, AdamW for the rest, without decay on norms, biases and embedding
    tables. The codebook and timm's embedding of positions are no tables, and decay."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    muon, decayed, others = [], [], []
    for name, parameter in model.named_parameters():
        if config.matrices == "muon" and parameter.ndim == 2 and any(part in name for part in MATRICES):
            muon.append(parameter)
        else:
            (others if parameter.ndim < 2 or id(parameter) in embeddings else decayed).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if muon:
        optimizers.append(BatchedMuon(muon, config.muon_learning_rate, config.weight_decay))
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizers.append(adamw(groups, lr=config.learning_rate, betas=config.betas))
    return optimizers


def adamw(parameters: Any, **settings: Any) -> torch.optim.AdamW:
    """torch's AdamW, on a GPU in one kernel for all parameters."""
    return torch.optim.AdamW(parameters, **settings, fused=torch.cuda.is_available() or None)


def make_scheduler(optimizer: torch.optim.Optimizer, config: OptimizerConfig) -> LambdaLR:
    """The learning rate of each step, as a factor of the optimiser's own: of Muon's as of AdamW's."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))


def learning_rate_factor(step: int, config: OptimizerConfig) -> float:
    """What the peak rate is multiplied by when `step` steps are done, in [0, 1]: linear warm-up from 0 to 1, then by
    `config.schedule` to `final_learning_rate / learning_rate`, which is reached when all steps are done."""
    if config.schedule in OF_DIFFUSERS:
        numbers = (config.warmup_steps, config.steps, config.cycles, config.power, config.pieces)
        return _of_diffusers(config.schedule, config.learning_rate, *numbers)(step)
    if step < config.warmup_steps:
        return step / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    floor = config.final_learning_rate / config.learning_rate
    if config.schedule == "wsd":
        begin = _end_of_plateau(config)
        left = min(1.0, (config.steps - step) / max(config.steps - begin, 1))
    else:
        progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
        left = 0.5 * (1.0 + math.cos(math.pi * progress))
    return floor + (1.0 - floor) * max(left, 0.0)


def are_the_same_until(step: int, one: OptimizerConfig, other: OptimizerConfig) -> bool:
    """Whether two schedules give the same rates to all steps up to this one, counted from 0."""
    return one == other or all(learning_rate_factor(n, one) == learning_rate_factor(n, other) for n in range(step + 1))


def decay_begins(config: OptimizerConfig) -> int | None:
    """The last step before a `wsd` schedule's rate falls; None for other schedules."""
    return int(_end_of_plateau(config)) if config.schedule == "wsd" else None


def _end_of_plateau(config: OptimizerConfig) -> float:
    return max(config.warmup_steps, config.steps - config.steps * config.decay_share)


@functools.lru_cache
def _of_diffusers(
    name: str, peak: float, warmup_steps: int, steps: int, cycles: int, power: float, pieces: str
) -> Callable[[int], float]:
    """diffusers' own schedule as a function from steps done to the rate's factor."""
    optimizer = torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=peak)
    schedule = get_scheduler(
        name, optimizer, step_rules=pieces, num_warmup_steps=warmup_steps, num_training_steps=steps, num_cycles=cycles,
        power=power,
    )  # fmt: skip
    return schedule.lr_lambdas[0]
