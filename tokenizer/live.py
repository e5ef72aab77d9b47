"""Tokens for videos of any length while they go by, with a tokenizer that has a memory.

    model = LiveTokenizer(tokenizer, router)
    tokens = model.encode(video, preference=1.2)      # C F H W in [-1, 1], or its frames C H W one by one
    video = model.decode(tokens)                      # as many frames, of the same size

A block's length and tokens depend on the video up to it, so nothing is read ahead; memory and time a block do not grow.
Pictures that are not of the tokenizer's `resolution` are cut into overlapping tiles that are (`tokenizer.tiles`), and
each place of a tile is a video of its own, with its own memory and lengths.

Legend: C = 3 channels, F frames, H × W pixels of the video, h × w pixels that are encoded, f frames of a block, s side
of the router's picture, k tiles, T blocks, N tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evagen.kernels.transfer import send
from evagen.tokenizer import tiles
from evagen.tokenizer.adaptive import (
    TokenizedVideo,
    Video,
    check_dials,
    checked_short_side,
    decode_in_chunks,
    fit_size,
    grouped,
    resize,
)
from evagen.tokenizer.autoencoder import TokenizedClips, VideoTokenizer
from evagen.tokenizer.block_router import BlockRouter
from evagen.tokenizer.rate_control import RateControl
from evagen.tokenizer.reward import preference_within
from evagen.tokenizer.stream import TokenizerStream


@dataclass(frozen=True)
class Rate:
    """Tokens a second that a video keeps. tokens_per_second: never more, on average over any window_seconds, and little
    less; frames_per_second: of the video."""

    tokens_per_second: float
    frames_per_second: float
    window_seconds: float = 4.0

    def __post_init__(self) -> None:
        """Raises ValueError for what is no number above 0."""
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value}: a number above 0 is needed")


class LiveLengths:
    """Says the length of one block after another of one video.

    Args:
        router: put into eval mode.
        preference: w_q, where there is no control; as of `AdaptiveTokenizer.encode` if None.
        max_tokens: of each block.
        control: keeps a rate with levels of which none is longer than `max_tokens`.

    Raises ValueError for `max_tokens` below the shortest length, and for a preference that the router was not trained
    for."""

    def __init__(
        self,
        router: BlockRouter,
        preference: float | None = None,
        max_tokens: int | None = None,
        control: RateControl | None = None,
    ):
        self.router, self.control = router.eval(), control
        self.preference = preference_within(preference, router.preference_range)
        self._levels = torch.tensor(router.assignments.levels)  # (L,)
        self._too_long = router.too_long(max_tokens)  # (L,)
        self._before = torch.empty(1, 3, 0, router.config.resolution, router.config.resolution, device=router.device)
        self._given = torch.empty(1, 0, dtype=torch.int64, device=router.device)

    @torch.no_grad()
    def choose(self, block: Tensor) -> int:
        """Of the next block (C, f, s, s) in [-1, 1], of the router's resolution."""
        block, memory = block[None].to(self.router.device), self.router.config.memory_blocks
        features = self.router.features(block, self._before, self._given)
        control, ruled_out, bias = self.control, self._too_long, 0.0  # (L,)
        if control:
            ruled_out, bias = ~torch.isin(self._levels, torch.tensor(control.allowed())), control.bias
        preference = control.preference if control else self.preference
        logits = self.router(features, torch.full((1,), preference, device=block.device))[0].cpu()  # (L,)
        logits = logits + bias * self._levels.log2()
        length = int(self._levels[logits.masked_fill(ruled_out, -torch.inf).argmax()])
        if control:
            control.add(length)
        self._before = torch.cat([self._before, block], dim=2)[:, :, -memory * block.shape[2] :].clone()
        self._given = torch.cat([self._given, self._given.new_full((1, 1), length)], dim=1)[:, -memory:]
        return length


@dataclass(frozen=True)
class LiveBlock:
    """A block of a video as tokens. codes: int64 (N,) of each of its k tiles, row by row; num_frames: of the video,
    without what filled up a last block; size: (H, W) of the video."""

    codes: list[Tensor]
    num_frames: int
    size: tuple[int, int]


class LiveTokenizer:
    """A tokenizer with a memory and the router of its blocks. Sizes are treated as in `AdaptiveTokenizer`.

    Args:
        tokenizer, router: on one device; put into eval mode. Without a router lengths have to be given.
        short_side: height or width that is encoded, whichever is smaller; by default the tokenizer's `resolution`.

    Raises ValueError for a tokenizer without a memory, and for a router of other levels or blocks."""

    def __init__(self, tokenizer: VideoTokenizer, router: BlockRouter | None = None, short_side: int | None = None):
        TokenizerStream(tokenizer)  # refuses one without a memory
        if router is not None:
            check_block_router_fits(tokenizer, router)
        self.tokenizer, self.router = tokenizer.eval(), router
        self.short_side = checked_short_side(short_side, tokenizer)

    def encode(
        self,
        video: Video,
        *,
        preference: float | None = None,
        max_tokens: int | None = None,
        rate: Rate | None = None,
        lengths: Sequence[int] = (),
    ) -> TokenizedVideo:
        """One video → tokens, in one reading.

        Args:
            video: (C, F, H, W), or an iterable of frames (C, H, W), float in [-1, 1]. A last block that is not whole is
                filled up with the last frame.
            preference: the quality dial w_q, as of `AdaptiveTokenizer.encode`.
            max_tokens: bound for each block.
            rate: tokens a second that are kept in place of a preference.
            lengths: of the first blocks, given outright; the last of them is that of all further ones.

        Raises ValueError for dials that exclude each other or are out of range or cannot be met, no frames, and frames
        of other shapes."""
        blocks = list(self.blocks(video, preference=preference, max_tokens=max_tokens, rate=rate, lengths=lengths))
        if not blocks:
            raise ValueError("the video holds no frame; at least one is needed")
        size, asked = blocks[0].size, None
        if rate is None and self.router is not None and not len(lengths):
            asked = preference_within(preference, self.router.preference_range)
        of_tiles = list(zip(*(block.codes for block in blocks)))  # k of T of (N,)
        codes = torch.cat([codes for tile in of_tiles for codes in tile]).cpu()
        return TokenizedVideo(
            TokenizedClips(codes, torch.tensor([[len(codes) for codes in tile] for tile in of_tiles])),
            sum(block.num_frames for block in blocks), size, self.encoded_size(size),
            asked, max_tokens,
        )  # fmt: skip

    def blocks(
        self,
        video: Video,
        *,
        preference: float | None = None,
        max_tokens: int | None = None,
        rate: Rate | None = None,
        lengths: Sequence[int] = (),
    ) -> Iterator[LiveBlock]:
        """The blocks of `encode`, each as soon as its frames have been read; the same arguments and errors."""
        config, step = self.tokenizer.config, self.tokenizer.config.temporal_patch
        lengths = [int(length) for length in lengths]  # of a tensor too
        self._check(preference, max_tokens, rate, lengths)
        live: list[tuple[TokenizerStream, LiveLengths | None]] = []  # of each tile
        for group, size in grouped(video, step):
            num_frames = len(group)
            group = torch.stack(group + group[-1:] * (step - num_frames))  # (f, C, H, W)
            fitted = resize(send(group, self.tokenizer.device), self.encoded_size(size))
            cut = tiles.cut(fitted.transpose(0, 1)[None], config.resolution)  # (k, C, f, s, t)
            if not live:
                choosers = [None if lengths else self._chooser(preference, max_tokens, rate, len(cut)) for _ in cut]
                live = [(TokenizerStream(self.tokenizer), chooser) for chooser in choosers]
            codes = []
            for tile, (stream, chooser) in zip(cut, live):
                if chooser:
                    side = chooser.router.config.resolution
                    length = chooser.choose(resize(tile.transpose(0, 1), (side, side)).transpose(0, 1))
                else:
                    length = lengths[min(stream.num_encoded, len(lengths) - 1)]
                codes.append(stream.encode(tile, torch.tensor([length]), known_range=True))  # of frames as they came
            yield LiveBlock(codes, num_frames, size)

    def decode(self, tokens: TokenizedVideo) -> Tensor:
        """Tokens → the whole video (C, F, H, W) in [-1, 1]."""
        return torch.cat(list(decode_in_chunks(self.tokenizer, tokens)), dim=1)

    def encoded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of a video → (h, w) that the tokenizer sees of it."""
        config = self.tokenizer.config
        return fit_size(size, self.short_side, config.spatial_patch, config.resolution)

    def _check(
        self, preference: float | None, max_tokens: int | None, rate: Rate | None, lengths: Sequence[int]
    ) -> None:
        """Raises ValueError for dials that exclude each other, and without anything that says the lengths."""
        check_dials(preference, None, max_tokens)
        given = {"preference": preference, "rate": rate, "lengths": tuple(lengths) or None}
        named = [name for name, value in given.items() if value is not None]
        if rate is not None and not isinstance(rate, Rate):
            raise ValueError(f"rate={rate!r}: give Rate(tokens_per_second, frames_per_second)")
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} exclude each other: give one of them")
        if lengths:
            if max_tokens is not None:
                raise ValueError(f"lengths={list(lengths)} leave nothing to bound: leave out max_tokens={max_tokens}")
            self.tokenizer.assignments.check_levels(torch.tensor(lengths))
        elif self.router is None:
            raise ValueError("without a router lengths have to be given")
        else:
            preference_within(preference, self.router.preference_range)

    def _chooser(
        self, preference: float | None, max_tokens: int | None, rate: Rate | None, num_tiles: int
    ) -> LiveLengths:
        """For one of so many tiles, which keep an equal share of the rate each."""
        assert self.router is not None
        control = None
        if rate:
            too_long = self.router.too_long(max_tokens).tolist()
            levels = [level for level, is_out in zip(self.router.assignments.levels, too_long) if not is_out]
            blocks_per_second = rate.frames_per_second / self.tokenizer.config.temporal_patch
            of_tile = rate.tokens_per_second / num_tiles
            try:
                control = RateControl(
                    levels, of_tile, rate.window_seconds, blocks_per_second, self.router.preference_range
                )
            except ValueError as error:
                raise ValueError(f"{f'for each of {num_tiles} tiles ' * (num_tiles > 1)}{error}") from error
        return LiveLengths(self.router, preference, max_tokens, control)


def check_block_router_fits(tokenizer: VideoTokenizer, router: BlockRouter) -> None:
    """Raises ValueError unless both know the same levels, frames in a block and blocks in memory."""
    if not isinstance(router, BlockRouter):
        raise ValueError(f"a tokenizer with a memory goes with a BlockRouter, got a {type(router).__name__}")
    ours, theirs = (
        {"levels": list(config.levels), "temporal_patch": config.temporal_patch, "memory_blocks": config.memory_blocks}
        for config in (tokenizer.config, router.config)
    )
    differing = [
        f"{name} {ours[name]} of the tokenizer and {theirs[name]} of the router"
        for name in ours
        if ours[name] != theirs[name]
    ]
    if differing:
        raise ValueError(f"{', '.join(differing)} differ; give the router that was trained for this tokenizer")
