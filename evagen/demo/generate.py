"""Clips of a class, with the lengths that the generator chose or those that it was given, and what they cost."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from evagen.ar_model import ClipRequest, LengthConstraints, sample_in_order
from evagen.demo.models import DemoModels
from evagen.errors import UserError
from evagen.kernels.levels import video_to_frames
from evagen.sampling.classes import label_of
from evagen.sampling.clips import FRAMES_PER_SECOND, clip_seed, decode_clips, usual_options

MOST_CLIPS = 4
"""At once."""


@dataclass(frozen=True)
class Generated:
    """clips: uint8 B F H W 3; lengths: of each clip's blocks; compute_seconds: what writing and decoding took."""

    clips: np.ndarray
    lengths: tuple[tuple[int, ...], ...]
    frames_a_block: int
    longest: int
    compute_seconds: float

    @property
    def tokens(self) -> int:
        """Of all clips."""
        return sum(map(sum, self.lengths))

    @property
    def tokens_a_clip(self) -> float:
        return self.tokens / len(self.lengths)

    @property
    def tokens_per_second(self) -> float:
        """Of video."""
        return self.tokens_a_clip * FRAMES_PER_SECOND / self.clips.shape[1]

    @property
    def share_of_longest(self) -> float:
        """Of what the longest lengths everywhere would take, 0 to 1."""
        return self.tokens / (self.longest * sum(map(len, self.lengths)))


def generate(
    models: DemoModels,
    class_name: str | None,
    count: int = 1,
    seed: int = 0,
    guidance: float | None = None,
    forced: Sequence[int | None] | None = None,
    max_tokens: int | None = None,
) -> Generated:
    """That many clips of a class; None where the generator knows none. forced: tokens of each block, None where the
    generator chooses; max_tokens: of each clip. Clip i of a seed is that of `evagen sample --class` with this seed,
    unless lengths are asked for, or a guidance that is not the usual one.

    Raises UserError for models without a generator, and for what the generator cannot follow."""
    if models.generator is None:
        raise UserError(f"{models.name} has no generator: it can rebuild videos only. Choose another model.")
    if not 1 <= count <= MOST_CLIPS:
        raise UserError(f"{count} clips at once: give 1 to {MOST_CLIPS}")
    options = usual_options(models.generator)
    options = options if guidance is None else replace(options, guidance=guidance)
    label = label_of(class_name, models.class_names)
    begun = time.perf_counter()
    with models.lock:
        try:
            constraints = LengthConstraints(list(forced) if forced else None, max_tokens=max_tokens)
            requests = [ClipRequest(clip_seed(seed, n), label, None, constraints) for n in range(count)]
            tokens = sample_in_order(models.generator, requests, options, MOST_CLIPS)
        except ValueError as error:
            raise UserError(f"the generator cannot write these clips: {error}") from error
        with torch.no_grad():
            videos = torch.cat([decode_clips(models.tokenizer, [clip]) for clip in tokens])  # B C F H W
    return Generated(
        np.stack([video_to_frames(video) for video in videos]),
        tuple(tuple(clip.lengths.tolist()) for clip in tokens),
        models.frames_a_block, models.levels[-1], time.perf_counter() - begun,
    )  # fmt: skip
