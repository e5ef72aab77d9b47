"""The clips of a sampling run: what is asked of each, and how it is written.

Legend: B clips, C = 3, F frames, H × W pixels.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from evagen.ar_model import (
    ClipRequest,
    ClipTokens,
    LengthConstraints,
    SamplingOptions,
    VideoGenerator,
    is_guided,
    sample,
)
from evagen.config import SEEDS
from evagen.errors import UserError
from evagen.kernels.levels import video_to_frames
from evagen.kernels.names import file_name_of
from evagen.models.inference import HALF, precision_on
from evagen.sampling.classes import label_of
from evagen.sampling.config import Sampling
from evagen.sampling.given import GivenClips
from evagen.tokenizer import TokenizedClips, TokenizedVideo, VideoTokenizer, decode_in_chunks

DECODED_TOGETHER = 8
"""Clips."""
SECONDS_WITHOUT_A_WORD = 5
"""After which a bar says that given clips are read and encoded, which takes a while for those of Kinetics."""
FRAMES_PER_SECOND = 15
"""Of what is written without a config, as of Arcade's videos."""


def usual_options(generator: VideoGenerator) -> SamplingOptions:
    """Where nobody chooses: without guidance where a generator always knew the class."""
    return SamplingOptions(top_p=0.9, guidance=1.0 if generator.config.class_dropout == 0 else 1.5)


@dataclass(frozen=True)
class SampledClip:
    """What was written. tokens: of the whole clip; decode: gives its video in consecutive pieces (C, any, H, W) in
    [-1, 1], anew each time."""

    tokens: ClipTokens
    decode: Callable[[], Iterator[Tensor]]

    def frames(self) -> Iterator[np.ndarray]:
        """uint8 (H, W, C) one by one."""
        return (frame for piece in self.decode() for frame in video_to_frames(piece))

    def as_row(self) -> dict[str, list[int]]:
        """For `tokens.jsonl`."""
        return {"lengths": self.tokens.lengths.tolist(), "codes": self.tokens.codes.tolist()}


class SampledClips:
    """The clips of one run by their numbers: what is asked of each, and how it is written."""

    def __init__(self, config: Sampling, generator: VideoGenerator, tokenizer: VideoTokenizer):
        self.config, self.generator, self.tokenizer = config, generator, tokenizer
        given_frames = generator.config.given_frames
        if given_frames and config.given is None:
            raise UserError(
                f"this generator predicts what follows {given_frames} given frames: give it videos, given.data.root=…"
            )
        self.given = GivenClips(config.given, generator, tokenizer) if config.given else None
        try:
            self.options = SamplingOptions(**config.options.model_dump())
            self.constraints = LengthConstraints(**config.lengths.model_dump())
            self.constraints.check(generator.grammar)
        except ValueError as error:
            raise UserError(str(error)) from error
        self.num_blocks, self.num_frames = size_of_videos(config, tokenizer)
        known = list(generator.config.class_names)
        self.names = config.classes or known or [None]
        self.labels = [label_of(name, known) for name in self.names]

    def __len__(self) -> int:
        return (len(self.given) if self.given else len(self.names)) * self.config.clips_per_class

    def class_of(self, number: int) -> str | None:
        of_what = number // self.config.clips_per_class
        return self.given.class_of(of_what) if self.given else self.names[of_what]

    def folder_of(self, number: int) -> str:
        """In the run folder. Classes are named by who made the generator, so their names are not taken for paths."""
        name = self.class_of(number)
        return "clips" if name is None else file_name_of(name)

    def source_of(self, number: int) -> dict:
        return {"given": self.given.source_of(number // self.config.clips_per_class)} if self.given else {}

    def given_from(self) -> dict[str, str]:
        """What given frames follow from, if there are some."""
        if self.given is None:
            return {}
        return {"given_videos": self.given.dataset.fingerprint(), "given_lengths": str(self.given.assign)}

    def seed_of(self, number: int) -> int:
        return clip_seed(self.config.run.seed, number)

    def requests(self, numbers: list[int]) -> list[ClipRequest]:
        """All, so that one that cannot be met is told beforehand."""
        of_what = [number // self.config.clips_per_class for number in numbers]
        label = self.labels.__getitem__ if self.given is None else self.given.label
        given = self._encoded(list(dict.fromkeys(of_what)))
        return [
            ClipRequest(self.seed_of(number), label(what), given.get(what), self.constraints, self.num_blocks)
            for number, what in zip(numbers, of_what)
        ]

    def _encoded(self, indices: list[int]) -> dict[int, ClipTokens]:
        if self.given is None:
            return {}
        encoded = self.given.encode(indices, self.config.run.num_workers)
        bar = tqdm(encoded, "given clips", len(indices), unit="clip", delay=SECONDS_WITHOUT_A_WORD, dynamic_ncols=True)
        return dict(zip(indices, bar, strict=True))

    def write(self, numbers: list[int]) -> Iterator[tuple[int, SampledClip]]:
        """These clips, as they get finished. Raises UserError where one cannot be as asked."""
        requests = self.requests(numbers)
        dtype = HALF.get(precision_on(self.config.run.precision, self.generator.device))
        remembers = self.tokenizer.config.memory_blocks is not None
        decoded = self._streamed if remembers else self._together
        try:
            guided = is_guided(self.generator, self.options)
            slots = self.config.slots or slots_that_fit(self.generator, guided, dtype)
            clips = sample(self.generator, requests, self.options, slots, dtype)
            while some := list(itertools.islice(clips, 1 if remembers else DECODED_TOGETHER)):
                yield from ((numbers[i], clip) for i, clip in decoded(some))
        except ValueError as error:
            raise UserError(str(error)) from error

    def _streamed(self, clips: list[tuple[int, ClipTokens]]) -> Iterator[tuple[int, SampledClip]]:
        """Frames are decoded when they are asked for, so that a long video need not fit in memory."""
        size, patch = (self.tokenizer.config.resolution,) * 2, self.tokenizer.config.temporal_patch
        for number, tokens in clips:
            frames = self.num_frames or len(tokens.lengths) * patch
            whole = TokenizedClips(tokens.codes, tokens.lengths[None])
            video = TokenizedVideo(whole, frames, size, size, None, None)
            yield number, SampledClip(tokens, partial(decode_in_chunks, self.tokenizer, video))

    def _together(self, clips: list[tuple[int, ClipTokens]]) -> Iterator[tuple[int, SampledClip]]:
        videos = decode_clips(self.tokenizer, [tokens for _, tokens in clips])
        for (number, tokens), video in zip(clips, videos):
            yield number, SampledClip(tokens, partial(iter, [video[:, : self.num_frames]]))


def size_of_videos(config: Sampling, tokenizer: VideoTokenizer) -> tuple[int | None, int | None]:
    """How many blocks and frames each video is to have; None where the generator's clips do as they are. Raises
    UserError for less than a block."""
    patch = tokenizer.config.temporal_patch
    if config.seconds is None:
        return config.blocks, None
    frames = round(config.seconds * config.frames_per_second)
    if frames < patch:
        raise UserError(
            f"seconds={config.seconds:g} are {frames} frames at {config.frames_per_second} a second, less than one "
            f"block of {patch}; give at least {patch / config.frames_per_second:.3g}"
        )
    return -(-frames // patch), frames


def clip_seed(seed: int, number: int) -> int:
    """The seed of one clip of a sampling run. Raises UserError for a seed that no config may have either."""
    if not 0 <= seed < SEEDS:
        raise UserError(f"seed={seed}: give a whole number from 0 to {SEEDS - 1}")
    return seed * 1_000_003 + number


def decode_clips(tokenizer: VideoTokenizer, clips: list[ClipTokens]) -> Tensor:
    """Sampled tokens → video B C F H W in [-1, 1]."""
    codes, lengths = torch.cat([c.codes for c in clips]), torch.stack([c.lengths for c in clips])
    return tokenizer.decode(TokenizedClips(codes, lengths))


MOST_SLOTS = 64
"""Unless more are asked for; what more would bring on a GPU is not measured."""
SHARE_FOR_SLOTS = 0.7
"""Of a GPU's free memory; weights in half precision and what a step computes need the rest."""


def slots_that_fit(generator: VideoGenerator, guided: bool, dtype: torch.dtype | None) -> int:
    """How many clips can be written side by side: `MOST_SLOTS`, or as many caches as a GPU's free memory holds. Raises
    UserError where it holds none."""
    if generator.device.type != "cuda":
        return MOST_SLOTS
    config, rows = generator.config, 2 if guided else 1
    itemsize = (dtype or generator.dtype).itemsize
    of_slot = rows * 2 * config.depth * generator.grammar.max_sequence_length * config.width * itemsize
    free, _ = torch.cuda.mem_get_info(generator.device)
    free += torch.cuda.memory_reserved(generator.device) - torch.cuda.memory_allocated(generator.device)
    fitting = int(SHARE_FOR_SLOTS * free // of_slot)
    if fitting < 1:
        raise UserError(
            f"a clip's keys and values take {of_slot / 1e9:.2f} GB, and {SHARE_FOR_SLOTS:.0%} of the GPU's "
            f"{free / 1e9:.2f} free GB are less: close other programs on it, or sample in bf16 or without guidance, "
            "each of which halves what a clip takes: run.precision=bf16 or options.guidance=1 of a config, dtype or "
            "guidance_scale in Python"
        )
    return min(MOST_SLOTS, fitting)
