"""A video of any length through a tokenizer with a memory, some blocks at a time, in constant memory.

    stream = TokenizerStream(tokenizer)
    for blocks, lengths in …:                         # (C, n·f, H, W) in [-1, 1], int64 (n,)
        codes = stream.encode(blocks, lengths)        # int64 (N,)
    for codes, lengths in …:
        video = stream.decode(codes, lengths, (H, W)) # (C, n·f, H, W)

What a block sees of the blocks before it are keys and values, which do not change any more. Those of the last W blocks
are kept, so the outcome is that of the whole video computed at once, however it is cut.

Legend: n blocks that come together, k blocks kept, at most W; P patches of a block, h heads, d head width.
"""

import torch
from torch import Tensor

from evagen.kernels.attention import KeyValue
from evagen.kernels.levels import check_range
from evagen.kernels.plans import AttentionPlan
from evagen.kernels.transfer import send
from evagen.tokenizer.autoencoder import TokenizedClips, VideoTokenizer
from evagen.tokenizer.layers import Past, Plans
from evagen.tokenizer.packing import PackedLayout, plan_block_causal, plan_within_blocks
from evagen.tokenizer.places import Blocks, patch_places

MOST_TIMES_TRAINED = 64
"""Pixels of a picture against those of the trained one; at 64 a picture of 128 pixels is one of 1,024."""


def check_picture(tokenizer: VideoTokenizer, size: tuple[int, int]) -> None:
    """Raises ValueError for pictures (H, W) that the patches do not divide, or with far more pixels than those that the
    tokenizer was trained on: nothing is cut into tiles here, and attention grows with the square."""
    tokenizer.patch_grid(size)
    side = tokenizer.config.resolution
    if size[0] * size[1] > MOST_TIMES_TRAINED * side**2:
        raise ValueError(
            f"pictures of {size[1]}x{size[0]} pixels are too large for a tokenizer that was trained on {side}x{side}: "
            f"with a memory it takes at most {MOST_TIMES_TRAINED} times as many pixels; give a lower short_side"
        )


class _Kept:
    """Keys and values of the last W blocks: layers, one pair a layer, (rows, h, d) each; lengths: int64 (k,), the rows
    of each block."""

    def __init__(self, memory: int):
        self.memory = memory
        self.lengths = torch.empty(0, dtype=torch.int64)
        self.layers: list[KeyValue] = []

    def plan(self, queries: Tensor, new: Tensor) -> AttentionPlan:
        """By which each of n new blocks sees the W before it and itself, kept or new: rows of each int64 (n,)."""
        keys = torch.cat([self.lengths, new])[None]
        return plan_block_causal(PackedLayout(queries[None]), PackedLayout(keys), self.memory, len(self.lengths))

    def add(self, lengths: Tensor, layers: list[KeyValue]) -> None:
        """New blocks behind the kept ones, of which the oldest go."""
        every = torch.cat([self.lengths, lengths])
        self.lengths = every[-self.memory :]
        rows = int(self.lengths.sum())
        before = self.layers or [(key[:0], value[:0]) for key, value in layers]
        self.layers = [
            (torch.cat([old[0], new[0]])[-rows:].clone(), torch.cat([old[1], new[1]])[-rows:].clone())
            for old, new in zip(before, layers)
        ]


class TokenizerStream:
    """One video through a tokenizer, to tokens and back; both ways are independent of each other, and each has
    pictures of one size.

    Raises ValueError for a tokenizer without a memory."""

    def __init__(self, tokenizer: VideoTokenizer):
        memory = tokenizer.config.memory_blocks
        if memory is None:
            raise ValueError(
                "a tokenizer without a memory sees clips of "
                f"{tokenizer.config.num_frames} frames, one by one; train one with model.memory_blocks to stream"
            )
        self.tokenizer = tokenizer
        self.num_encoded = self.num_decoded = 0
        self._patches, self._encoded, self._tokens, self._decoded = (_Kept(memory) for _ in range(4))
        self._sizes: dict[str, tuple[int, int]] = {}

    def _check_size(self, way: str, size: tuple[int, int]) -> None:
        """Of the pictures that go one way."""
        check_picture(self.tokenizer, size)
        if (first := self._sizes.setdefault(way, size)) != size:
            raise ValueError(f"a stream has pictures of one size; after (H, W) {first} comes {size}: begin another one")

    @torch.no_grad()
    def encode(self, blocks: Tensor, lengths: Tensor, known_range: bool = False) -> Tensor:
        """The next blocks (C, n·f, H, W) in [-1, 1] and their lengths int64 (n,) → codes int64 (N,). known_range as in
        `VideoTokenizer.encode`; raises ValueError as that does."""
        model, lengths = self.tokenizer, lengths.cpu()
        if not known_range:
            check_range(blocks)
        self._check_size("encoded", (blocks.shape[-2], blocks.shape[-1]))
        patches = model.embed_video(blocks[None])  # (1, n, Hp, Wp, De)
        if len(lengths) != patches.shape[1]:
            raise ValueError(f"{patches.shape[1]} blocks need as many lengths; got {len(lengths)}")
        numbers = torch.arange(self.num_encoded, self.num_encoded + len(lengths))
        new = Blocks(numbers, lengths, tuple(patches.shape[2:4]))
        of_patches = torch.full_like(lengths, patches.shape[2] * patches.shape[3])
        is_causal = model.config.encoder_self_attention == "causal"
        within = self._encoded.plan(lengths, lengths) if is_causal else plan_within_blocks(PackedLayout(lengths[None]))
        plans = Plans(within, self._patches.plan(lengths, of_patches))
        places = patch_places(numbers, new.grid)
        of_tokens, places, plans = send((model.tokens_of(new), places, plans), blocks.device)
        seen = model.encoder.context_key_values(model.patch_rows(patches, places))  # (n·P, h, d) each
        queries = model.make_queries(patches[0], of_tokens)
        past = Past(self._encoded.layers or None, self._patches.layers) if self._patches.layers else None
        encoded, keys = model.encoder.extend(queries, seen, plans, past)  # (N, De)
        self._patches.add(of_patches, seen)
        if is_causal:
            self._encoded.add(lengths, keys)
        self.num_encoded += len(lengths)
        return model.quantizer(model.to_code(encoded), with_losses=False).codes

    @torch.no_grad()
    def decode(self, codes: Tensor, lengths: Tensor, resolution: tuple[int, int] | None = None) -> Tensor:
        """The next codes int64 (N,) of blocks of some lengths int64 (n,) → frames (C, n·f, H, W) in [-1, 1]. Raises
        ValueError as `VideoTokenizer.decode` does."""
        model, lengths = self.tokenizer, lengths.cpu()
        resolution = resolution or (model.config.resolution, model.config.resolution)
        model.check_tokens(TokenizedClips(codes, lengths[None]))
        self._check_size("decoded", tuple(resolution))
        grid = model.patch_grid(resolution)
        new = Blocks(torch.arange(self.num_decoded, self.num_decoded + len(lengths)), lengths, grid)
        of_patches = torch.full_like(lengths, grid[0] * grid[1])
        plans = Plans(self._decoded.plan(of_patches, of_patches), self._tokens.plan(of_patches, lengths))
        codes, of_tokens, about, plans = send((codes, model.tokens_of(new), model.patches_of(new), plans), model.device)
        tokens = model.embed_codes(model.quantizer.lookup(codes), of_tokens)
        known = model.decoder.context_key_values(tokens)  # (N, h, d) each
        queries = model.decoder_queries(tokens.values, about)  # n·P rows
        past = Past(self._decoded.layers, self._tokens.layers) if self._tokens.layers else None
        decoded, keys = model.decoder.extend(queries, known, plans, past)  # (n·P, Dd)
        self._tokens.add(lengths, known)
        self._decoded.add(of_patches, keys)
        self.num_decoded += len(lengths)
        return model.pixels(decoded, grid, len(lengths))[0].float().clamp(-1, 1)
