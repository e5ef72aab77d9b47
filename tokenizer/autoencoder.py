"""The adaptive-length video tokenizer (EVATok, arXiv 2603.12267, §3): video ↔ packed 1D tokens.

Legend: B clips, C = 3 channels, F frames, H × W pixels, T temporal blocks, P = Hp·Wp patches in a
block, S = any number of block segments, N packed 1D tokens, De/Dd encoder/decoder width, c code width.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from evagen.kernels.plans import concatenated_ranges
from evagen.tokenizer.assignments import AssignmentSpace
from evagen.tokenizer.layers import Attention, Plans, QFormer, Rows
from evagen.tokenizer.packing import PackedLayout, plan_block_causal, plan_within_blocks
from evagen.tokenizer.positions import FourierPosition, cell_centres, grid_shape, nearest_cell
from evagen.tokenizer.quantizer_kinds import Quantizer, QuantizerKind, make_quantizer

NEARBY = 1.2
"""Constant that the biases of the sharpest head begin with."""

BEFORE_IT_WAS_SET = {"finest_blocks": 1.0, "decoder_start": "first"}
"""Values of settings that a config.json does not name, where they are not those of new models."""


@dataclass(frozen=True)
class TokenizedClips:
    """Clips as discrete tokens, end to end. codes: int64 (N,); lengths: int64 (B, T) on the CPU."""

    codes: Tensor
    lengths: Tensor

    def split(self) -> list["TokenizedClips"]:
        """Each clip by itself."""
        parts = self.codes.split(self.lengths.sum(1).tolist())
        return [TokenizedClips(codes, row[None]) for codes, row in zip(parts, self.lengths)]

    @staticmethod
    def join(clips: Sequence["TokenizedClips"]) -> "TokenizedClips":
        return TokenizedClips(torch.cat([c.codes for c in clips]), torch.cat([c.lengths for c in clips]))


@dataclass(frozen=True)
class TokenizerOutput:
    """reconstruction: float32 (B, C, F, H, W), unclamped; tokens; encoded: (N, c), what was quantised
    (`Quantized.inputs`); quantizer_losses: scalars by name, those that the quantiser has; decoder_features: what each
    decoder layer put out, (B, T, Hp, Wp, Dd)."""

    reconstruction: Tensor
    tokens: TokenizedClips
    encoded: Tensor
    quantizer_losses: dict[str, Tensor]
    decoder_features: list[Tensor]


class VideoTokenizer(ModelMixin, ConfigMixin):
    """Q-Former-style 1D tokenizer with as many tokens per temporal block as an assignment says.

    Args:
        levels: candidate lengths of a block, in tokens.
        num_frames: frames of the clips it is trained on; others work if divisible by `temporal_patch`.
        resolution: height and width of these clips in pixels, likewise.
        temporal_patch: frames in a block.
        spatial_patch: height and width of a patch in pixels.
        encoder_width, encoder_depth, encoder_heads: the encoder's De, layers and heads.
        decoder_width, decoder_depth, decoder_heads: the decoder's Dd, layers and heads.
        codebook_size, code_width: K and c of the quantiser.
        encoder_self_attention: which other 1D queries those of a block see in the encoder: `causal`, of this and the
            earlier blocks, as published (EVATok supplement K); or `block`, of this block alone, so that its tokens do
            not depend on how many the earlier blocks were given, and curation encodes 39 times fewer blocks.
        quantizer: its kind (`quantizer_kinds`).
        stochastic_temperature: of the draws of `svq`, for nothing else.
        decoder_start: which of its block's 1D tokens a 3D query of the decoder starts from: the `nearest` one in the
            picture; or the `first` one, the same for all queries of a block, as published (EVATok §3.1).
        memory_blocks: W, how many earlier blocks a block sees. If None all of its clip, for clips of `num_frames`. With
            a memory clips and videos may have any number of blocks: the decoder is told no block numbers, so block
            1,000 is computed as block 10, and `stream` goes through a video in constant memory.
        finest_blocks: shortest wavelength of the rotary embedding in time, in blocks (`positions.Rotary`). Checkpoints
            that do not name it have 1, with which one pair of each head does nothing.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ("QFormerLayer",)  # what diffusers' compile_repeated_blocks compiles

    @register_to_config
    def __init__(
        self,
        levels: list[int],
        num_frames: int = 16,
        resolution: int = 128,
        temporal_patch: int = 4,
        spatial_patch: int = 8,
        encoder_width: int = 384,
        encoder_depth: int = 12,
        encoder_heads: int = 6,
        decoder_width: int = 768,
        decoder_depth: int = 12,
        decoder_heads: int = 12,
        codebook_size: int = 8192,
        code_width: int = 16,
        encoder_self_attention: Literal["block", "causal"] = "block",
        quantizer: QuantizerKind = "vq",
        stochastic_temperature: float = 0.03,
        decoder_start: Literal["nearest", "first"] = "nearest",
        memory_blocks: int | None = None,
        finest_blocks: float = 2.0,
    ):
        super().__init__()
        if memory_blocks is not None and memory_blocks < 1:
            raise ValueError(f"memory_blocks must be at least 1, or None for all blocks of a clip; got {memory_blocks}")
        self.assignments = AssignmentSpace(levels, self._num_blocks(num_frames))
        self.patch_grid((resolution, resolution))  # refuses sizes that do not fit
        patch_values = 3 * temporal_patch * spatial_patch**2
        self.embed_patches = nn.Linear(patch_values, encoder_width)
        self.encoder = QFormer(encoder_width, encoder_width, encoder_depth, encoder_heads, finest_blocks)
        self.to_code = nn.Linear(encoder_width, code_width)
        self.quantizer = make_quantizer(quantizer, codebook_size, code_width, stochastic_temperature)
        self.from_code = nn.Linear(code_width, decoder_width)
        self.decoder_position = FourierPosition(decoder_width)
        self.decoder_level = nn.Embedding(len(levels), decoder_width)
        self.start_query = nn.Linear(decoder_width, decoder_width)
        self.decoder = QFormer(decoder_width, decoder_width, decoder_depth, decoder_heads, finest_blocks)
        self.to_pixels = nn.Linear(decoder_width, patch_values)
        initialise(self)

    @property
    def quantizer(self) -> Quantizer:
        """The module. Without this diffusers would give the setting of the same name."""
        return self._modules["quantizer"]

    def meaning_of_weights(self) -> dict[str, Any]:
        """What the weights were trained for and their shapes do not show: with other values they would be useless.
        `vq` and `svq` differ in training only."""
        names = ("codebook_size", "finest_blocks", "encoder_heads", "decoder_heads", "encoder_self_attention")
        settings = {name: self.config[name] for name in (*names, "decoder_start", "memory_blocks")}
        return {"quantizer": type(self.quantizer).__name__, **settings}

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> tuple[dict, dict, dict]:
        """diffusers' reading of a config.json, with what those written before a setting existed were made with."""
        return super().extract_init_dict(BEFORE_IT_WAS_SET | dict(config_dict), **kwargs)

    # Whole clips

    def forward(self, video: Tensor, lengths: Tensor) -> TokenizerOutput:
        """Training pass: video (B, C, F, H, W) in [-1, 1], lengths (B, T) → reconstruction and quantiser losses."""
        vectors = self._encode(video, lengths)  # (N, c)
        quantized = self.quantizer(vectors, with_losses=True)
        reconstruction, features = self._decode(quantized.vectors, lengths, tuple(video.shape[-2:]))
        tokens = TokenizedClips(quantized.codes, lengths.cpu())
        return TokenizerOutput(reconstruction.float(), tokens, quantized.inputs, quantized.losses, features)

    @torch.no_grad()
    def encode(self, video: Tensor, lengths: Tensor) -> TokenizedClips:
        """video (B, C, F, H, W) in [-1, 1], lengths int64 (B, T) → tokens. A clip's tokens do not depend on
        the others in the batch. Raises ValueError for sizes that the patches do not divide and for
        lengths that are no levels."""
        codes = self.quantizer(self._encode(video, lengths), with_losses=False).codes  # (N,)
        return TokenizedClips(codes, lengths.cpu())

    @torch.no_grad()
    def decode(self, tokens: TokenizedClips, resolution: tuple[int, int] | None = None) -> Tensor:
        """Tokens → video float32 (B, C, F, H, W) in [-1, 1]; resolution is (H, W), by default the trained one.
        Raises ValueError for codes outside the codebook or a number of codes that the lengths do not add up to."""
        self.check_tokens(tokens)
        resolution = resolution or (self.config.resolution, self.config.resolution)
        video, _ = self._decode(self.quantizer.lookup(tokens.codes), tokens.lengths, resolution)
        return video.float().clamp(-1, 1)

    def _encode(self, video: Tensor, lengths: Tensor) -> Tensor:
        lengths = lengths.cpu().contiguous()
        patches = self.embed_video(video)  # (B, T, Hp, Wp, De)
        num_clips, num_blocks = patches.shape[:2]
        if lengths.shape != (num_clips, num_blocks):
            raise ValueError(
                f"{num_clips} clips of {num_blocks} temporal blocks need lengths of shape "
                f"({num_clips}, {num_blocks}), got {tuple(lengths.shape)}"
            )
        blocks = torch.arange(num_blocks).repeat(num_clips)  # (B*T,)
        queries = self.make_queries(patches.flatten(0, 1), blocks, lengths.flatten())  # N rows of width De
        rows_1d = PackedLayout(lengths)
        rows_3d = PackedLayout(torch.full_like(lengths, patches.shape[2] * patches.shape[3]))
        is_causal = self.config.encoder_self_attention == "causal"
        memory = self.config.memory_blocks
        within = plan_block_causal(rows_1d, rows_1d, memory) if is_causal else plan_within_blocks(rows_1d)
        plans = Plans(within, plan_block_causal(rows_1d, rows_3d, memory)).to(video.device)
        encoded, _ = self.encoder(queries, self.patch_rows(patches), plans)  # (N, De)
        return self.to_code(encoded)  # (N, c)

    def _decode(self, vectors: Tensor, lengths: Tensor, resolution: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
        lengths = lengths.cpu().contiguous()
        num_clips, num_blocks = lengths.shape
        grid = self.patch_grid(resolution)
        blocks = torch.arange(num_blocks).repeat(num_clips)  # (B*T,)
        tokens = self.embed_codes(vectors, blocks, lengths.flatten(), grid)  # N rows of width Dd
        rows_1d = PackedLayout(lengths)
        rows_3d = PackedLayout(torch.full_like(lengths, grid[0] * grid[1]))
        queries = self.decoder_queries(tokens.values, blocks, lengths.flatten(), grid)  # B*T*P rows of width Dd
        memory = self.config.memory_blocks
        plans = Plans(
            plan_block_causal(rows_3d, rows_3d, memory), plan_block_causal(rows_3d, rows_1d, memory)
        ).to(vectors.device)  # fmt: skip
        decoded, layers = self.decoder(queries, tokens, plans)  # (B*T*P, Dd)
        video = rearrange(self.pixels(decoded, grid), "(b t) c f h w -> b c (t f) h w", b=num_clips)
        return video, [rows.view(num_clips, num_blocks, *grid, -1) for rows in layers]

    # Parts that work on any set of block segments, for whole clips and for block-by-block search alike

    def patch_grid(self, resolution: tuple[int, int]) -> tuple[int, int]:
        """(H, W) in pixels → (Hp, Wp). Raises ValueError for sizes that the patch does not divide."""
        patch = self.config.spatial_patch
        if any(side % patch or side < patch for side in resolution):
            near = tuple(max(patch, round(side / patch) * patch) for side in resolution)
            raise ValueError(
                f"height and width must be multiples of the spatial patch {patch}; got {tuple(resolution)}, "
                f"the nearest size that fits is {near}"
            )
        return resolution[0] // patch, resolution[1] // patch

    def _num_blocks(self, frames: int) -> int:
        """Raises ValueError for a number of frames that the temporal patch does not divide."""
        step = self.config.temporal_patch
        if frames % step or frames < step:
            below = frames // step * step
            raise ValueError(
                f"the number of frames must be a multiple of the temporal patch {step}; got {frames}, the nearest that "
                f"fit are {f'{below} and ' if below else ''}{below + step}"
            )
        return frames // step

    def embed_video(self, video: Tensor) -> Tensor:
        """(B, C, F, H, W) in [-1, 1] → patch embeddings (B, T, Hp, Wp, De). They hold no position: the codes
        should tell what is there, and attention knows the places."""
        self.patch_grid((video.shape[-2], video.shape[-1]))  # refuses sizes that do not fit
        self._num_blocks(video.shape[2])
        step, patch = self.config.temporal_patch, self.config.spatial_patch
        pixels = rearrange(video, "b c (t f) (y p) (x q) -> b t y x (f p q c)", f=step, p=patch, q=patch)
        return self.embed_patches(pixels)  # (B, T, Hp, Wp, De)

    def patch_rows(self, patches: Tensor, first: int = 0) -> Rows:
        """Patch embeddings (B, T, Hp, Wp, De) of blocks from number `first` on as the encoder's context: B*T*P rows of
        width De."""
        blocks = torch.arange(first, first + patches.shape[1]).repeat(len(patches))  # (B*T,)
        place = _block_coordinates(blocks, cell_centres(patches.shape[2], patches.shape[3]))  # (B*T*P, 3)
        return Rows(patches.flatten(0, 3), place.to(patches.device))

    def make_queries(self, patches: Tensor, blocks: Tensor, lengths: Tensor) -> Rows:
        """1D queries made to the assigned number: each block's patches pooled to a grid of that many cells.

        patches (S, Hp, Wp, De), blocks int64 (S,) block numbers, lengths int64 (S,) → as many rows of width De
        as the lengths add up to."""
        grid = (patches.shape[1], patches.shape[2])
        starts = lengths.cumsum(0) - lengths  # (S,)
        order, pooled = [], []
        for level in self.assignments.levels:
            segments = (lengths == level).nonzero().flatten()
            if len(segments):
                chosen = patches[segments.to(patches.device)].movedim(-1, 1)  # (s, De, Hp, Wp)
                cells = F.adaptive_avg_pool2d(chosen, grid_shape(level, *grid))  # (s, De, rows, columns)
                pooled.append(cells.flatten(2).transpose(1, 2).flatten(0, 1))  # (s*level, De)
                order.append(concatenated_ranges(starts[segments], lengths[segments]))
        rows = torch.cat(order).argsort().to(patches.device)
        place, _ = self._token_places(blocks, lengths, grid)
        return Rows(torch.cat(pooled)[rows], place.to(patches.device))

    def embed_codes(self, vectors: Tensor, blocks: Tensor, lengths: Tensor, grid: tuple[int, int]) -> Rows:
        """Quantised vectors (n, c) of S segments, in order → n decoder tokens of width Dd."""
        place, level_number = self._token_places(blocks, lengths, grid)
        embedded = self.from_code(vectors.to(self.from_code.weight.dtype))  # (n, Dd)
        place, level_number = place.to(embedded.device), level_number.to(embedded.device)
        position = self._decoder_place(place)  # (n, Dd)
        return Rows(embedded + position + self.decoder_level(level_number), place)

    def decoder_queries(self, tokens: Tensor, blocks: Tensor, lengths: Tensor, grid: tuple[int, int]) -> Rows:
        """3D queries of S segments, each begun from a 1D token of its own segment: tokens (n, Dd), blocks and lengths
        int64 (S,) → S*P rows of width Dd."""
        starts = (lengths.cumsum(0) - lengths)[:, None]  # (S, 1)
        if self.config.decoder_start == "nearest":
            rows = starts + torch.stack([nearest_cell(length, grid) for length in lengths.tolist()])  # (S, P)
        else:
            rows = starts.expand(-1, grid[0] * grid[1])  # (S, P)
        place = _block_coordinates(blocks, cell_centres(*grid)).to(tokens.device)  # (S*P, 3)
        start = self.start_query(tokens)[rows.flatten().to(tokens.device)]  # (S*P, Dd)
        return Rows(start + self._decoder_place(place), place)

    def _decoder_place(self, place: Tensor) -> Tensor:
        """(N, 3) as (block, y, x) → what the decoder adds, (N, Dd). With a memory every block is told the same."""
        told = place if self.config.memory_blocks is None else place * place.new_tensor([0.0, 1.0, 1.0])
        return self.decoder_position(told)

    def pixels(self, decoded: Tensor, grid: tuple[int, int]) -> Tensor:
        """Decoded 3D rows (S*P, Dd) → blocks of frames (S, C, temporal_patch, H, W), unclamped."""
        step, patch = self.config.temporal_patch, self.config.spatial_patch
        return rearrange(
            self.to_pixels(decoded),
            "(s y x) (f p q c) -> s c f (y p) (x q)",
            y=grid[0], x=grid[1], f=step, p=patch, q=patch,
        )  # fmt: skip

    def _token_places(self, blocks: Tensor, lengths: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Coordinates (n, 3) and level numbers (n,) of the 1D tokens of S segments."""
        self.assignments.check_levels(lengths)
        centres = torch.cat([_token_centres(length, grid) for length in lengths.tolist()])  # (n, 2)
        block_of_token = blocks.repeat_interleave(lengths)  # (n,)
        levels = torch.tensor(self.assignments.levels)
        return (
            torch.cat([block_of_token[:, None].to(centres), centres], dim=1),
            torch.searchsorted(levels, lengths).repeat_interleave(lengths),
        )

    def check_tokens(self, tokens: TokenizedClips) -> None:
        """Raises ValueError for codes outside the codebook or a number of codes that the lengths do not add up to."""
        expected = int(tokens.lengths.sum())
        if len(tokens.codes) != expected:
            raise ValueError(f"the lengths add up to {expected} tokens, but {len(tokens.codes)} codes were given")
        if expected and not (0 <= int(tokens.codes.min()) <= int(tokens.codes.max()) < self.quantizer.codebook_size):
            raise ValueError(
                f"codes run from 0 to {self.quantizer.codebook_size - 1}, got "
                f"{int(tokens.codes.min())} to {int(tokens.codes.max())}: tokens of another tokenizer?"
            )


@functools.lru_cache(maxsize=256)
def _token_centres(length: int, grid: tuple[int, int]) -> Tensor:
    return cell_centres(*grid_shape(length, *grid))


def _block_coordinates(blocks: Tensor, centres: Tensor) -> Tensor:
    """(block, y, x) of every cell of every block: blocks (S,), centres (P, 2) → (S*P, 3)."""
    block = blocks.to(centres).repeat_interleave(len(centres))  # (S*P,)
    return torch.cat([block[:, None], centres.repeat(len(blocks), 1)], dim=1)


def attend_nearby(attention: Attention) -> None:
    """Sets the biases of queries and keys to a constant of each head. Turned to their places, two constant
    vectors have a product that is largest where the places agree, so attention begins near its query and need
    not learn first what is where: the sharpest head looks at the next cells only, the bluntest everywhere."""
    width = attention.to_query.out_features
    strength = torch.linspace(0.0, NEARBY, attention.num_heads).repeat_interleave(width // attention.num_heads)
    attention.to_query.bias.copy_(strength)
    attention.to_key_value.bias[:width].copy_(strength)


def _normal_cut_at_two(weight: Tensor, std: float) -> None:
    """Fills with N(0, std²) cut at two deviations; torch takes bounds as values, -2 and 2 by default."""
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


@torch.no_grad()
def initialise(model: VideoTokenizer) -> None:
    """All initial weights, in one place: linear maps N(0, 1/fan_in) and embeddings N(0, 0.02²), both cut at two
    deviations; residual branches scaled down by the depth, so that every layer starts near the identity; learnt codes
    evenly on the sphere."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            _normal_cut_at_two(module.weight, module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            _normal_cut_at_two(module.weight, 0.02)
    for stack in (model.encoder, model.decoder):
        for layer in stack.layers:
            for attention in (layer.self_attention, layer.cross_attention):
                attend_nearby(attention)
        scale = (3 * len(stack.layers)) ** -0.5
        for layer in stack.layers:
            for branch in (layer.self_attention.to_out, layer.cross_attention.to_out, layer.mlp[-1]):
                branch.weight.mul_(scale)
    if model.quantizer.codebook is not None:
        nn.init.normal_(model.quantizer.codebook)
    model.to_pixels.weight.mul_(0.1)
