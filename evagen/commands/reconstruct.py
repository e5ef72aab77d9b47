"""`evagen reconstruct`: a video file beside what its tokens give back."""

import tempfile
from collections import deque
from pathlib import Path

import numpy as np
from PIL import Image

from evagen.commands import encode
from evagen.commands.decode import open_tokens
from evagen.commands.encode import Dials
from evagen.data.token_bars import side_by_side
from evagen.data.token_file import TokenFile
from evagen.data.video_reader import VideoError, frame_rate, iterate_frames
from evagen.data.video_writer import check_name, check_rate, write_video
from evagen.errors import UserError
from evagen.kernels.files import check_writable
from evagen.models.inference import RunPrecision
from evagen.scoring.pairs import Pair, PairScores, scored

SHOWN_SIDE = 360
"""Pixels. More would show no detail that a tokenizer gives back, and writing twice 1080p takes minutes."""


def main(
    video: Path,
    out: Path,
    tokenizer: str,
    router: str | None = None,
    dials: Dials | None = None,
    short_side: int | None = None,
    clips_per_chunk: int = 4,
    precision: RunPrecision = "auto",
) -> tuple[TokenFile, PairScores]:
    """Encodes a video file, decodes the tokens, and writes both side by side, reduced to about `SHOWN_SIDE`, with the
    tokens of each block beneath. Returns what was encoded, and how well it came back at its own size.

    Raises UserError as `evagen encode` does, and where no video of this rate is written by the name of `out`, or it is
    the video itself."""
    check_name(out)
    if out.exists() and video.exists() and out.samefile(video):
        raise UserError(f"{out} is the video itself: give another name for what is written")
    try:
        check_rate(out, frame_rate(video))
    except VideoError as error:
        raise UserError(str(error)) from error
    check_writable(out)
    scores = PairScores()
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.safetensors"
        encode.main(video, tokens, tokenizer, router, dials, short_side, clips_per_chunk, None, precision)
        opened = open_tokens(tokens, tokenizer, clips_per_chunk, precision)
        pairs = map(reduced, scored(zip(iterate_frames(video), opened.frames, strict=True), scores))
        write_video(out, side_by_side(pairs, opened.tokens, opened.frames_a_block), opened.about.frames_per_second)
    return opened.about, scores


def reduced(pair: Pair) -> Pair:
    """Both pictures smaller by the largest whole factor that leaves the short side at least `SHOWN_SIDE`."""
    factor = min(pair[0].shape[:2]) // SHOWN_SIDE
    if factor < 2:
        return pair
    first, second = (np.asarray(Image.fromarray(frame).reduce(factor)) for frame in pair)
    return first, second


def compare(
    video: Path, tokens: Path, tokenizer: str, clips_per_chunk: int = 4, precision: RunPrecision = "auto"
) -> PairScores:
    """How much of a video file its tokens give back."""
    scores = PairScores()
    opened = open_tokens(tokens, tokenizer, clips_per_chunk, precision)
    deque(scored(zip(iterate_frames(video), opened.frames, strict=True), scores), maxlen=0)
    return scores
