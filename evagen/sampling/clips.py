"""The clips of a sampling run: what is asked of each, and how it is written.

Legend: B clips, C = 3, F frames, H × W pixels.
"""

import difflib
import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from evagen.ar_model import ClipRequest, ClipTokens, LengthConstraints, SamplingOptions, VideoGenerator, sample
from evagen.errors import UserError
from evagen.models.inference import HALF
from evagen.sampling.config import Sampling
from evagen.sampling.given import GivenClips
from evagen.sampling.windows import LongVideo, plan_windows
from evagen.tokenizer import TokenizedClips, VideoTokenizer

DECODED_TOGETHER = 8
"""Clips."""
SEEDS_BETWEEN_WINDOWS = 2**40
"""More than there are clips, so that no window repeats another clip's random numbers."""


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
        self.num_windows, self.overlap = plan_windows(config.blocks, config.overlap, generator)
        known = list(generator.config.class_names)
        self.names = config.classes or known or [None]
        self.labels = [label_of(name, known) for name in self.names]

    def __len__(self) -> int:
        return (len(self.given) if self.given else len(self.names)) * self.config.clips_per_class

    def class_of(self, number: int) -> str | None:
        of_what = number // self.config.clips_per_class
        return self.given.class_of(of_what) if self.given else self.names[of_what]

    def name_of(self, number: int) -> str:
        return self.class_of(number) or "clips"

    def source_of(self, number: int) -> dict:
        return {"given": self.given.source_of(number // self.config.clips_per_class)} if self.given else {}

    def seed_of(self, number: int) -> int:
        return clip_seed(self.config.run.seed, number)

    def request(self, number: int) -> ClipRequest:
        of_what = number // self.config.clips_per_class
        if self.given:
            label, tokens = self.given.label(of_what), self.given.tokens(of_what)
        else:
            label, tokens = self.labels[of_what], None
        return ClipRequest(self.seed_of(number), label, tokens, self.constraints)

    def write(self, numbers: list[int]) -> Iterator[tuple[int, LongVideo]]:
        """These clips, as they get finished. Raises UserError where one cannot be as asked."""
        try:
            if self.num_windows == 1:
                for i, window, video in self._windows([self.request(number) for number in numbers]):
                    yield numbers[i], LongVideo(video, [window])
                return
            for start in range(0, len(numbers), self.config.slots):  # windows of so many clips, then their next ones
                group = numbers[start : start + self.config.slots]
                yield from zip(group, self._long([self.request(number) for number in group]))
        except ValueError as error:
            raise UserError(str(error)) from error

    def _long(self, requests: list[ClipRequest]) -> list[LongVideo]:
        patch = self.tokenizer.config.temporal_patch
        new_frames = (self.generator.grammar.num_blocks - self.overlap) * patch
        clips = {i: LongVideo(video, [window]) for i, window, video in self._windows(requests)}
        for number in range(1, self.num_windows):
            following = [
                replace(
                    request,
                    seed=request.seed + number * SEEDS_BETWEEN_WINDOWS,
                    given=clips[i].beginning(self.tokenizer, self.overlap),
                )
                for i, request in enumerate(requests)
            ]
            for i, window, video in self._windows(following):
                clips[i].extend(window, video, new_frames)
        for clip in clips.values():
            clip.video = clip.video[:, : self.config.blocks * patch]
        return [clips[i] for i in range(len(requests))]

    def _windows(self, requests: list[ClipRequest]) -> Iterator[tuple[int, ClipTokens, Tensor]]:
        """The clip of each request and its video (C, F, H, W), as they get finished."""
        clips = sample(self.generator, requests, self.options, self.config.slots, HALF.get(self.config.run.precision))
        while some := list(itertools.islice(clips, DECODED_TOGETHER)):
            videos = decode_clips(self.tokenizer, [clip for _, clip in some])
            for (i, clip), video in zip(some, videos):
                yield i, clip, video


def clip_seed(seed: int, number: int) -> int:
    """The seed of one clip of a sampling run."""
    return seed * 1_000_003 + number


def label_of(name: str | None, known: list[str]) -> int:
    """A class's label, -1 for None. Raises UserError with the nearest name for an unknown class."""
    if name is None:
        return -1
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        raise UserError(f"the generator knows no class {name!r}; the nearest are {', '.join(near) or 'none at all'}")
    return known.index(name)


def decode_clips(tokenizer: VideoTokenizer, clips: list[ClipTokens]) -> Tensor:
    """Sampled tokens → video B C F H W in [-1, 1]."""
    joined = TokenizedClips(torch.cat([c.codes for c in clips]), torch.stack([c.lengths for c in clips]))
    return tokenizer.decode(TokenizedClips(joined.codes.to(tokenizer.device), joined.lengths))
