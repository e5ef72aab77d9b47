"""The tokenizer's training objective, term by term (EVATok §3.1).

Each term is a named scalar and the objective is their weighted sum, so a further term is one more entry
in the dictionary and one more weight.

Legend: B clips, C channels, F frames, H × W pixels, M frames looked at by the perceptual distance.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from evagen.tokenizer.autoencoder import TokenizerOutput


@dataclass(frozen=True)
class LossWeights:
    """Factors of the terms that exist: not every quantiser has `codebook`, `commitment` and `entropy`
    (`quantizer_kinds`), and the factor of a term that is not there has no effect. `entropy` is γ = 0.02 of the paper;
    `l2` is not in the paper: it makes small moving things, which L1 passes over for long, count early in short
    trainings."""

    l1: float = 1.0
    l2: float = 0.0
    perceptual: float = 1.0
    codebook: float = 1.0
    commitment: float = 0.25
    entropy: float = 0.02


def tokenizer_loss(
    output: TokenizerOutput,
    video: Tensor,
    weights: LossWeights,
    perceptual: Callable[[Tensor, Tensor], Tensor],
    frames: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective and its unweighted terms.

    Args:
        output: what the tokenizer made of `video`.
        video: (B, C, F, H, W) in [-1, 1].
        weights: factors.
        perceptual: distance of pictures, two of (M, C, H, W) in [-1, 1] → (M,).
        frames: int64 (M,), frames of the batch (0 … B·F - 1) that the perceptual distance looks at; all if None.
    """
    error = output.reconstruction - video  # (B, C, F, H, W)
    terms = {"l1": error.abs().mean(), "l2": error.square().mean(), **output.quantizer_losses}
    if weights.perceptual:
        fake, real = (v.transpose(1, 2).flatten(0, 1) for v in (output.reconstruction, video))  # (B·F, C, H, W)
        if frames is not None:
            fake, real = fake[frames], real[frames]  # (M, C, H, W)
        terms["perceptual"] = perceptual(fake, real).mean()
    total = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
    return total, terms
