"""Videos longer than the generator's clips: windows that move on over blocks.

Each window begins with the last blocks of what is written so far, encoded anew as the first blocks of a clip (a block's
tokens depend on the blocks before it, so those of the middle of a clip are no beginning), and goes on from there.

Legend: C = 3, F frames, H × W pixels.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from evagen.ar_model import ClipTokens, VideoGenerator
from evagen.errors import UserError
from evagen.tokenizer import VideoTokenizer


@dataclass
class LongVideo:
    """A video as far as it is written. video: (C, F, H, W) in [-1, 1]; windows: the tokens of each, whole clips."""

    video: Tensor
    windows: list[ClipTokens] = field(default_factory=list)

    def as_row(self) -> dict:
        """For `tokens.jsonl`: the first window, and the later ones where there are any."""
        rows = [{"lengths": w.lengths.tolist(), "codes": w.codes.tolist()} for w in self.windows]
        return rows[0] | ({"later_windows": rows[1:]} if rows[1:] else {})

    def beginning(self, tokenizer: VideoTokenizer, overlap: int) -> ClipTokens:
        """The last `overlap` blocks as the first of a new window."""
        frames = overlap * tokenizer.config.temporal_patch
        lengths = self.windows[-1].lengths[None, -overlap:]
        tokens = tokenizer.encode(self.video[None, :, -frames:].to(tokenizer.device), lengths)
        return ClipTokens(tokens.codes.cpu(), tokens.lengths[0])

    def extend(self, window: ClipTokens, video: Tensor, new_frames: int) -> None:
        """Adds the frames of a further window (C, F, H, W) that were not there yet, its last ones."""
        self.windows.append(window)
        self.video = torch.cat([self.video, video[:, -new_frames:]], dim=1)


def plan_windows(blocks: int | None, overlap: int | None, generator: VideoGenerator) -> tuple[int, int]:
    """How many windows a video of so many blocks takes, and how many blocks each shares with the one before. Raises
    UserError for what cannot be."""
    whole = generator.grammar.num_blocks
    overlap = overlap or max(1, whole // 2)
    if blocks is None or blocks == whole:
        return 1, overlap
    if blocks < whole:
        raise UserError(f"videos have at least the generator's {whole} blocks, got blocks={blocks}")
    if generator.grammar.num_given_blocks:
        raise UserError("a generator for frame prediction writes clips of its own length only: leave out blocks")
    if overlap >= whole:
        raise UserError(f"windows of {whole} blocks cannot share {overlap} and move on: overlap is {whole - 1} at most")
    return 1 + -(-(blocks - whole) // (whole - overlap)), overlap
