"""A video into tokens and back, piece by piece, with what it costs and how good it is.

Every frame is resized as it is read, its short side to what the models were trained on; so memory depends neither on
the length of a video nor on its size. What is longer is encoded in tiles (`tokenizer.tiles`), and a block's tokens are
those of all of them.

Letters: F frames, H and W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evagen.data.square_clips import iterate_whole
from evagen.data.video_reader import VideoError
from evagen.demo.models import DemoModels
from evagen.demo.upload import Limits, check_upload, explain
from evagen.errors import UserError
from evagen.kernels.levels import video_to_frames
from evagen.scoring.pairs import PIECE, PairScores
from evagen.tokenizer import AdaptiveTokenizer, LiveTokenizer, Rate, TileStreams, num_tiles

CLIPS_A_PIECE = 4
"""What is shown at a time: four clips of each tile, or with a memory as many frames."""


@dataclass(frozen=True)
class Wish:
    """How many tokens a video is to have: as many as a preference within the router's range asks for, or,
    where `tokens_per_second` is given, at most that many in each piece, or the fewest that there can be."""

    preference: float = 1.2
    tokens_per_second: float | None = None


@dataclass(frozen=True)
class Rebuilt:
    """A video as far as it has been rebuilt.

    originals, rebuilt: frames of the newest piece, uint8 F H W 3; new_lengths: of its blocks; lengths: of all blocks so
    far; num_frames: so far, of total_frames; bits: of tokens and lengths so far; longest: tokens that a block can have;
    psnr: in dB; motion_explained: at most 1, None where nothing moves; better_squares: the PSNR of a still picture of
    squares, None unless it is higher."""

    originals: np.ndarray
    rebuilt: np.ndarray
    new_lengths: tuple[int, ...]
    lengths: tuple[int, ...]
    num_frames: int
    total_frames: int
    frames_per_second: float
    frames_a_block: int
    longest: int
    bits: float
    psnr: float
    motion_explained: float | None
    better_squares: float | None

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def seconds(self) -> float:
        return self.num_frames / self.frames_per_second

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def share_of_longest(self) -> float:
        """Of what the longest lengths everywhere would take, 0 to 1."""
        return self.tokens / (self.longest * len(self.lengths))

    @property
    def bits_per_pixel(self) -> float:
        """Of the pixels that the models see."""
        return self.bits / (self.num_frames * self.originals.shape[1] * self.originals.shape[2])


@dataclass(frozen=True)
class _Piece:
    """frames, decoded: (C, F, H, W) in [-1, 1]; lengths: of its blocks; num_tiles: whose lengths these are sums of."""

    frames: Tensor
    decoded: Tensor
    lengths: list[int]
    num_tiles: int


def rebuild(models: DemoModels, video: Path, wish: Wish, limits: Limits) -> Iterator[Rebuilt]:
    """A video file through the models; yields after every piece what there is by then, at least once.

    Raises UserError for a file that the page does not take, on the way for one that is damaged, and for a preference
    out of range."""
    header = check_upload(video, limits)
    make = _with_memory if models.remembers else _of_clips
    scores, lengths, num_frames = PairScores(), (), 0
    pieces = make(models, iterate_whole(video, models.side), wish, header.frames_per_second)
    try:
        while (piece := _next(models, pieces)) is not None:
            originals, rebuilt = video_to_frames(piece.frames), video_to_frames(piece.decoded)
            for start in range(0, len(originals), PIECE):
                scores.add(*(list(each[start : start + PIECE]) for each in (originals, rebuilt)))
            lengths, num_frames = (*lengths, *piece.lengths), num_frames + len(originals)
            yield Rebuilt(
                originals, rebuilt, tuple(piece.lengths), lengths, num_frames, header.frames, header.frames_per_second,
                models.frames_a_block, models.levels[-1] * piece.num_tiles,
                models.bits(sum(lengths), len(lengths) * piece.num_tiles), scores.psnr, scores.motion,
                scores.better_squares,
            )  # fmt: skip
    except VideoError as error:
        raise UserError(explain(error, video.name)) from error
    except ValueError as error:
        raise UserError(str(error)) from error
    if not lengths:
        raise UserError(f"{video.name} holds no frame. Export it again and try once more.")


def _next(models: DemoModels, pieces: Iterator[_Piece]) -> _Piece | None:
    """The next piece, computed while nobody else computes."""
    with models.lock:
        return next(pieces, None)


def _of_clips(models: DemoModels, frames: Iterator[Tensor], wish: Wish, fps: float) -> Iterator[_Piece]:
    """Clips do not depend on each other, so a piece of the video has the tokens that it has in the whole."""
    model, per_clip = AdaptiveTokenizer(models.tokenizer, models.router), models.tokenizer.config.num_frames
    while piece := list(islice(frames, CLIPS_A_PIECE * per_clip)):
        count = num_tiles(models.tokenizer, (piece[0].shape[1], piece[0].shape[2]))
        if wish.tokens_per_second is None:
            tokens = model.encode(piece, preference=wish.preference)
        else:  # a last clip is filled up with frames that nobody waits for: the budget is that of the others
            clips = -(-len(piece) // per_clip) * count
            least = models.levels[0] * models.tokenizer.assignments.num_blocks
            mean = max(least, wish.tokens_per_second * len(piece) / fps / clips)
            tokens = model.encode(piece, mean_tokens=mean)
        lengths = tokens.over_time(count).tolist()
        yield _Piece(torch.stack(piece, dim=1), model.decode(tokens).cpu(), lengths, count)


def _with_memory(models: DemoModels, frames: Iterator[Tensor], wish: Wish, fps: float) -> Iterator[_Piece]:
    read: list[Tensor] = []

    def remembered() -> Iterator[Tensor]:
        for frame in frames:
            read.append(frame)
            yield frame

    if (first := next(frames, None)) is None:
        return
    frames, size = chain([first], frames), (first.shape[1], first.shape[2])
    model, streams = LiveTokenizer(models.tokenizer, models.router), TileStreams(models.tokenizer, size)
    least = num_tiles(models.tokenizer, size) * models.tokens_per_second(fps)[0]
    rate = None if wish.tokens_per_second is None else Rate(max(least, wish.tokens_per_second), fps)
    blocks = model.blocks(remembered(), preference=None if rate else wish.preference, rate=rate)
    while some := list(islice(blocks, CLIPS_A_PIECE * models.tokenizer.config.num_frames // models.frames_a_block)):
        of_tiles = list(zip(*(block.codes for block in some)))  # of each tile the codes of each block
        lengths = torch.tensor([[len(codes) for codes in of_tile] for of_tile in of_tiles])
        decoded = streams.decode([torch.cat(codes) for codes in of_tiles], lengths)  # (C, n·f, H, W)
        piece = torch.stack(read, dim=1)  # (C, F, H, W)
        read.clear()
        yield _Piece(piece, decoded[:, : piece.shape[1]].cpu(), lengths.sum(0).tolist(), len(of_tiles))
