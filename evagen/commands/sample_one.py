"""`evagen sample --class …`: clips of a trained model in one video file, without a config."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accelerate import PartialState
from tqdm.auto import tqdm

from evagen.ar_model import ClipRequest, ClipTokens, VideoGenerator, is_guided, sample
from evagen.data.video_writer import check_name, write_video
from evagen.errors import UserError
from evagen.kernels.files import check_writable
from evagen.kernels.levels import video_to_frames
from evagen.kernels.names import as_line, file_name_of
from evagen.models.fit import check_generator
from evagen.models.loading import load_model
from evagen.sampling.classes import label_of
from evagen.sampling.clips import FRAMES_PER_SECOND, clip_seed, decode_clips, slots_that_fit, usual_options
from evagen.sampling.frame_grid import in_rows
from evagen.tokenizer import VideoTokenizer

SHOWN_SIDE = 256
"""Small clips are enlarged by a whole factor, up to this height, since players show them as small as they are."""
GAP = 4
"""Pixels between clips."""


def main(
    model: str, classes: Sequence[str] | None, out: Path | None, clips_per_class: int, seed: int
) -> tuple[Path, list[str]]:
    """Writes clips of some classes, or of every one, side by side into one video file. Returns it, and a line about the
    lengths of each clip.

    model: a pipeline, wherever `kernels.sources` finds one. out: `<class>.mp4` if None. Raises UserError for a model
    without a generator, and for a class that it does not know; OSError where the file cannot be written, before the
    models are loaded."""
    path = out or Path(f"{file_name_of('-'.join(classes)) if classes else 'samples'}.mp4")
    check_name(path)
    check_writable(path)
    names, clips, tokens = clips_of(model, classes, clips_per_class, seed)
    write_video(path, grid(clips), FRAMES_PER_SECOND)
    return path, [describe(*each) for each in zip(names, tokens)]


def clips_of(
    model: str, classes: Sequence[str] | None, clips_per_class: int, seed: int
) -> tuple[list[str | None], np.ndarray, list[ClipTokens]]:
    """New clips of some classes, or of every one: the class of each, the clips uint8 (B, F, H, W, 3), their tokens.
    Raises UserError as `main` does."""
    device = PartialState().device
    tokenizer, generator = load_model(VideoTokenizer, model, device), load_model(VideoGenerator, model, device)
    check_generator(generator, tokenizer)
    known = list(generator.config.class_names)
    asked = [name for name in classes or known or [None] for _ in range(clips_per_class)]
    requests = [ClipRequest(clip_seed(seed, i), label_of(name, known)) for i, name in enumerate(asked)]
    options = usual_options(generator)
    slots = slots_that_fit(generator, is_guided(generator, options), dtype=None)
    try:
        sampled = sample(generator, requests, options, slots)
        written = dict(tqdm(sampled, "sampling", len(requests), unit="clip"))
    except ValueError as error:
        raise UserError(f"the generator cannot write these clips: {error}") from error
    clips = [written[number] for number in range(len(requests))]
    frames = [video_to_frames(decode_clips(tokenizer, [clip])[0]) for clip in clips]
    return asked, np.stack(frames), clips


def describe(name: str | None, tokens: ClipTokens) -> str:
    """A clip's class and the tokens that its generator chose for each block."""
    lengths = tokens.lengths.tolist()
    return f"{as_line(name or 'clip')}: {sum(lengths)} tokens, {' + '.join(map(str, lengths))}"


def grid(clips: np.ndarray) -> np.ndarray:
    """uint8 (B, F, H, W, 3) → (F, H', W', 3): the clips in rows, enlarged where they are small."""
    scale = max(1, SHOWN_SIDE // clips.shape[2])
    large = clips.repeat(scale, axis=2).repeat(scale, axis=3)
    return in_rows(large, columns=int(np.ceil(np.sqrt(len(clips)))), gap=GAP)
