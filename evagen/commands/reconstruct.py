"""`evagen reconstruct`: a video file beside what its tokens give back."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from evagen.commands import encode
from evagen.commands.decode import open_tokens
from evagen.commands.encode import Dials
from evagen.data.token_bars import side_by_side
from evagen.data.token_file import TokenFile
from evagen.data.video_reader import iterate_frames
from evagen.data.video_writer import check_name, write_video
from evagen.eval import motion_explained, moving_errors, psnr_of_mse
from evagen.kernels.levels import frames_to_video
from evagen.models.inference import RunPrecision

Pair = tuple[np.ndarray, np.ndarray]
"""A frame and its reconstruction, uint8 (H, W, 3)."""
PIECE = 16
"""Frames that motion is measured over."""
SCORED_SIDE = 256
"""Of larger pictures scores look at every second, third … row and column, until the short side is below twice this."""


@dataclass
class Scores:
    """Of pairs of frames that went through `watched`: sums of squared errors in [-1, 1], how many numbers, and the sums
    of `moving_errors`."""

    squared: float = 0.0
    count: int = 0
    moving: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def add(self, originals: list[np.ndarray], others: list[np.ndarray]) -> None:
        step = max(1, min(originals[0].shape[:2]) // SCORED_SIDE)
        real, made = (frames_to_video(np.stack(x)[:, ::step, ::step])[None] for x in (originals, others))
        self.squared += float((real - made).square().sum())
        self.count += real.numel()
        self.moving.append(moving_errors(made, real))

    @property
    def psnr(self) -> float:
        """In dB."""
        return float(psnr_of_mse(torch.tensor(self.squared / self.count, dtype=torch.float64)))

    @property
    def motion_explained(self) -> float | None:
        """At most 1; None where nothing moves."""
        return motion_explained(*(torch.cat(sums) for sums in zip(*self.moving)))

    def summary(self) -> str:
        """One line for the terminal."""
        explained = self.motion_explained
        moved = "nothing moves" if explained is None else f"motion explained {explained:.2f}"
        return f"PSNR {self.psnr:.1f} dB, {moved}"


def main(
    video: Path,
    out: Path,
    tokenizer: str,
    router: str | None,
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
        lengths = opened.tokens.lengths.flatten().tolist()
        write_video(out, side_by_side(pairs, lengths, opened.frames_a_block), opened.about.frames_per_second)
    return opened.about, scores


def scored(pairs: Iterable[Pair], scores: Scores) -> Iterator[Pair]:
    """The pairs as they come, each added to the scores by the time the next piece begins."""
    piece: list[Pair] = []
    for pair in pairs:
        piece.append(pair)
        yield pair
        if len(piece) == PIECE:
            scores.add(*map(list, zip(*piece)))
            piece = []
    if piece:
        scores.add(*map(list, zip(*piece)))
