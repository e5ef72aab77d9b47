"""`evagen reconstruct`: a video file beside what its tokens give back."""

import tempfile
from collections import deque
from pathlib import Path

from evagen.commands import encode
from evagen.commands.decode import open_tokens
from evagen.commands.encode import Dials
from evagen.data.token_bars import side_by_side
from evagen.data.token_file import TokenFile
from evagen.data.video_reader import iterate_frames
from evagen.data.video_writer import check_name, write_video
from evagen.models.inference import RunPrecision
from evagen.scoring.pairs import Scores, scored


def main(
    video: Path,
    out: Path,
    tokenizer: str,
    router: str | None = None,
    dials: Dials | None = None,
    short_side: int | None = None,
    clips_per_chunk: int = 4,
    precision: RunPrecision = "auto",
) -> tuple[TokenFile, Scores]:
    """Encodes a video file, decodes the tokens, and writes both side by side with the tokens of each block beneath.
    Returns what was encoded, and how well it came back.

    Raises UserError as `evagen encode` does, and for a name of `out` that no video is written by."""
    check_name(out)
    scores = Scores()
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens.safetensors"
        encode.main(video, tokens, tokenizer, router, dials, short_side, clips_per_chunk, None, precision)
        opened = open_tokens(tokens, tokenizer, clips_per_chunk, precision)
        pairs = scored(zip(iterate_frames(video), opened.frames, strict=True), scores)
        write_video(out, side_by_side(pairs, opened.tokens, opened.frames_a_block), opened.about.frames_per_second)
    return opened.about, scores


def compare(
    video: Path, tokens: Path, tokenizer: str, clips_per_chunk: int = 4, precision: RunPrecision = "auto"
) -> Scores:
    """How much of a video file its tokens give back."""
    scores = Scores()
    opened = open_tokens(tokens, tokenizer, clips_per_chunk, precision)
    deque(scored(zip(iterate_frames(video), opened.frames, strict=True), scores), maxlen=0)
    return scores
