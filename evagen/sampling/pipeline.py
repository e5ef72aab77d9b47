"""Generator and tokenizer as one `diffusers` pipeline, which is saved, loaded and published as others are.

VideoPipeline.of("runs/quickstart/generator", "runs/quickstart/final").save_pretrained("pipeline")
clips = VideoPipeline.from_pretrained("pipeline")(["Frogger", "Frostbite"], seed=1, guidance=1.5).frames
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput

from evagen.ar_model import ClipRequest, ClipTokens, LengthConstraints, SamplingOptions, VideoGenerator, sample_in_order
from evagen.errors import UserError
from evagen.kernels.levels import video_to_frames
from evagen.kernels.sources import box
from evagen.models.fit import check_generator
from evagen.models.loading import load_model, load_router
from evagen.sampling.classes import label_of
from evagen.sampling.clips import clip_seed, decode_clips
from evagen.tokenizer import BlockRouter, Router, VideoTokenizer


@dataclass
class VideoPipelineOutput(BaseOutput):
    """frames: uint8 (B, F, H, W, 3); tokens: of each clip."""

    frames: np.ndarray
    tokens: list[ClipTokens]


class VideoPipeline(DiffusionPipeline):
    """Classes → clips.

    Args:
        tokenizer: turns tokens into pixels.
        generator: writes the tokens; trained on this tokenizer's. None for a pipeline that only carries a tokenizer.
        router: the tokenizer's. Sampling does not need it; `evagen encode` finds it here.
    """

    _optional_components: ClassVar = ["generator", "router"]  # diffusers adds a list to it

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        generator: VideoGenerator | None = None,
        router: Router | BlockRouter | None = None,
    ):
        super().__init__()
        if generator is not None:
            check_generator(generator, tokenizer)
        self.register_modules(tokenizer=tokenizer, generator=generator, router=router)

    @staticmethod
    def of(generator: str | Path | None, tokenizer: str | Path, router: str | Path | None = None) -> "VideoPipeline":
        """From trained models, each wherever `kernels.sources` finds it. Raises UserError where one is missing or they
        do not fit each other."""
        loaded = load_model(VideoTokenizer, tokenizer)
        return VideoPipeline(
            loaded, load_model(VideoGenerator, generator) if generator else None,
            load_router(loaded, router) if router else None,
        )  # fmt: skip

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> "VideoPipeline":
        """From a folder, a hub id, or the name of models in the box (`evagen/arcade`)."""
        return super().from_pretrained(str(box().get(str(source), source)), **options)

    @torch.no_grad()
    def __call__(
        self,
        classes: Sequence[str | None],
        seed: int = 0,
        lengths: Sequence[int | None] | None = None,
        num_slots: int = 64,
        num_blocks: int | None = None,
        **options,
    ) -> VideoPipelineOutput:
        """One clip for each class, None for any.

        Args:
            classes: names that the generator knows (`pipeline.generator.config.class_names`).
            seed: clip i is that of `evagen sample` with the same `run.seed` and number i.
            lengths: tokens of each block, None where the generator chooses.
            num_slots: clips written side by side.
            num_blocks: of each clip, for a generator without an end; its window's if None.
            options: of `SamplingOptions`: temperature, top_k, top_p, min_p, guidance, …

        Raises UserError for classes, lengths or options that the generator cannot follow.
        """
        known = list(self.generator.config.class_names)
        constraints = LengthConstraints(list(lengths)) if lengths else LengthConstraints()
        requests = [
            ClipRequest(clip_seed(seed, number), label_of(name, known), None, constraints, num_blocks)
            for number, name in enumerate(classes)
        ]
        try:
            tokens = sample_in_order(self.generator, requests, SamplingOptions(**options), num_slots)
        except (TypeError, ValueError) as error:
            raise UserError(f"the generator cannot write these clips: {error}") from error
        video = torch.cat([decode_clips(self.tokenizer, [clip]) for clip in tokens])  # B C F H W
        return VideoPipelineOutput(np.stack([video_to_frames(clip) for clip in video]), tokens)
