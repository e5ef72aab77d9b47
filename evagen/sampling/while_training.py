"""Samples that a generator's training draws from time to time: a picture and a short video in `pictures/` of the run
folder, and the picture for the tracker. The clips have the same seeds at every look, so that one can watch each of them
become something. A look draws no random number of the training's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field

from evagen.ar_model import ClipRequest, ClipTokens, SamplingOptions, VideoGenerator, is_guided, sample_in_order
from evagen.config import ONLY_HOW, Place, Section
from evagen.data.corpus import Windows
from evagen.data.layouts import class_of
from evagen.data.pictures import ShownClip, draw_clips, leave_picture
from evagen.data.token_bars import with_bars
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.levels import video_to_frames
from evagen.models.fit import check_same_tokenizer
from evagen.models.inference import HALF
from evagen.models.loading import fingerprint, load_model
from evagen.sampling.clips import clip_seed, decode_clips, label_of
from evagen.sampling.config import OptionsConfig
from evagen.sampling.frame_grid import in_rows
from evagen.tokenizer import VideoTokenizer

FRAMES_PER_SECOND = 15
"""Of the video."""
COLUMNS, GAP = 4, 4
"""Clips beside each other in the video, and the pixels between them."""


class SamplesConfig(Section):
    """Clips that the generator writes during its training, to look at. They do not change what is trained."""

    every: Annotated[int, ONLY_HOW] = Field(0, ge=0)
    """Steps between looks; one more look follows the last step. 0 draws none."""
    clips: Annotated[int, ONLY_HOW] = Field(8, ge=1)
    """Clips of a look."""
    classes: Annotated[list[str] | None, ONLY_HOW] = None
    """Names of classes among which the clips are shared out; all that the corpus has if None. A generator that predicts
    what follows given frames begins from clips of the corpus instead, and takes no classes here."""
    tokenizer: Annotated[Place | None, ONLY_HOW] = None
    """The tokenizer of the corpus, folder or hub id, which decodes the clips. If None: from where it was when the
    corpus was made. If it is gone from there, there are no samples, which is said."""
    options: OptionsConfig = OptionsConfig()  # type: ignore[valid-type]


def open_samples(
    config: SamplesConfig, windows: Windows, generator: VideoGenerator, seed: int, say: Callable[[str], object]
) -> "TrainingSamples | None":
    """What draws the samples; None where none are asked for, or, which `say` is told, the corpus' tokenizer is gone.
    Raises UserError for a tokenizer that is not the corpus', and for classes or options that the generator cannot
    follow."""
    if not config.every:
        return None
    corpus = windows.corpus
    source = config.tokenizer or corpus.tokenizer_source
    try:
        tokenizer = load_model(VideoTokenizer, source)
    except UserError as error:
        if config.tokenizer:
            raise
        say(f"the training goes without samples, for lack of the corpus' tokenizer: {error}; give samples.tokenizer")
        return None
    check_same_tokenizer(
        corpus.tokenizer_fingerprint, fingerprint(tokenizer), "the corpus holds tokens of", source,
        "give samples.tokenizer the one that made the corpus, or leave samples out",
    )  # fmt: skip
    try:
        options = SamplingOptions(**config.options.model_dump())
        if is_guided(generator, options) and generator.config["class_dropout"] == 0:
            raise ValueError("guidance needs class_dropout above 0: leave samples.options.guidance out")
    except ValueError as error:
        raise UserError(f"samples.options: {error}") from error
    titles, requests = _given(config, windows, generator, seed) or _of_classes(config, generator, seed)
    return TrainingSamples(config.every, tokenizer, titles, requests, options)


def _of_classes(config: SamplesConfig, generator: VideoGenerator, seed: int) -> tuple[list[str], list[ClipRequest]]:
    known = list(generator.config.class_names)
    names = config.classes or known or [None]
    chosen = [names[i * len(names) // config.clips] for i in range(config.clips)]
    requests = [ClipRequest(clip_seed(seed, i), label_of(name, known)) for i, name in enumerate(chosen)]
    return [name or "clip" for name in chosen], requests


def _given(
    config: SamplesConfig, windows: Windows, generator: VideoGenerator, seed: int
) -> tuple[list[str], list[ClipRequest]] | None:
    """For a generator that predicts what follows given frames: those of some rows of the corpus."""
    if not windows.corpus.num_given_blocks:
        return None
    if config.classes:
        raise UserError(
            f"samples.classes={config.classes}: this corpus is for predicting what follows given frames, so samples "
            "begin from clips of the corpus; leave classes out"
        )
    numbers = np.linspace(0, len(windows) - 1, config.clips).round().astype(int).tolist()
    _, labels, given, _ = windows.read(numbers)
    known = list(generator.config.class_names)
    assert given is not None
    return (
        [class_of(label, known) or "clip" for label in labels.tolist()],
        [
            ClipRequest(clip_seed(seed, i), label if known else -1, blocks)
            for i, (label, blocks) in enumerate(zip(labels.tolist(), given))
        ],
    )


@dataclass(frozen=True)
class TrainingSamples:
    """The clips to write at each look, `every` so many steps: a title and a request for each, and the tokenizer that
    decodes them."""

    every: int
    tokenizer: VideoTokenizer
    titles: list[str]
    requests: list[ClipRequest]
    options: SamplingOptions

    def is_due(self, done: int, steps: int) -> bool:
        """After each multiple of `every` steps, and after the last of all."""
        return done % self.every == 0 or done == steps

    def look(self, generator: VideoGenerator, out: Path, step: int, accelerator: Accelerator) -> None:
        """Writes the clips with the generator as it is, on the device of the training. For the main process."""
        device = accelerator.device
        generator.to(device)  # what was gathered from several processes lies on the CPU
        was_training = generator.training
        generator.eval()
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            dtype = HALF.get(accelerator.mixed_precision)
            tokens = sample_in_order(generator, self.requests, self.options, len(self.requests), dtype)
            self.tokenizer.to(device)
            videos = [video_to_frames(decode_clips(self.tokenizer, [clip])[0]) for clip in tokens]  # F H W C each
        generator.train(was_training)
        clips = [
            ShownClip(f"{title}: {len(clip.codes)} tokens", [frames], clip.lengths.tolist())
            for title, clip, frames in zip(self.titles, tokens, videos)
        ]
        highest = max(generator.grammar.levels)
        heading = f"Step {step}. Samples, and the tokens of each block."
        picture = leave_picture(draw_clips(heading, clips, highest), out, step, accelerator)
        write_video(picture.with_suffix(".mp4"), self._beside_each_other(tokens, videos, highest), FRAMES_PER_SECOND)

    def _beside_each_other(self, tokens: list[ClipTokens], videos: list[np.ndarray], highest: int) -> np.ndarray:
        """All clips in one video with their bars, uint8 (F, H', W', C)."""
        frames_a_block = self.tokenizer.config.temporal_patch
        cells = [
            np.stack(list(with_bars(frames, clip.lengths.tolist(), frames_a_block, highest)))
            for clip, frames in zip(tokens, videos)
        ]
        return in_rows(np.stack(cells), min(COLUMNS, len(cells)), GAP)
