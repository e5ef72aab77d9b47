"""The adaptive-length video tokenizer (EVATok, arXiv 2603.12267, §3): video ↔ packed 1D tokens.

Legend: B clips, C = 3 channels, F frames, H × W pixels, T temporal blocks, P = Hp·Wp patches in a
block, S = any number of block segments, N packed 1D tokens, De/Dd encoder/decoder width, c code width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn
from torch.utils._pytree import register_dataclass

from evagen.kernels.levels import check_layout, check_range
from evagen.kernels.registered import register_to_config
from evagen.kernels.sources import FromAnywhere
from evagen.kernels.transfer import send
from evagen.tokenizer.assignments import AssignmentSpace
from evagen.tokenizer.layers import Attention, Plans, QFormer, Rows
from evagen.tokenizer.packing import PackedLayout, plan_block_causal, plan_within_blocks
from evagen.tokenizer.places import BlockPatches, Blocks, BlockTokens
from evagen.tokenizer.positions import FourierPosition, grid_shape
from evagen.tokenizer.quantizer_kinds import Quantizer, QuantizerKind, make_quantizer

NEARBY = 1.2
"""Constant that the biases of the sharpest head begin with."""

BEFORE_IT_WAS_SET = {"finest_blocks": 1.0, "decoder_start": "first"}
"""Values of settings that a config.json does not name, where they are not those of new models."""


@dataclass(frozen=True)
class TokenizedClips:
    """Clips as discrete tokens, end to end. codes: int64 (N,); lengths: int64 (B, T) on the CPU.

    The generator's `ClipTokens` are one clip: `ClipTokens(clip.codes, clip.lengths[0])` of each of `split()`, and
    `TokenizedClips(clip.codes, clip.lengths[None])` back."""

    codes: Tensor
    lengths: Tensor

    def split(self) -> list["TokenizedClips"]:
        """Each clip by itself."""
        parts = self.codes.split(self.lengths.sum(1).tolist())
        return [TokenizedClips(codes, row[None]) for codes, row in zip(parts, self.lengths)]

    @staticmethod
    def join(clips: Sequence["TokenizedClips"]) -> "TokenizedClips":
        """Clips of as many blocks, one behind another."""
        return TokenizedClips(torch.cat([c.codes for c in clips]), torch.cat([c.lengths for c in clips]))


@dataclass(frozen=True)
class _WholeClips:
    """What follows from the lengths of B clips: their tokens and patches, who sees whom in both halves, and the shape
    (B, T, Hp, Wp)."""

    tokens: BlockTokens
    patches: BlockPatches
    encoder: Plans
    decoder: Plans
    shape: tuple[int, int, int, int]


@dataclass(frozen=True)
class TokenizerOutput:
    """What a training pass gives. reconstruction: float32 (B, C, F, H, W), unclamped; tokens: of the clips; encoded:
    (N, c), what was quantised (`Quantized.inputs`); quantizer_losses: scalars by name, those that the quantiser has;
    decoder_features: what each decoder layer put out, (B, T, Hp, Wp, Dd)."""

    reconstruction: Tensor
    tokens: TokenizedClips
    encoded: Tensor
    quantizer_losses: dict[str, Tensor]
    decoder_features: list[Tensor]


for output in (TokenizedClips, TokenizerOutput):  # or FSDP of older torch sees no tensor in it, and no gradient comes
    register_dataclass(output)


class VideoTokenizer(FromAnywhere, ModelMixin, ConfigMixin):
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

    Attributes: `assignments`, the `AssignmentSpace` of its clips; `quantizer`; `config`, the settings above.
    """

    part = "tokenizer"
    _supports_gradient_checkpointing = True
    _repeated_blocks = ("QFormerLayer",)  # what diffusers' compile_repeated_blocks compiles
    _no_split_modules = ("QFormerLayer",)  # what FSDP shards together

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
        """The module, one of those that `make_quantizer` makes; `config.quantizer` is its kind."""
        return self._modules["quantizer"]

    def meaning_of_weights(self) -> dict[str, Any]:
        """What the weights were trained for and their shapes do not show: with other values they would be useless.
        `vq` and `svq` differ in training only."""
        names = (
            "temporal_patch", "spatial_patch", "codebook_size", "finest_blocks", "encoder_heads", "decoder_heads",
            "encoder_self_attention", "decoder_start", "memory_blocks",
        )  # fmt: skip
        settings = {name: self.config[name] for name in names}
        return {"quantizer": type(self.quantizer).__name__, **settings}

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> tuple[dict, dict, dict]:
        """diffusers' reading of a config.json, with what those written before a setting existed were made with."""
        return super().extract_init_dict(BEFORE_IT_WAS_SET | dict(config_dict), **kwargs)

    # Whole clips

    def forward(self, video: Tensor, lengths: Tensor) -> TokenizerOutput:
        """Training pass: video (B, C, F, H, W) in [-1, 1], lengths int64 (B, T) → reconstruction and quantiser losses.
        It alone has gradients: to the weights, and through the codes (straight-through) to the video. The range is not
        looked at. Raises ValueError as `encode` does for sizes and lengths."""
        lengths = self._lengths_of(video, lengths)
        whole = send(self._plan(lengths, self.patch_grid(tuple(video.shape[-2:]))), video.device)
        quantized = self.quantizer(self._encode(video, whole), with_losses=True)
        reconstruction, features = self._decode(quantized.vectors, whole)
        tokens = TokenizedClips(quantized.codes, lengths)
        return TokenizerOutput(reconstruction.float(), tokens, quantized.inputs, quantized.losses, features)

    @torch.no_grad()
    def encode(self, video: Tensor, lengths: Tensor, known_range: bool = False) -> TokenizedClips:
        """video (B, C, F, H, W) in [-1, 1], lengths int64 (B, T) → tokens. A clip's tokens do not depend on
        the others in the batch. Raises ValueError for sizes that the patches do not divide, for values far out of
        [-1, 1] and for lengths that are no levels. known_range: whether the values have been looked at before, which
        waits for a GPU."""
        if not known_range:
            check_range(video)
        lengths = self._lengths_of(video, lengths)
        whole = send(self._plan(lengths, self.patch_grid(tuple(video.shape[-2:]))), video.device)
        codes = self.quantizer(self._encode(video, whole), with_losses=False).codes  # (N,)
        return TokenizedClips(codes, lengths)

    @torch.no_grad()
    def decode(self, tokens: TokenizedClips, resolution: tuple[int, int] | None = None) -> Tensor:
        """Tokens → video float32 (B, C, F, H, W) in [-1, 1]; resolution is (H, W), by default the trained one.
        Raises ValueError for codes outside the codebook or a number of codes that the lengths do not add up to."""
        self.check_tokens(tokens)
        resolution = resolution or (self.config.resolution, self.config.resolution)
        whole = self._plan(tokens.lengths.cpu().contiguous(), self.patch_grid(resolution))
        codes, whole = send((tokens.codes, whole), self.device)
        video, _ = self._decode(self.quantizer.lookup(codes), whole)
        return video.float().clamp(-1, 1)

    def _lengths_of(self, video: Tensor, lengths: Tensor) -> Tensor:
        """Lengths on the CPU. Raises ValueError where they are not of this video."""
        check_layout(video)
        num_clips, num_blocks = len(video), self._num_blocks(video.shape[2])
        if lengths.shape != (num_clips, num_blocks):
            raise ValueError(
                f"{num_clips} clips of {num_blocks} temporal blocks need lengths of shape "
                f"({num_clips}, {num_blocks}), got {tuple(lengths.shape)}"
            )
        return lengths.cpu().contiguous()

    def _plan(self, lengths: Tensor, grid: tuple[int, int]) -> _WholeClips:
        """What follows from the lengths (B, T) of clips, on the CPU."""
        blocks = Blocks(torch.arange(lengths.shape[1]).repeat(len(lengths)), lengths.flatten(), grid)  # B*T segments
        rows_1d = PackedLayout(lengths)
        rows_3d = PackedLayout(torch.full_like(lengths, grid[0] * grid[1]))
        is_causal, memory = self.config.encoder_self_attention == "causal", self.config.memory_blocks
        within = plan_block_causal(rows_1d, rows_1d, memory) if is_causal else plan_within_blocks(rows_1d)
        return _WholeClips(
            self.tokens_of(blocks),
            self.patches_of(blocks),
            Plans(within, plan_block_causal(rows_1d, rows_3d, memory)),
            Plans(plan_block_causal(rows_3d, rows_3d, memory), plan_block_causal(rows_3d, rows_1d, memory)),
            (*lengths.shape, *grid),
        )

    def _encode(self, video: Tensor, whole: _WholeClips) -> Tensor:
        patches = self.embed_video(video)  # (B, T, Hp, Wp, De)
        queries = self.make_queries(patches.flatten(0, 1), whole.tokens)  # N rows of width De
        encoded, _ = self.encoder(queries, self.patch_rows(patches, whole.patches.places), whole.encoder)  # (N, De)
        return self.to_code(encoded)  # (N, c)

    def _decode(self, vectors: Tensor, whole: _WholeClips) -> tuple[Tensor, list[Tensor]]:
        tokens = self.embed_codes(vectors, whole.tokens)  # N rows of width Dd
        queries = self.decoder_queries(tokens.values, whole.patches)  # B*T*P rows of width Dd
        decoded, layers = self.decoder(queries, tokens, whole.decoder)  # (B*T*P, Dd)
        _, num_blocks, *grid = whole.shape
        return self.pixels(decoded, tuple(grid), num_blocks), [rows.view(*whole.shape, -1) for rows in layers]

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
        check_layout(video)
        self.patch_grid((video.shape[-2], video.shape[-1]))  # refuses sizes that do not fit
        self._num_blocks(video.shape[2])
        step, patch = self.config.temporal_patch, self.config.spatial_patch
        # Colours last in a second step: a CPU copies in half the time what it finds in runs.
        by_colour = rearrange(video, "b c (t f) (y p) (x q) -> b t y x c (f p q)", f=step, p=patch, q=patch)
        pixels = rearrange(by_colour, "b t y x c n -> b t y x (n c)")
        return self.embed_patches(pixels.to(self.embed_patches.weight.dtype))  # (B, T, Hp, Wp, De)

    def tokens_of(self, blocks: Blocks) -> BlockTokens:
        """What the functions below need of the 1D tokens of S blocks. Raises ValueError for lengths that are no
        levels."""
        self.assignments.check_levels(blocks.lengths)
        return BlockTokens.of(blocks, self.assignments.levels)

    def patches_of(self, blocks: Blocks) -> BlockPatches:
        """What the functions below need of the patches of S blocks."""
        return BlockPatches.of(blocks, self.config.decoder_start)

    def patch_rows(self, patches: Tensor, places: Tensor) -> Rows:
        """Patch embeddings (…, De) of S blocks and their places (S*P, 3) as the encoder's context: S*P rows of width
        De."""
        return Rows(patches.flatten(0, -2), places)

    def make_queries(self, patches: Tensor, about: BlockTokens) -> Rows:
        """1D queries made to the assigned number: each block's patches pooled to a grid of that many cells.

        patches (S, Hp, Wp, De) → as many rows of width De as the lengths add up to."""
        pooled = []
        for level, segments in about.by_level:
            chosen = patches[segments].movedim(-1, 1)  # (s, De, Hp, Wp)
            cells = F.adaptive_avg_pool2d(chosen, grid_shape(level, *patches.shape[1:3]))  # (s, De, rows, columns)
            pooled.append(cells.flatten(2).transpose(1, 2).flatten(0, 1))  # (s*level, De)
        return Rows(torch.cat(pooled)[about.order], about.places)

    def embed_codes(self, vectors: Tensor, about: BlockTokens) -> Rows:
        """Quantised vectors (n, c) of S segments, in order → n decoder tokens of width Dd."""
        embedded = self.from_code(vectors.to(self.from_code.weight.dtype))  # (n, Dd)
        position = self._decoder_place(about.places)  # (n, Dd)
        return Rows(embedded + position + self.decoder_level(about.levels), about.places)

    def decoder_queries(self, tokens: Tensor, about: BlockPatches) -> Rows:
        """3D queries of S segments, each begun from a 1D token of its own segment: tokens (n, Dd) → S*P rows of width
        Dd."""
        start = self.start_query(tokens)[about.starts]  # (S*P, Dd)
        return Rows(start + self._decoder_place(about.places), about.places)

    def _decoder_place(self, place: Tensor) -> Tensor:
        """(N, 3) as (block, y, x) → what the decoder adds, (N, Dd). With a memory every block is told the same."""
        told = place if self.config.memory_blocks is None else F.pad(place[:, 1:], (1, 0))
        return self.decoder_position(told)

    def pixels(self, decoded: Tensor, grid: tuple[int, int], num_blocks: int = 1) -> Tensor:
        """Decoded 3D rows (B*T*P, Dd) of clips of T blocks → their frames (B, C, F, H, W), unclamped."""
        step, patch = self.config.temporal_patch, self.config.spatial_patch
        return rearrange(
            self.to_pixels(decoded),
            "(b t y x) (f p q c) -> b c (t f) (y p) (x q)",
            t=num_blocks, y=grid[0], x=grid[1], f=step, p=patch, q=patch,
        )  # fmt: skip

    def check_tokens(self, tokens: TokenizedClips) -> None:
        """Raises ValueError for codes outside the codebook or a number of codes that the lengths do not add up to."""
        if tokens.lengths.ndim != 2 or not tokens.lengths.numel():
            raise ValueError(
                f"lengths are those of the blocks of clips, (B, T), at least one; got {tuple(tokens.lengths.shape)}"
            )
        expected = int(tokens.lengths.sum())
        if len(tokens.codes) != expected:
            raise ValueError(f"the lengths add up to {expected} tokens, but {len(tokens.codes)} codes were given")
        if not expected:
            return
        lowest, highest = torch.stack(tokens.codes.aminmax()).tolist()
        if not 0 <= lowest <= highest < self.quantizer.codebook_size:
            raise ValueError(
                f"codes run from 0 to {self.quantizer.codebook_size - 1}, got {lowest} to {highest}: tokens of another "
                "tokenizer?"
            )


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
