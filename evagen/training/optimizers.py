"""Which optimiser trains which parameter, and how its learning rate goes."""

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from evagen.training.settings import OptimizerConfig


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


def make_scheduler(optimizer: torch.optim.Optimizer, config: OptimizerConfig) -> LambdaLR:
    """Linear warm-up, then cosine decay to zero at the last step."""
    return get_cosine_schedule_with_warmup(optimizer, config.warmup_steps, config.steps)
