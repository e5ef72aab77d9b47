"""What a quickstart's report shows, measured on clips held out from training."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evagen.ar_model import ClipRequest, ClipTokens, SamplingOptions, VideoGenerator, sample_in_order
from evagen.data.clips import ClipDataset
from evagen.data.loader import collate_clips
from evagen.data.sources import DataConfig
from evagen.data.video_reader import frame_rate
from evagen.eval import (
    ImageNetworkDetector,
    PerceptualDistance,
    features_of,
    frame_change,
    motion_explained,
    moving_errors,
    moving_share,
    psnr_of_mse,
)
from evagen.kernels.levels import video_to_frames
from evagen.models.loading import load_model
from evagen.report.minute import Minute, measure_minute
from evagen.report.page import ClipPair, GeneratedClip, LossCurve, Movement, RealClip, Report
from evagen.sampling.clips import decode_clips
from evagen.sampling.config import Sampling
from evagen.sampling.rows import read_rows
from evagen.scoring.reconstruction import ReconstructionScores, frechet_between, score_reconstructions
from evagen.tokenizer import AssignmentSpace, Router, VideoTokenizer
from evagen.training.metrics import read_metrics

FURTHER_PREFERENCES = (0.8, 1.6)
"""w_q that the report shows beside the run's own, where the router knows them."""
PAIRS_SHOWN_PER_CLASS, GENERATED_SHOWN_PER_CLASS, REAL_SHOWN_PER_CLASS = 3, 4, 4
SCORING_BATCH = 16
TERMS = {
    "proxy": ("l1", "perceptual"),
    "router": ("loss",),
    "final": ("l1", "perceptual"),
    "generator": ("length_loss", "content_loss"),
}
"""What is shown of each training's log."""


def measure_quickstart(
    out: Path,
    title: str,
    data: DataConfig,
    preference: float,
    sampling: Sampling,
    untrained: VideoGenerator,
    stages: Mapping[str, str],
    minute: DataConfig,
) -> Report:
    """Everything but the machine, the commands and the times. out: the run folder; title: the page's; data, preference:
    of the final tokenizer's training; sampling: how the samples were written; untrained: the generator before its first
    step, to compare with; stages: their names in the report, and their folders; minute: videos that are shown one after
    another, of their first frames."""
    proxy, final = (load_model(VideoTokenizer, out / name) for name in ("proxy", "final"))
    router = load_model(Router, out / "router")
    held_out = HeldOut.load(data)
    space = proxy.assignments
    low, high = router.preference_range
    further = (each for each in FURTHER_PREFERENCES if low <= each <= high)
    preferences = list(dict.fromkeys((preference, *further)))
    at_levels = [lambda v, k=level: space.uniform(k, len(v)) for level in space.levels]
    at_preferences = [lambda v, p=p: router.assign(v, p) for p in preferences]
    ways = [(proxy, assign) for assign in (*at_levels, *at_preferences)]
    ways += [
        (final, at_preferences[0]),
        (final, lambda v: final.assignments.uniform(max(final.assignments.levels), len(v))),
    ]
    *of_proxy, final_scores, final_longest = score_reconstructions(ways, held_out.batches(), PerceptualDistance())
    uniform, routed = of_proxy[: len(at_levels)], dict(zip(preferences, of_proxy[len(at_levels) :]))
    adaptive = routed.pop(preference)
    by_block = adaptive.lengths.double().mean(0).tolist()
    generation, generated = _score_generation(out, final, held_out, sampling, untrained)
    long_video = _minute(minute, final, router, preference)
    return Report(
        title=title,
        summary={
            "total_seconds": 0.0, "peak_rss_mb": 0.0, "stages": {},
            "reconstruction": {
                "uniform": [scores.as_dict() for scores in uniform],
                "adaptive": {**adaptive.as_dict(), "preference": preference, "lengths_by_block": by_block},
                "further_preferences": [{"preference": p, **scores.as_dict()} for p, scores in routed.items()],
                "final": final_scores.as_dict(),
                "final_longest": final_longest.as_dict(),
            },
            "generation": generation,
            "minute": long_video.figures(),
        },
        minute=long_video,
        pairs=_pairs(final, router, held_out, preference),
        generated=generated,
        real=[
            RealClip(video_to_frames(held_out.video[i]), held_out.class_names[int(held_out.label[i])])
            for i in held_out.first_of_each_class(REAL_SHOWN_PER_CLASS)
        ],
        lengths_by_class=_lengths_by_class(final_scores, held_out),
        curves=_loss_curves(out, stages),
    )  # fmt: skip


@dataclass(frozen=True)
class HeldOut:
    """The clips of the test list. video: (n, C, F, H, W) in [-1, 1]; label: (n,)."""

    video: Tensor
    label: Tensor
    class_names: list[str]

    @staticmethod
    def load(data: DataConfig) -> "HeldOut":
        """The clips of the test list of a data set that is trained on, the first of each video."""
        changes = {"split": "test", "clip": "first", "flip": False, "limit": None}
        dataset = ClipDataset(data.model_copy(update=changes))
        batch = collate_clips(list(dataset))
        return HeldOut(batch.video, batch.label, dataset.class_names)

    def batches(self) -> Sequence[Tensor]:
        return self.video.split(SCORING_BATCH)

    def first_of_each_class(self, count: int) -> list[int]:
        """Indices of the first clips of every class, class by class."""
        return [i for c in range(len(self.class_names)) for i in (self.label == c).nonzero().flatten()[:count].tolist()]


def _score_generation(
    out: Path, tokenizer: VideoTokenizer, held_out: HeldOut, sampling: Sampling, generator: VideoGenerator
) -> tuple[dict, list[GeneratedClip]]:
    """Fréchet distances of the samples, of an untrained generator's samples, and of real from real clips; how much the
    samples move, beside the held-out clips; and the samples that are shown."""
    rows = read_rows(out / "samples")
    valid = [row for row in rows if is_valid(row["lengths"], row["codes"], tokenizer.assignments, tokenizer)]
    sampled = [ClipTokens(torch.tensor(row["codes"]), torch.tensor(row["lengths"])) for row in valid]
    requests = [ClipRequest(seed, seed // sampling.clips_per_class) for seed in range(len(rows))]
    untrained = sample_in_order(generator, requests, SamplingOptions(**sampling.options.model_dump()))
    detector = ImageNetworkDetector()
    half_a, half_b = (half.split(SCORING_BATCH) for half in (held_out.video[0::2], held_out.video[1::2]))
    real = [features_of(detector, batch) for batch in half_a]  # once, for three distances

    def distance(fake: Sequence[Tensor]) -> float:
        return frechet_between(real, fake, detector)

    videos = decode_clips(tokenizer, sampled)
    generation = {
        "clips": len(rows),
        "tokens_per_clip": sum(len(row["codes"]) for row in rows) / len(rows),
        "invalid_sequences": len(rows) - len(valid),
        "length_patterns": count_length_patterns(valid),
        "motion": compare_movement(frame_change, videos, held_out.video),
        "moving_share": compare_movement(moving_share, videos, held_out.video),
        "frechet": {
            "detector": detector.name,
            "value": distance(videos.split(SCORING_BATCH)),
            "untrained": distance(decode_clips(tokenizer, untrained).split(SCORING_BATCH)),
            "real_vs_real": distance(half_b),
        },
    }
    shown: list[GeneratedClip] = []
    for row, video in zip(valid, videos):
        if sum(clip.class_name == row["class"] for clip in shown) < GENERATED_SHOWN_PER_CLASS:
            shown.append(GeneratedClip(video_to_frames(video), row["lengths"], row["class"]))
    return generation, shown


def compare_movement(measure: Callable[[Tensor], Tensor], generated: Tensor, real: Tensor) -> Movement:
    """Means over clips of a measure with a number for each: two sets of videos (n, C, F, H, W) in [-1, 1]. The ratio
    is None where no real clip moves."""
    of_generated, of_real = (measure(video).double().mean().item() for video in (generated, real))
    return {"generated": of_generated, "real": of_real, "ratio": of_generated / of_real if of_real else None}


def count_length_patterns(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many different assignments of lengths the clips of each class have; rows: as `read_rows` gives them."""
    patterns: dict[str, set[tuple[int, ...]]] = {}
    for row in rows:
        patterns.setdefault(row["class"], set()).add(tuple(row["lengths"]))
    return {name: len(found) for name, found in patterns.items()}


def is_valid(lengths: list[int], codes: list[int], space: AssignmentSpace, tokenizer: VideoTokenizer) -> bool:
    """Whether stored tokens form a clip: as many lengths as blocks, all of them levels, which add up to the codes."""
    return (
        len(lengths) == space.num_blocks
        and set(lengths) <= set(space.levels)
        and sum(lengths) == len(codes)
        and all(0 <= code < tokenizer.config.codebook_size for code in codes)
    )


def _pairs(tokenizer: VideoTokenizer, router: Router, held_out: HeldOut, preference: float) -> list[ClipPair]:
    chosen = held_out.first_of_each_class(PAIRS_SHOWN_PER_CLASS)
    video = held_out.video[chosen]
    tokens = tokenizer.encode(video, router.assign(video, preference))
    pairs = []
    for i, original, reconstruction, lengths in zip(chosen, video, tokenizer.decode(tokens), tokens.lengths):
        psnr = psnr_of_mse((reconstruction - original).square().mean()).item()
        motion = motion_explained(*moving_errors(reconstruction[None], original[None]))
        frames, rebuilt = video_to_frames(original), video_to_frames(reconstruction)
        name = held_out.class_names[int(held_out.label[i])]
        pairs.append(ClipPair(frames, rebuilt, lengths.tolist(), name, psnr, motion))
    return pairs


def _minute(data: DataConfig, tokenizer: VideoTokenizer, router: Router, preference: float) -> Minute:
    videos = ClipDataset(data)
    video = torch.cat(list(collate_clips(list(videos)).video), dim=1)  # (C, F, H, W)
    scenes = [name for name, _ in groupby(videos.class_names[label] for label in videos.labels)]
    return measure_minute(video, frame_rate(videos.paths[0]), scenes, tokenizer, router, preference)


def _lengths_by_class(scores: ReconstructionScores, held_out: HeldOut) -> dict[str, list[float]]:
    return {
        name: scores.lengths[held_out.label == c].double().mean(0).tolist()
        for c, name in enumerate(held_out.class_names)
        if (held_out.label == c).any()
    }


def _loss_curves(out: Path, stages: Mapping[str, str]) -> list[LossCurve]:
    curves = []
    for stage, folder in stages.items():
        if folder in TERMS:
            log = read_metrics(out / folder)
            values = {term: [line[term] for line in log] for term in TERMS[folder]}
            use = [line["codes_used"] for line in log if "codes_used" in line]
            curves.append(LossCurve(stage, [int(line["step"]) for line in log], values, use))
    return curves
