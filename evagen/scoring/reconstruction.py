"""Scores over data sets of clips: reconstruction by a tokenizer, and generated against real clips."""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from evagen.eval import FewSamplesWarning, FrameDistance, FrechetVideoDistance, reconstruction_metrics
from evagen.eval.frame_distance import RememberedReference
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
    return score_reconstructions([(tokenizer, assign)], videos, perceptual)[0]


def score_reconstructions(
    ways: Sequence[tuple[VideoTokenizer, Assign]], videos: Iterable[Tensor], perceptual: FrameDistance
) -> list[ReconstructionScores]:
    """The same for several tokenizers and lengths, all of which take their turns with each batch."""
    if len(ways) > 1:
        perceptual = RememberedReference(perceptual)  # of a batch, for all ways
    scorings = [_Scoring(*way, perceptual) for way in ways]
    for video in tqdm(videos, desc="scoring", unit="batch", leave=False, dynamic_ncols=True):
        for scoring in scorings:
            scoring.add(video)
    return [scoring.scores() for scoring in scorings]


class _Scoring:
    """Of one tokenizer with the lengths that `assign` gives."""

    def __init__(self, tokenizer: VideoTokenizer, assign: Assign, perceptual: FrameDistance):
        self.tokenizer, self.assign = tokenizer, assign
        self.metrics = reconstruction_metrics(perceptual).to(tokenizer.device)
        self.usage = CodebookUsage(tokenizer.quantizer.codebook_size)
        self.lengths: list[Tensor] = []

    def add(self, video: Tensor) -> None:
        video = video.to(self.tokenizer.device)
        tokens = self.tokenizer.encode(video, self.assign(video))
        self.metrics.update(self.tokenizer.decode(tokens, tuple(video.shape[-2:])), video)
        self.lengths.append(tokens.lengths)
        self.usage.update(tokens.codes)

    def scores(self) -> ReconstructionScores:
        values = {name: value.item() for name, value in self.metrics.compute().items()}
        motion = None if math.isnan(values["motion"]) else values["motion"]
        measures = (values[name] for name in ("psnr", "ssim", "perceptual"))
        return ReconstructionScores(*measures, motion, self.usage.used_fraction(), torch.cat(self.lengths))


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
