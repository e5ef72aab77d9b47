"""The tokenizer's training objective, term by term (EVATok §3.1).

Each term is a named scalar and the objective is their weighted sum, so a further term is one more entry
in the dictionary and one more weight.

Legend: B clips, C channels, F frames, H × W pixels, M frames looked at by the perceptual distance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evagen.kernels.motion import departure, still_background
from evagen.tokenizer.autoencoder import TokenizerOutput


@dataclass(frozen=True)
class LossWeights:
    """Factors of the terms that exist, and what the terms are measured in. Not every quantiser has `codebook`,
    `commitment` and `entropy` (`quantizer_kinds`); the factor of a term that is not there has no effect. `entropy` is
    γ = 0.02 of the paper; `l2` is not in the paper: it makes small moving things, which L1 passes over for long, count
    early in short trainings.

    The paper names neither the range of pixels nor the mean or sum over a code's numbers, so its factors could mean
    either; LARP, which it follows, has pixels in [0, 1] and the mean.
    """

    l1: float = 1.0
    """Of the mean absolute difference of pixels."""
    l2: float = 0.0
    """Of the mean squared difference of pixels."""
    perceptual: float = 1.0
    """Of the perceptual distance of some frames (`loss.compare`)."""
    codebook: float = 1.0
    """Of codes to what is encoded, which moves the codes."""
    commitment: float = 0.25
    """Of what is encoded to its code, which moves the encoder."""
    entropy: float = 0.02
    """Of the term that keeps codes in equal use and each choice sharp; γ of the paper."""
    pixel_range: Literal["signed", "unit"] = "signed"
    """What `l1` and `l2` measure differences of: pixels in [-1, 1] (`signed`) or in [0, 1] (`unit`)."""
    moving_pixels: float = 0.0
    """Extra weight of what moves: `l1` and `l2` weigh each place by 1 + moving_pixels · min(m, 0.5), where m is how far
    it departs from the clip's median over time, in the channel that differs most. Not in the paper. Without it small
    quick things are a thousandth of the loss, and a short training draws backgrounds only (docs/log.md)."""
    code_reduction: Literal["sum", "mean"] = "sum"
    """Over the c numbers of a code, in `codebook` and `commitment`; over the codes of a batch it is the mean."""

    def __post_init__(self) -> None:
        """Raises ValueError for a `pixel_range` or a `code_reduction` that there is not."""
        for name, known in (("pixel_range", ("signed", "unit")), ("code_reduction", ("sum", "mean"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: {' or '.join(known)} is possible")


FULL_MOTION = 0.5
"""Distance from the background from which on a place has the whole extra weight. Beyond it a thing's colour, and not
whether it is there, would decide on its weight."""


def place_weights(video: Tensor, moving_pixels: float) -> Tensor:
    """(B, C, F, H, W) in [-1, 1] → (B, 1, F, H, W), from 1 where nothing moves to 1 + moving_pixels · 0.5."""
    return 1 + moving_pixels * departure(video, still_background(video)).clamp(max=FULL_MOTION)


def tokenizer_loss(
    output: TokenizerOutput,
    video: Tensor,
    weights: LossWeights,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    frames: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective and its unweighted terms.

    Args:
        output: what the tokenizer made of `video`.
        video: (B, C, F, H, W) in [-1, 1].
        weights: factors.
        perceptual: distance of pictures, two of (M, C, H, W) in [-1, 1] → (M,), such as `eval.PerceptualDistance()`;
            not needed where its weight is 0.
        frames: int64 (M,), frames of the batch (0 … B·F - 1) that the perceptual distance looks at; all if None.

    Raises ValueError where the perceptual distance has a weight and is not given.
    """
    error = output.reconstruction - video  # (B, C, F, H, W)
    if weights.pixel_range == "unit":
        error = error / 2
    importance = place_weights(video, weights.moving_pixels) if weights.moving_pixels else 1.0
    pixel_terms = {"l1": (error.abs() * importance).mean(), "l2": (error.square() * importance).mean()}
    terms = {**pixel_terms, **output.quantizer_losses}
    if weights.code_reduction == "mean":
        code_width = output.encoded.shape[-1]
        terms |= {name: terms[name] / code_width for name in ("codebook", "commitment") if name in terms}
    if weights.perceptual:
        if perceptual is None:
            raise ValueError(
                f"the perceptual distance has the weight {weights.perceptual:g} and is not given: give perceptual, or "
                "LossWeights(perceptual=0)"
            )
        if frames is None:
            frames = torch.arange(len(video) * video.shape[2], device=video.device)  # M
        at = frames // video.shape[2], frames % video.shape[2]  # which clip, and which of its frames
        fake, real = (v.transpose(1, 2)[at] for v in (output.reconstruction, video))  # (M, C, H, W)
        terms["perceptual"] = perceptual(fake, real).mean()
    total = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
    return total, terms
