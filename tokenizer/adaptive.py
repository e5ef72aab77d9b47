"""Tokens for real videos: any number of frames, any size, as good as asked for or within a budget.

    model = AdaptiveTokenizer(tokenizer, router)
    tokens = model.encode(video, mean_tokens=300)     # C F H W in [-1, 1], or its frames C H W one by one
    video = model.decode(tokens)                      # as many frames, of the same size

A video is cut into clips of the tokenizer's `num_frames`; the last one is filled up with its last frame. Pictures that
are not of the tokenizer's `resolution` are cut into overlapping tiles that are (`tokenizer.tiles`), so a clip is so
many frames of one tile. The video goes through the models a few clips at a time, so memory does not grow with its
length.

Legend: C = 3 channels, F frames, H × W pixels of the video, h × w pixels that are encoded, s × t of a tile, k tiles, n
stretches of time in a chunk, f frames of a clip, T temporal blocks, N tokens.
"""

import numbers
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from evagen.kernels.levels import check_range
from evagen.kernels.transfer import send
from evagen.tokenizer import tiles
from evagen.tokenizer.autoencoder import TokenizedClips, VideoTokenizer
from evagen.tokenizer.reward import preference_within
from evagen.tokenizer.router import Router
from evagen.tokenizer.stream import TokenizerStream

Video = Tensor | Iterable[Tensor]
"""A video (C, F, H, W), or its frames (C, H, W) in turn, float in [-1, 1]."""

PIXELS_AT_ONCE = 2**24
"""Of decoded frames that are resized together."""


@dataclass(frozen=True)
class TokenizedVideo:
    """One video as tokens, with all that is needed to get it back, and the dials that the router was given.

    tokens: of its clips, on the CPU, those of one stretch of time after another, row by row; num_frames: of the video,
    without what filled up the last clip; size: (H, W) of the video; encoded_size: (h, w) it was encoded at; preference:
    w_q, None where there was none; max_tokens: the bound on each clip, or with a memory on each block, None without
    one. With a memory each tile is one clip, of all of the video."""

    tokens: TokenizedClips
    num_frames: int
    size: tuple[int, int]
    encoded_size: tuple[int, int]
    preference: float | None
    max_tokens: int | None

    @property
    def num_clips(self) -> int:
        """Each tile of a stretch of time counts; with a memory each tile is one."""
        return len(self.tokens.lengths)

    @property
    def num_tokens(self) -> int:
        """Of the whole video."""
        return len(self.tokens.codes)

    def over_time(self, num_tiles: int) -> Tensor:
        """Tokens of each block of time, those of all `num_tiles` tiles together: int64 (blocks,). Raises ValueError
        where the clips are not so many times the stretches of time."""
        if self.num_clips % num_tiles:
            raise ValueError(f"{self.num_clips} clips are no whole number of stretches of time in {num_tiles} tiles")
        return rearrange(self.tokens.lengths, "(n k) t -> n k t", k=num_tiles).sum(1).flatten()


class AdaptiveTokenizer:
    """A tokenizer and the router that says how many tokens each block of a clip deserves.

    Any height and width will do. The tokenizer has learnt patches of one scale, so the short side is resized to
    `short_side` pixels and the long side by the same factor; nothing is cropped. Of what is larger than the tokenizer's
    squares, each tile is a clip of its own; a side that is shorter is a multiple of the patch.

    Args:
        tokenizer, router: on one device; put into eval mode.
        short_side: height or width that is encoded, whichever is smaller; by default the tokenizer's `resolution`.
        clips_per_chunk: stretches of time that are in memory at once, each with all its tiles. The tokens do not
            depend on it.

    Raises ValueError for a tokenizer with a memory, and for a router of other levels or clips than the tokenizer's."""

    def __init__(
        self, tokenizer: VideoTokenizer, router: Router, short_side: int | None = None, clips_per_chunk: int = 4
    ):
        check_router_fits(tokenizer, router)
        if clips_per_chunk < 1:
            raise ValueError(f"clips_per_chunk={clips_per_chunk}: at least 1 is in memory at once")
        self.tokenizer = tokenizer.eval()
        self.router = router.eval()
        self.short_side = checked_short_side(short_side, tokenizer)
        self.clips_per_chunk = clips_per_chunk

    @torch.no_grad()
    def encode(
        self,
        video: Video,
        *,
        preference: float | None = None,
        max_tokens: int | None = None,
        mean_tokens: float | None = None,
        prefix: Sequence[int] = (),
    ) -> TokenizedVideo:
        """One video → tokens. Of the three dials, `preference` excludes `mean_tokens`, which finds one by itself.

        Args:
            video: (C, F, H, W), or an iterable of frames (C, H, W), float in [-1, 1]; for `mean_tokens` one that
                can be gone through up to four times, such as a list or an object that reads a file anew.
            preference: the quality dial w_q, from 0.8 (few tokens) to 1.6 (best quality), or what the router was
                trained for; 1.2, or what is nearest to it, if no dial is given.
            max_tokens: bound for each clip. Clips are independent of each other under these two.
            mean_tokens: bound for the average of all clips of the video, see `Router.assign_video`.
            prefix: lengths of the first blocks of each clip; the router chooses the others.

        Raises ValueError for dials that exclude each other or are out of range, a budget that even the shortest
        lengths exceed, no frames, and frames of other shapes."""
        check_dials(preference, mean_tokens, max_tokens)
        lengths = None  # of all clips (B, T), where they are known beforehand
        if mean_tokens is not None:
            if isinstance(video, Iterator):
                raise ValueError("mean_tokens reads the video several times, and an iterator can be read only once")
            found = self.router.assign_video(_RouterClips(self, video), mean_tokens, max_tokens, prefix)
            preference, max_tokens, lengths = found.preference, found.max_tokens, found.lengths
        preference = preference_within(preference, self.router.preference_range)
        encoded: list[TokenizedClips] = []
        num_frames = num_clips = 0
        for chunk in self._chunks(video):
            if lengths is None:
                chosen = self.router.assign(self._for_router(chunk.clips), preference, max_tokens, prefix)  # (n, T)
            else:
                chosen = lengths[num_clips : num_clips + len(chunk.clips)]  # (n, T)
            tokens = self.tokenizer.encode(chunk.clips, chosen, known_range=True)  # of every frame, as it came
            encoded.append(tokens)
            num_frames, num_clips = num_frames + chunk.num_frames, num_clips + len(chunk.clips)
            size = chunk.size
        if not encoded:
            raise ValueError("the video holds no frame; at least one is needed")
        tokens = TokenizedClips.join(encoded)
        tokens = TokenizedClips(tokens.codes.cpu(), tokens.lengths)
        return TokenizedVideo(tokens, num_frames, size, self.encoded_size(size), preference, max_tokens)

    def decode(self, tokens: TokenizedVideo) -> Tensor:
        """Tokens → the whole video (C, F, H, W) in [-1, 1]."""
        return torch.cat(list(decode_in_chunks(self.tokenizer, tokens, self.clips_per_chunk)), dim=1)

    def encoded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of a video → (h, w) that the tokenizer sees of it."""
        config = self.tokenizer.config
        return fit_size(size, self.short_side, config.spatial_patch, config.resolution)

    def _chunks(self, video: Video) -> Iterator["_Chunk"]:
        per_clip = self.tokenizer.config.num_frames
        for group, size in grouped(video, per_clip * self.clips_per_chunk):
            if self.tokenizer.device.type == "cpu":  # large pictures one by one: a stack of them takes gigabytes
                group = [resize(frame[None], self.encoded_size(size))[0] for frame in group]
            filled = send(torch.stack(group + group[-1:] * (-len(group) % per_clip)), self.tokenizer.device)
            fitted = resize(filled, self.encoded_size(size))  # (n·f, C, h, w)
            whole = rearrange(fitted, "(n f) c h w -> n c f h w", f=per_clip)
            yield _Chunk(tiles.cut(whole, self.tokenizer.config.resolution), len(group), size)

    def _for_router(self, clips: Tensor) -> Tensor:
        """What the router looks at: (n·k, C, f, s, t) → (n·k, C, f, resolution, resolution)."""
        return resize_clips(clips, self.router.config.resolution).to(self.router.device)


@dataclass(frozen=True)
class _Chunk:
    """clips: (n·k, C, f, s, t), ready to be encoded; num_frames: of the video in them; size: (H, W) of the video."""

    clips: Tensor
    num_frames: int
    size: tuple[int, int]


@dataclass(frozen=True)
class _RouterClips:
    """What the router looks at of a whole video, chunk by chunk, made anew each time it is gone through."""

    model: AdaptiveTokenizer
    video: Video

    def __iter__(self) -> Iterator[Tensor]:
        return (self.model._for_router(chunk.clips) for chunk in self.model._chunks(self.video))


def grouped(video: Video, size_of_group: int) -> Iterator[tuple[list[Tensor], tuple[int, int]]]:
    """The frames of a video in fp32, so many at a time, the last ones fewer, and their (H, W). Raises ValueError for
    what is no frame in [-1, 1], and for frames of other sizes."""
    frames = iter(video.unbind(1) if isinstance(video, Tensor) and video.ndim == 4 else video)
    size = None
    while group := list(islice(frames, size_of_group)):
        for frame in group:
            size = _checked_size(frame, size)
        check_range(*group)
        assert size is not None
        yield [frame.float() for frame in group], size


def check_decodable(tokenizer: VideoTokenizer, video: TokenizedVideo) -> None:
    """Raises ValueError for a number of clips or blocks that does not go with the frames and the size, and for
    codes and lengths that are not this tokenizer's."""
    config, lengths = tokenizer.config, video.tokens.lengths
    tokenizer.check_tokens(video.tokens)
    tokenizer.assignments.check_levels(lengths)
    count, of_tile = num_tiles(tokenizer, video.encoded_size), _tile_size(tokenizer, video.encoded_size)
    tokenizer.patch_grid(of_tile)
    if config.memory_blocks is not None:
        found, expected = tuple(lengths.shape), (count, -(-video.num_frames // config.temporal_patch))
        if found != expected:
            raise ValueError(
                f"{video.num_frames} frames in blocks of {config.temporal_patch} and {_tiles_in_words(count, config)} "
                f"are {expected[1]} blocks of {count} clip{'s' * (count > 1)}, but there are tokens of {found[1]} "
                f"blocks of {found[0]}"
            )
        return
    tokenizer.assignments.check(lengths)
    expected_clips = -(-video.num_frames // config.num_frames) * count
    if len(lengths) != expected_clips:
        raise ValueError(
            f"{video.num_frames} frames in clips of {config.num_frames} and {_tiles_in_words(count, config)} are "
            f"{expected_clips} clips, but there are tokens of {len(lengths)}"
        )


@torch.no_grad()
def decode_in_chunks(tokenizer: VideoTokenizer, video: TokenizedVideo, clips_per_chunk: int = 4) -> Iterator[Tensor]:
    """Tokens → the video in consecutive pieces (C, any, H, W) in [-1, 1]. Needs no router, and no more memory for
    a longer video. With a memory the video is one clip, and a piece is at most as many blocks.

    Raises ValueError as `check_decodable` does, before anything is decoded."""
    check_decodable(tokenizer, video)
    if tokenizer.config.memory_blocks is not None:
        yield from _decode_streams(tokenizer, video, clips_per_chunk)
        return
    per_clip, side, clips = tokenizer.config.num_frames, tokenizer.config.resolution, video.tokens.split()
    count, num_stretches = num_tiles(tokenizer, video.encoded_size), -(-video.num_frames // per_clip)
    of_tile = _tile_size(tokenizer, video.encoded_size)
    for start in range(0, num_stretches, clips_per_chunk):
        tokens = TokenizedClips.join(clips[start * count : (start + clips_per_chunk) * count])
        decoded = tiles.merge(tokenizer.decode(tokens, of_tile), video.encoded_size, side)  # (n, C, f, h, w)
        frames = rearrange(decoded, "n c f h w -> (n f) c h w")[: video.num_frames - start * per_clip]
        yield from _of_size(frames, video.size)


def _decode_streams(tokenizer: VideoTokenizer, video: TokenizedVideo, blocks_per_piece: int) -> Iterator[Tensor]:
    lengths, streams = video.tokens.lengths, TileStreams(tokenizer, video.encoded_size)
    of_tiles = [clip.codes.split(clip.lengths[0].tolist()) for clip in video.tokens.split()]  # k of T of (N,)
    for number in range(0, lengths.shape[1], blocks_per_piece):
        some = slice(number, number + blocks_per_piece)
        whole = streams.decode([torch.cat(codes[some]) for codes in of_tiles], lengths[:, some])
        frames = whole.transpose(0, 1)[: video.num_frames - number * tokenizer.config.temporal_patch]
        yield from _of_size(frames, video.size)


class TileStreams:
    """From tokens to pictures (h, w) with a memory: each of their k tiles is a stream. Raises ValueError for a
    tokenizer without a memory."""

    def __init__(self, tokenizer: VideoTokenizer, encoded_size: tuple[int, int]):
        self.tokenizer, self.encoded_size = tokenizer, encoded_size
        self._streams = [TokenizerStream(tokenizer) for _ in range(num_tiles(tokenizer, encoded_size))]

    def decode(self, codes: Sequence[Tensor], lengths: Tensor) -> Tensor:
        """The next codes int64 (N,) of every tile, and the lengths of their blocks int64 (k, n) → frames
        (C, n·f, h, w) in [-1, 1]."""
        of_tile = _tile_size(self.tokenizer, self.encoded_size)
        decoded = [stream.decode(*of_stream, of_tile) for stream, *of_stream in zip(self._streams, codes, lengths)]
        (whole,) = tiles.merge(torch.stack(decoded), self.encoded_size, self.tokenizer.config.resolution)
        return whole


def _of_size(frames: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """(F, C, h, w) → pieces (C, any, H, W), of few frames where these are large: small files can ask for large ones."""
    for some in frames.split(max(1, PIXELS_AT_ONCE // (size[0] * size[1]))):
        yield resize(some, size).transpose(0, 1)


def check_router_fits(tokenizer: VideoTokenizer, router: Router) -> None:
    """Raises ValueError unless both know the same levels, frames in a clip and frames in a block, and for a tokenizer
    with a memory or the router of one."""
    if not isinstance(router, Router) or getattr(tokenizer.config, "memory_blocks", None) is not None:
        raise ValueError(
            f"a tokenizer without a memory and a Router go together, got a {type(tokenizer).__name__} and a "
            f"{type(router).__name__}: with a memory LiveTokenizer takes a BlockRouter"
        )
    shapes = [(list(m.config.levels), m.config.num_frames, m.config.temporal_patch) for m in (tokenizer, router)]
    if shapes[0] != shapes[1]:
        (levels, frames, step), (router_levels, router_frames, router_step) = shapes
        raise ValueError(
            f"the tokenizer has levels {levels} for blocks of {step} frames in clips of {frames}, "
            f"the router {router_levels} for blocks of {router_step} frames in clips of {router_frames}; "
            "give the router that was trained for this tokenizer"
        )


def checked_short_side(short_side: int | None, tokenizer: VideoTokenizer) -> int:
    """The side that is encoded, the trained one if None. Raises ValueError for less than a pixel."""
    if short_side is not None and short_side < 1:
        raise ValueError(f"short_side={short_side}: a number of pixels is needed, or None for the trained one")
    return short_side or tokenizer.config.resolution


def check_dials(preference: float | None, mean_tokens: float | None, max_tokens: int | None) -> None:
    """Raises ValueError for what is no number, and for a preference beside a mean."""
    for name, value in (("preference", preference), ("mean_tokens", mean_tokens)):
        if value is not None and not isinstance(value, numbers.Real):
            raise ValueError(f"{name}={value!r}: a number is needed")
    if max_tokens is not None and not isinstance(max_tokens, numbers.Integral):
        raise ValueError(f"max_tokens={max_tokens!r}: a whole number is needed")
    if preference is not None and mean_tokens is not None:
        raise ValueError(
            f"preference={preference} and mean_tokens={mean_tokens} exclude each other: a mean finds the preference "
            "that it needs; give one of them"
        )


def _checked_size(frame: Tensor, size: tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) of a frame. Raises ValueError unless it is a picture, of the size of those before it."""
    if not isinstance(frame, Tensor):
        raise ValueError(
            "a video is a tensor 3 F H W in [-1, 1], or frames 3 H W one by one; got a "
            f"{type(frame).__name__} in place of a frame"
        )
    if frame.ndim != 3 or len(frame) != 3 or not frame.is_floating_point():
        raise ValueError(
            f"a video is floating point 3 F H W in [-1, 1], or frames 3 H W one by one; got {frame.dtype} "
            f"{tuple(frame.shape)} as a frame"
        )
    found = (frame.shape[1], frame.shape[2])
    if size not in (None, found):
        raise ValueError(f"all frames of a video have one size; after {size} comes {found}")
    return found


def num_tiles(tokenizer: VideoTokenizer, encoded_size: tuple[int, int]) -> int:
    """How many tiles a picture (h, w) is encoded as."""
    return tiles.count(encoded_size, tokenizer.config.resolution)


def _tiles_in_words(count: int, config: Any) -> str:
    return f"{count} tile{'s' * (count > 1)} of {config.resolution}x{config.resolution}"


def _tile_size(tokenizer: VideoTokenizer, encoded_size: tuple[int, int]) -> tuple[int, int]:
    """(s, t) of the tiles of a picture (h, w)."""
    height, width = (min(length, tokenizer.config.resolution) for length in encoded_size)
    return height, width


def fit_size(size: tuple[int, int], short_side: int, patch: int, resolution: int) -> tuple[int, int]:
    """(H, W) → the nearest size with that short side. Sides are multiples of the patch; those longer than `resolution`
    of any length, since tiles of that side will cover them."""
    sides = [side * short_side / min(size) for side in size]
    shorter = [max(1, round(side / patch)) * patch for side in sides]
    height, width = (round(side) if round(side) > resolution else short for side, short in zip(sides, shorter))
    return height, width


def resize_clips(clips: Tensor, side: int) -> Tensor:
    """(n, C, f, H, W) → (n, C, f, side, side), by `resize`."""
    frames = resize(rearrange(clips, "n c f h w -> (n f) c h w"), (side, side))  # (n·f, C, side, side)
    return rearrange(frames, "(n f) c h w -> n c f h w", n=len(clips))


def resize(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """(any, C, H, W) → (any, C, *size), bilinear, antialiased where it shrinks."""
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    return F.interpolate(pictures, size, mode="bilinear", antialias=True)
