"""Scores over data sets of clips: reconstruction by a tokenizer, and generated against real clips."""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from evagen.eval import FewSamplesWarning, FrameDistance, FrechetVideoDistance, reconstruction_metrics
from evagen.models.lengths import Assign
from evagen.tokenizer import CodebookUsage, VideoTokenizer


@dataclass(frozen=True)
class ReconstructionScores:
    """Means over clips. motion: explained over all clips together, None where nothing moves; codes_used: share of the
    codebook that they use together; lengths: int64 (n, T), each clip's assignment."""

    psnr: float
    ssim: float
    perceptual: float
    motion: float | None
    codes_used: float
    lengths: Tensor

    @property
    def tokens_per_clip(self) -> float:
        return self.lengths.sum(1).double().mean().item()

    def as_dict(self) -> dict[str, float | None]:
        return {
            "tokens_per_clip": self.tokens_per_clip,
            "psnr": self.psnr,
            "ssim": self.ssim,
            "perceptual": self.perceptual,
            "motion": self.motion,
            "codes_used": self.codes_used,
        }


def score_reconstruction(
    tokenizer: VideoTokenizer, videos: Iterable[Tensor], assign: Assign, perceptual: FrameDistance
) -> ReconstructionScores:
    """Encodes and decodes batches of clips (B, C, F, H, W) with the lengths that `assign` gives them."""
    metrics = reconstruction_metrics(perceptual).to(tokenizer.device)
    usage = CodebookUsage(tokenizer.quantizer.codebook_size)
    lengths = []
    for video in tqdm(videos, desc="scoring", unit="batch", leave=False, dynamic_ncols=True):
        video = video.to(tokenizer.device)
        tokens = tokenizer.encode(video, assign(video))
        metrics.update(tokenizer.decode(tokens, tuple(video.shape[-2:])), video)
        lengths.append(tokens.lengths)
        usage.update(tokens.codes)
    values = {name: value.item() for name, value in metrics.compute().items()}
    motion = None if math.isnan(values["motion"]) else values["motion"]
    measures = (values[name] for name in ("psnr", "ssim", "perceptual"))
    return ReconstructionScores(*measures, motion, usage.used_fraction(), torch.cat(lengths))


def frechet_between(real: Iterable[Tensor], fake: Iterable[Tensor], detector: torch.nn.Module) -> float:
    """Fréchet distance of two sets of clips, given in batches (B, C, F, H, W), or as their features (B, D). For
    comparisons at equal counts: that few clips make it large is not warned of."""
    metric = FrechetVideoDistance(detector)
    for is_real, batches in ((True, real), (False, fake)):
        for batch in batches:
            metric.update(batch, real=is_real)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewSamplesWarning)
        return metric.compute().item()
