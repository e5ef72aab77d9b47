"""LARP's public video tokenizer (arXiv 2410.21264; hywang66/LARP-L-long-tokenizer), to be scored beside ours.

Names, shapes and computation are those of its public code (github.com/hywang66/LARP, commit 8aaed63). The published
weights were never at hand: they have not been run through this module, and what their config.json holds is inferred
from that code (docs/peers.md).

Legend: B clips, C = 3 channels, F frames, H × W pixels, P patches of a clip, N tokens of a clip, De/Dd encoder/decoder
width, c code width, K codes.
"""

import functools
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from transformers.utils import cached_file

from evagen.config import Section, check_config
from evagen.errors import UserError
from evagen.kernels.files import read_json
from evagen.kernels.model_files import MOST_LAYERS, check_finite
from evagen.kernels.packed_linear import pack_linears
from evagen.kernels.sources import is_out_of_reach, locate
from evagen.tokenizer import AssignmentSpace, TokenizedClips

BLOCK_NORM = functools.partial(nn.LayerNorm, eps=1e-5)
"""timm's default when LARP was trained; newer versions have 1e-6 (docs/peers.md)."""
FINAL_NORM = functools.partial(nn.LayerNorm, eps=1e-6)
TRAINING_ONLY = "prior_model."


class RegularizerArguments(Section):
    codebook_size: int = Field(ge=1)
    l2_normalized: Literal[True]
    stochastic: bool = False  # in training; here always the likeliest code, which is the nearest one
    stochastic_temperature: float = Field(1.0, gt=0)
    same_index_shape: bool = True
    commitment_loss_weight: float = 0.25
    codebook_loss_weight: float = 1.0
    entropy_loss_weight: float = 0.0
    entropy_loss_temperature: float = 0.01


class Regularizer(Section):
    name: Literal["vq"]
    args: RegularizerArguments


class BottleneckArguments(Section):
    bottleneck_dim: int = Field(ge=1)
    norm: Literal["none", "no"] | None = None
    regularizer: Regularizer


class Bottleneck(Section):
    name: Literal["bottleneck"]
    args: BottleneckArguments


class LarpConfig(Section):
    """config.json: the constructor's arguments with its defaults. Sizes are free; what would change the computation has
    one value."""

    bottleneck: Bottleneck
    prior_model: dict[str, Any]  # for training
    bottleneck_token_num: int = Field(1024, ge=1)
    input_size: int = Field(128, ge=1)
    frame_num: int = Field(16, ge=1)
    temporal_patch_size: int = Field(4, ge=2)  # with 1 the patches are embedded in another way
    patch_size: int = Field(8, ge=1)
    decoder_temporal_patch_size: int = 4
    decoder_patch_size: int = 8
    in_channels: Literal[3] = 3
    transformer_name: Literal["transformer_encoder_parallel"] = "transformer_encoder_parallel"
    encoder_name: Literal["none", "transformer_encoder_parallel"] | None = None
    decoder_name: Literal["none", "transformer_encoder_parallel"] | None = None
    encoder_hidden_size: int = Field(768, ge=1)
    decoder_hidden_size: int = Field(768, ge=1)
    encoder_num_heads: int = Field(12, ge=1)
    decoder_num_heads: int = Field(12, ge=1)
    encoder_depth: int = Field(6, ge=1, le=MOST_LAYERS)
    decoder_depth: int = Field(6, ge=1, le=MOST_LAYERS)
    learned_encoder_patch_pe: Literal[False] = False
    learned_encoder_latent_query_embed: Literal[True] = True
    learned_decoder_latent_pe: Literal[False] = False
    learned_decoder_patch_query_embed: Literal[False] = False
    use_encoder_patch_token_type_embed: Literal[False] = False
    use_encoder_latent_query_token_type_embed: Literal[False] = False
    use_decoder_latent_token_type_embed: Literal[False] = False
    use_decoder_patch_query_token_type_embed: Literal[True]  # the constructor's default is False
    encoder_query_gaussian_init: bool = True  # this and the next two: what weights began with
    latent_pe_scale_factor: float = 10000
    query_init_std: float = 0.02

    @property
    def num_frames(self) -> int:
        return self.frame_num

    @property
    def resolution(self) -> int:
        return self.input_size

    @property
    def temporal_patch(self) -> int:
        return self.frame_num  # a block is a clip

    @property
    def levels(self) -> list[int]:
        return [self.bottleneck_token_num]

    @property
    def codebook_size(self) -> int:
        return self.bottleneck.args.regularizer.args.codebook_size

    def grid(self) -> tuple[int, int, int]:
        """Patches in time, height and width. Raises ValueError for sizes that do not go together."""
        step, patch = self.temporal_patch_size, self.patch_size
        if (self.decoder_temporal_patch_size, self.decoder_patch_size) != (step, patch):
            raise ValueError(
                f"the decoder's patches are {self.decoder_temporal_patch_size} frames of {self.decoder_patch_size} "
                f"pixels, the encoder's {step} of {patch}; they should be the same"
            )
        if self.frame_num % step or self.input_size % patch:
            raise ValueError(
                f"clips of {self.frame_num} frames at {self.input_size} pixels are not divisible into patches of "
                f"{step} frames of {patch} pixels"
            )
        for part in ("encoder", "decoder"):
            width, heads = getattr(self, f"{part}_hidden_size"), getattr(self, f"{part}_num_heads")
            if width % heads:
                raise ValueError(f"{part}_hidden_size={width} is not divisible by {part}_num_heads={heads}")
        return self.frame_num // step, self.input_size // patch, self.input_size // patch


class LarpTokenizer(nn.Module):
    """As many tokens for every clip, made by all of it: one block with one level. For inference; weights and positions
    have to be loaded.

    Raises ValueError for sizes that do not go together."""

    def __init__(self, config: LarpConfig):
        super().__init__()
        self.config = config
        self.grid = config.grid()
        self.assignments = AssignmentSpace(config.levels, num_blocks=1)
        patches, tokens = self.grid[0] * self.grid[1] * self.grid[2], config.bottleneck_token_num
        encoder_width, decoder_width = config.encoder_hidden_size, config.decoder_hidden_size
        patch = (config.temporal_patch_size, config.patch_size, config.patch_size)
        code_width = config.bottleneck.args.bottleneck_dim
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv3d(3, encoder_width, kernel_size=patch, stride=patch)})
        self.register_buffer("encoder_patch_pe", torch.zeros(1, patches, encoder_width))
        self.encoder_latent_query_embed = nn.Parameter(torch.zeros(tokens, encoder_width))
        self.encoder = _blocks(encoder_width, config.encoder_depth, config.encoder_num_heads)
        self.bottleneck = nn.ModuleDict(
            {
                "in_linear": nn.Linear(encoder_width, code_width),
                "regularizer": nn.ModuleDict({"embedding": nn.Embedding(config.codebook_size, code_width)}),
                "out_linear": nn.Linear(code_width, decoder_width),
            }
        )
        self.register_buffer("decoder_latent_pe", torch.zeros(1, tokens, decoder_width))
        self.register_buffer("decoder_patch_query_embed", torch.zeros(1, patches, decoder_width))
        self.decoder_patch_query_token_type_embed = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder = _blocks(decoder_width, config.decoder_depth, config.decoder_num_heads)
        pixels = 3 * patch[0] * patch[1] * patch[2]
        self.final_layer = nn.ModuleDict(
            {"norm_final": FINAL_NORM(decoder_width), "linear": nn.Linear(decoder_width, pixels)}
        )

    @property
    def device(self) -> torch.device:
        return self.encoder_latent_query_embed.device

    @torch.no_grad()
    def encode(self, video: Tensor, lengths: Tensor) -> TokenizedClips:
        """video (B, C, F, H, W) in [-1, 1] of the trained frames and size, lengths int64 (B, 1), all N → tokens, the
        likeliest codes. Raises ValueError for other clips or lengths."""
        expected = (3, self.config.num_frames, self.config.resolution, self.config.resolution)
        if video.shape[1:] != expected:
            raise ValueError(f"LARP's positions are of clips of shape {expected}, got {tuple(video.shape[1:])}")
        self._check_lengths(lengths, len(video))
        frames = (video + 1) / 2  # (B, C, F, H, W) in [0, 1]
        patches = self.x_embedder["proj"](frames).flatten(2).transpose(1, 2)  # (B, P, De)
        queries = self.encoder_latent_query_embed.expand(len(video), -1, -1)  # (B, N, De)
        encoded = _through(self.encoder, patches + self.encoder_patch_pe, queries)  # (B, N, De)
        vectors = self.bottleneck["in_linear"](encoded)  # (B, N, c)
        with torch.autocast(video.device.type, enabled=False):
            codebook = self._unit_codes()  # (K, c)
            clips = F.normalize(vectors.float(), dim=-1)  # (B, N, c)
            codes = torch.cat([(clip @ codebook.T).argmax(-1) for clip in clips])  # (B*N,); N*K numbers at a time
        return TokenizedClips(codes, lengths.cpu())

    @torch.no_grad()
    def decode(self, tokens: TokenizedClips, resolution: tuple[int, int] | None = None) -> Tensor:
        """Tokens → video float32 (B, C, F, H, W) in [-1, 1]; resolution is (H, W), the trained one. Raises ValueError
        for another one, and for codes or lengths that are not this tokenizer's."""
        size = (self.config.resolution, self.config.resolution)
        if resolution is not None and tuple(resolution) != size:
            raise ValueError(f"LARP's positions are of {size[0]} × {size[1]} pixels, got {resolution}")
        self._check_lengths(tokens.lengths, len(tokens.lengths))
        codes = tokens.codes.view(len(tokens.lengths), -1)  # (B, N)
        if codes.shape[1] != self.config.bottleneck_token_num:
            raise ValueError(f"the lengths add up to {int(tokens.lengths.sum())} tokens, got {codes.numel()} codes")
        if not 0 <= int(codes.min()) <= int(codes.max()) < self.config.codebook_size:
            raise ValueError(f"codes run from 0 to {self.config.codebook_size - 1}, got others")
        latents = self.bottleneck["out_linear"](self._unit_codes()[codes])  # (B, N, Dd)
        queries = self.decoder_patch_query_embed + self.decoder_patch_query_token_type_embed  # (1, P, Dd)
        queries = queries.expand(len(codes), -1, -1)  # (B, P, Dd)
        decoded = _through(self.decoder, latents + self.decoder_latent_pe, queries)  # (B, P, Dd)
        patches = self.final_layer["linear"](self.final_layer["norm_final"](decoded))  # (B, P, f*p*p*C)
        video = rearrange(
            patches.float(), "b (t y x) (f p q c) -> b c (t f) (y p) (x q)",
            t=self.grid[0], y=self.grid[1], f=self.config.temporal_patch_size, p=self.config.patch_size,
            q=self.config.patch_size,
        )  # fmt: skip
        return (2 * video - 1).clamp(-1, 1)  # (B, C, F, H, W)

    def _unit_codes(self) -> Tensor:
        return F.normalize(self.bottleneck["regularizer"]["embedding"].weight, dim=-1)  # (K, c)

    def _check_lengths(self, lengths: Tensor, num_clips: int) -> None:
        if lengths.shape != (num_clips, 1):
            raise ValueError(
                f"{num_clips} clips of one block need lengths of shape ({num_clips}, 1), got {lengths.shape}"
            )
        self.assignments.check(lengths)


def _blocks(width: int, depth: int, heads: int) -> nn.ModuleDict:
    make = functools.partial(Block, width, heads, mlp_ratio=4, qkv_bias=False, norm_layer=BLOCK_NORM)
    return nn.ModuleDict({"blocks": nn.ModuleList([make() for _ in range(depth)])})


def _through(stack: nn.ModuleDict, context: Tensor, queries: Tensor) -> Tensor:
    """Context (B, n, D) and queries (B, m, D), all seeing all → what the queries have become (B, m, D)."""
    rows = torch.cat([context, queries], dim=1)  # (B, n + m, D)
    for block in stack["blocks"]:
        rows = block(rows)  # (B, n + m, D)
    return rows[:, context.shape[1] :]  # (B, m, D)


# Loading


def is_larp(config: dict[str, Any]) -> bool:
    """Whether a config.json is of a LARP tokenizer, perhaps of one that `load_larp` refuses."""
    return "bottleneck" in config and "_class_name" not in config


def config_at(source: str | Path, only_cached: bool = False) -> dict[str, Any]:
    """The config.json of a tokenizer, wherever `kernels.sources` finds it; empty where none is within reach.
    only_cached: do not ask the hub."""
    try:
        if folder := locate(source, "tokenizer", only_cached).folder:
            source = folder
        only_cached = only_cached or is_out_of_reach(str(source))
        path = cached_file(str(source), "config.json", local_files_only=only_cached)
        return read_json(path) if path else {}  # None for a folder without one
    except (OSError, ValueError):
        return {}


def load_larp(source: str | Path, device: torch.device | str = "cpu") -> LarpTokenizer:
    """A tokenizer for inference from a folder or hub id with config.json and model.safetensors: fp32, frozen, and as
    `load_model` packs it. Raises UserError where one is missing or not LARP's."""
    where = f"{source}/config.json is not that of the LARP tokenizer known here"
    try:
        with torch.device("meta"):
            model = LarpTokenizer(check_config(LarpConfig, config_at(source), where))
    except (UserError, ValueError) as error:
        what = str(error) if isinstance(error, UserError) else f"{where}:\n  {error}"
        raise UserError(
            f"{what}\nSizes may differ from those of LARP-L-long-tokenizer, nothing else may (docs/peers.md): give "
            "such a model, a folder or hub id"
        ) from error
    try:
        weights = load_file(cached_file(str(source), "model.safetensors"))
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the weights of the LARP tokenizer at {source} are missing or damaged: fetch model.safetensors again, "
            "into the folder of config.json"
        ) from error
    weights = {name: tensor.float() for name, tensor in weights.items() if not name.startswith(TRAINING_ONLY)}
    _check_weights(weights, model, source)
    model.load_state_dict(weights, assign=True)
    try:
        check_finite(model)
    except ValueError as error:
        raise UserError(f"the weights of the LARP tokenizer at {source}: {error}") from error
    return pack_linears(model.to(device).eval().requires_grad_(False))


def _check_weights(weights: dict[str, Tensor], model: LarpTokenizer, source: str | Path) -> None:
    expected = model.state_dict()
    wrong = [f"{name} is missing" for name in expected.keys() - weights.keys()]
    wrong += [f"{name} is of no use" for name in weights.keys() - expected.keys()]
    wrong += [
        f"{name} is {tuple(tensor.shape)} in place of {tuple(expected[name].shape)}"
        for name, tensor in weights.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(
            f"the weights at {source} are not those of its config.json: {', '.join(sorted(wrong)[:5])}{more}; fetch "
            "model.safetensors and config.json of one model again"
        )
