"""The models that the page offers, loaded once and shared by everybody who looks at it."""

import math
import threading
from dataclasses import dataclass, field

import torch
from accelerate import PartialState

from evagen.ar_model import VideoGenerator
from evagen.errors import UserError
from evagen.kernels.sources import box, is_out_of_reach, locate_pipeline
from evagen.models.fit import check_generator
from evagen.models.loading import load_model, load_router
from evagen.sampling.pipeline import VideoPipeline
from evagen.tokenizer import BlockRouter, Router, VideoTokenizer


@dataclass(frozen=True)
class DemoModels:
    """A tokenizer, its router, and the generator that learnt its tokens, if any. lock: held while they compute, so that
    several users take turns piece by piece."""

    name: str
    tokenizer: VideoTokenizer
    router: Router | BlockRouter
    generator: VideoGenerator | None
    lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    @property
    def side(self) -> int:
        """The short side in pixels of what the models see."""
        return self.tokenizer.config.resolution

    @property
    def frames_a_block(self) -> int:
        return self.tokenizer.config.temporal_patch

    @property
    def levels(self) -> tuple[int, ...]:
        """The lengths that a block can have, rising."""
        return tuple(self.tokenizer.assignments.levels)

    @property
    def remembers(self) -> bool:
        return self.tokenizer.config.memory_blocks is not None

    @property
    def class_names(self) -> list[str]:
        return list(self.generator.config.class_names) if self.generator else []

    @property
    def generated_blocks(self) -> int:
        """Of a generated clip; 0 without a generator."""
        return self.generator.grammar.num_blocks if self.generator else 0

    @property
    def tokens_of_a_clip(self) -> tuple[int, int]:
        """The fewest and the most that a generated clip can have."""
        return self.levels[0] * self.generated_blocks, self.levels[-1] * self.generated_blocks

    def tokens_per_second(self, frames_per_second: float) -> tuple[int, int]:
        """The fewest and the most that a video of this frame rate can have, rounded inwards."""
        blocks_per_second = frames_per_second / self.frames_a_block
        least, most = self.levels[0] * blocks_per_second, self.levels[-1] * blocks_per_second
        return math.ceil(least - 1e-9), max(math.ceil(least), math.floor(most + 1e-9))

    def bits(self, num_tokens: int, num_blocks: int) -> float:
        """That many tokens of so many blocks: an index into the codebook each, and a level for each block."""
        return num_tokens * math.log2(self.tokenizer.config.codebook_size) + num_blocks * math.log2(len(self.levels))


def load_demo_models(name: str, device: torch.device | str | None = None) -> DemoModels:
    """The models of a pipeline: the name of one in the box, a folder, or a hub id. Raises UserError where there is no
    such pipeline, where it has no router, and where its parts do not fit each other."""
    try:
        source = locate_pipeline(name)
        index = VideoPipeline.load_config(source, local_files_only=is_out_of_reach(source))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name} is no pipeline of evagen: neither a folder with model_index.json, nor a hub id within reach, nor "
            f"one of the models in the box ({', '.join(box()) or 'none'}). Make one "
            "of runs with `evagen export pipeline FOLDER --tokenizer … --router … --generator …`"
        ) from error
    device = device or PartialState().device
    tokenizer = load_model(VideoTokenizer, name, device)
    router = load_router(tokenizer, name)
    generator = None
    if (index.get("generator") or [None])[0] is not None:
        generator = load_model(VideoGenerator, name, device)
        check_generator(generator, tokenizer)
    return DemoModels(name, tokenizer, router, generator)
