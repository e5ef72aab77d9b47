"""From the features of both sides to a score with its interval, the same for every command."""

import warnings
from dataclasses import asdict

import torch
from pydantic import Field
from torch import Tensor

from evagen.config import Section
from evagen.errors import UserError
from evagen.eval import (
    FewSamplesWarning,
    PreparedDetector,
    Protocol,
    bootstrap_interval,
    extrapolated_distance,
    kernel_distance,
)
from evagen.eval.frechet import check_sample_counts
from evagen.eval.uncertainty import check_extrapolation
from evagen.models.networks import gives_fvd
from evagen.scoring.record import Score


class Certainty(Section):
    """How sure a score is made out to be."""

    resamples: int = Field(100, ge=2)
    """Bootstrap draws behind the interval. With 10,000 clips of 400 features a hundred take a minute on one core."""
    level: float = Field(0.95, gt=0, lt=1)
    """Confidence of the interval."""
    extrapolate: bool = False
    """Also the value for infinitely many clips; needs four times as many clips as features."""


def check_counts(num_real: int, num_scored: int, num_features: int, protocol: Protocol, certainty: Certainty) -> None:
    """Raises UserError for so few clips that there would be no score, before anything is computed."""
    try:
        with warnings.catch_warnings(action="ignore", category=FewSamplesWarning):
            check_sample_counts(num_real, num_scored, num_features)
        if certainty.extrapolate:
            check_extrapolation(min(num_real, num_scored), num_features)
    except ValueError as error:
        advice = "; leave extrapolate out, or score more clips" if certainty.extrapolate else ""
        raise UserError(f"{protocol.name} is not scored: {error}{advice}") from error


def score_features(
    real: Tensor, generated: Tensor, protocol: Protocol, detector: PreparedDetector, paired: bool, certainty: Certainty
) -> tuple[Score, list[str]]:
    """Features float32 (N, D) and (M, D) → the score, and remarks on it. paired: generated clip i belongs to real clip
    i. Raises UserError for fewer clips than a distance can be made of."""
    device = "cuda" if torch.cuda.is_available() else "cpu"  # other GPUs have no float64
    real, generated = real.to(device), generated.to(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FewSamplesWarning)
        try:
            interval = bootstrap_interval(
                real, generated, paired, protocol.ddof, certainty.level, certainty.resamples, protocol.clips.seed
            )
            kernel = kernel_distance(real, generated).item()
            extrapolated = None
            if certainty.extrapolate:
                extrapolated = extrapolated_distance(real, generated, paired, protocol.ddof).value
        except ValueError as error:
            raise UserError(f"{protocol.name} is not scored: {error}") from error
    remarks = list(dict.fromkeys(str(each.message) for each in caught if each.category is FewSamplesWarning))
    kind = {"reconstruction": "rFVD", "frame-prediction": "FVD"}.get(protocol.task, "gFVD")
    score = Score(
        name=kind if gives_fvd(detector.fingerprint) else "Fréchet distance",
        kernel_distance=kernel,
        extrapolated=extrapolated,
        **asdict(interval),
    )
    return score, remarks
