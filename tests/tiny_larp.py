"""A folder as LARP's public code leaves it, with random weights, and the same computation in plain torch.

Names and shapes are written down here once more, and nothing of `evagen.models.larp` is used."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

FRAMES, SIZE, TOKENS, CODES, CODE_WIDTH = 16, 32, 24, 64, 4
STEP, PATCH = 4, 8
WIDTHS = {"encoder": 32, "decoder": 48}
HEADS = {"encoder": 4, "decoder": 3}
DEPTHS = {"encoder": 2, "decoder": 3}
GRID = (FRAMES // STEP, SIZE // PATCH, SIZE // PATCH)


def larp_config(**changes: Any) -> dict[str, Any]:
    """The fields and values of `cfgs/larp_tokenizer.yaml`, at tiny sizes."""
    regularizer = {
        "codebook_size": CODES, "commitment_loss_weight": 0.25, "codebook_loss_weight": 1.0, "entropy_loss_weight": 0.0,
        "entropy_loss_temperature": 0.01, "l2_normalized": True, "stochastic": True, "stochastic_temperature": 0.03,
    }  # fmt: skip
    bottleneck = {"bottleneck_dim": CODE_WIDTH, "norm": "none", "regularizer": {"name": "vq", "args": regularizer}}
    config = {
        "bottleneck": {"name": "bottleneck", "args": bottleneck},
        "prior_model": {"name": "gptc-S", "n_rounds": 2, "args": {"l2_normalized": True}},
        "transformer_name": "transformer_encoder_parallel", "encoder_name": "none", "decoder_name": "none",
        "bottleneck_token_num": TOKENS, "input_size": SIZE, "frame_num": FRAMES, "temporal_patch_size": STEP,
        "patch_size": PATCH, "decoder_temporal_patch_size": STEP, "decoder_patch_size": PATCH, "in_channels": 3,
        "encoder_hidden_size": WIDTHS["encoder"], "decoder_hidden_size": WIDTHS["decoder"],
        "encoder_num_heads": HEADS["encoder"], "decoder_num_heads": HEADS["decoder"],
        "encoder_depth": DEPTHS["encoder"], "decoder_depth": DEPTHS["decoder"],
        "learned_encoder_patch_pe": False, "learned_encoder_latent_query_embed": True,
        "learned_decoder_latent_pe": False, "learned_decoder_patch_query_embed": False,
        "use_encoder_patch_token_type_embed": False, "use_encoder_latent_query_token_type_embed": False,
        "use_decoder_latent_token_type_embed": False, "use_decoder_patch_query_token_type_embed": True,
        "encoder_query_gaussian_init": True, "latent_pe_scale_factor": 10000, "query_init_std": 0.02,
    }  # fmt: skip
    return config | changes


def published_config() -> dict[str, Any]:
    """As `scripts/train_larp_tokenizer_reproduce.sh` makes LARP-L-long-tokenizer."""
    sizes = {"bottleneck_token_num": 1024, "input_size": 128, "frame_num": 16}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_hidden_size": 768, f"{part}_num_heads": 12, f"{part}_depth": 12}
    config = larp_config(**sizes)
    config["bottleneck"]["args"]["bottleneck_dim"] = 16
    config["bottleneck"]["args"]["regularizer"]["args"]["codebook_size"] = 8192
    return config


def larp_weights(seed: int = 0) -> dict[str, Tensor]:
    """All weights of the tiny config, positions among them, and one of the prior model's."""
    generator = torch.Generator().manual_seed(seed)
    patches, pixels = GRID[0] * GRID[1] * GRID[2], 3 * STEP * PATCH * PATCH
    encoder, decoder = WIDTHS["encoder"], WIDTHS["decoder"]
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.weight": (encoder, 3, STEP, PATCH, PATCH),
        "x_embedder.proj.bias": (encoder,),
        "encoder_latent_query_embed": (TOKENS, encoder),
        "bottleneck.in_linear.weight": (CODE_WIDTH, encoder),
        "bottleneck.in_linear.bias": (CODE_WIDTH,),
        "bottleneck.regularizer.embedding.weight": (CODES, CODE_WIDTH),
        "bottleneck.out_linear.weight": (decoder, CODE_WIDTH),
        "bottleneck.out_linear.bias": (decoder,),
        "decoder_patch_query_token_type_embed": (1, 1, decoder),
        "final_layer.norm_final.weight": (decoder,),
        "final_layer.norm_final.bias": (decoder,),
        "final_layer.linear.weight": (pixels, decoder),
        "final_layer.linear.bias": (pixels,),
        "prior_model.blocks.0.weight": (5, 5),
    }
    for part, width in WIDTHS.items():
        for number in range(DEPTHS[part]):
            block = f"{part}.blocks.{number}"
            shapes |= {f"{block}.{norm}.{kind}": (width,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
            shapes |= {f"{block}.attn.qkv.weight": (3 * width, width)}
            shapes |= {f"{block}.attn.proj.weight": (width, width), f"{block}.attn.proj.bias": (width,)}
            shapes |= {f"{block}.mlp.fc1.weight": (4 * width, width), f"{block}.mlp.fc1.bias": (4 * width,)}
            shapes |= {f"{block}.mlp.fc2.weight": (width, 4 * width), f"{block}.mlp.fc2.bias": (width,)}
    weights = {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}
    weights["encoder_latent_query_embed"] *= 5  # so that tokens differ
    for name in weights:
        if "norm" in name and name.endswith("weight"):
            weights[name] += 1
    return weights | {
        "encoder_patch_pe": positions_of_patches(encoder).view(1, patches, encoder),
        "decoder_patch_query_embed": positions_of_patches(decoder).view(1, patches, decoder),
        "decoder_latent_pe": torch.from_numpy(waves(np.arange(TOKENS), decoder)).float()[None],
    }


def save_larp(folder: Path, config: dict[str, Any] | None = None, weights: dict[str, Tensor] | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(larp_config() if config is None else config))
    save_file(larp_weights() if weights is None else weights, folder / "model.safetensors")
    return folder


def waves(places: np.ndarray, width: int) -> np.ndarray:
    """Sines, then cosines, of places at falling frequencies: (n,) → (n, width)."""
    angles = places[:, None] / 10000 ** (np.arange(width // 2) / (width // 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def positions_of_patches(width: int) -> Tensor:
    """Half of the width tells the column and half the row; the time is added to both."""
    rows = []
    for t in range(GRID[0]):
        time = waves(np.array([t]), width)[0]
        for y in range(GRID[1]):
            for x in range(GRID[2]):
                place = [waves(np.array([each]), width // 2)[0] for each in (x, y)]
                rows.append(np.concatenate(place) + time)
    return torch.from_numpy(np.stack(rows)).float()


# The same computation, clip by clip


def encode_by_hand(weights: dict[str, Tensor], video: Tensor) -> Tensor:
    """video (B, 3, F, H, W) in [-1, 1] → codes (B, TOKENS)."""
    kernel, codes = weights["x_embedder.proj.weight"].flatten(1), []
    for clip in video:
        patches = [patch.flatten() for patch in patches_of((clip + 1) / 2)]
        rows = torch.stack(patches) @ kernel.T + weights["x_embedder.proj.bias"] + weights["encoder_patch_pe"][0]
        rows = through("encoder", weights, torch.cat([rows, weights["encoder_latent_query_embed"]]))[-TOKENS:]
        vectors = rows @ weights["bottleneck.in_linear.weight"].T + weights["bottleneck.in_linear.bias"]
        distances = torch.cdist(vectors / vectors.norm(dim=1, keepdim=True), unit_codes(weights))
        codes.append(distances.argmin(1))
    return torch.stack(codes)


def decode_by_hand(weights: dict[str, Tensor], codes: Tensor) -> Tensor:
    """codes (B, TOKENS) → video (B, 3, F, H, W) in [-1, 1]."""
    queries = weights["decoder_patch_query_embed"][0] + weights["decoder_patch_query_token_type_embed"][0]
    video = torch.empty(len(codes), 3, FRAMES, SIZE, SIZE)
    for clip, numbers in zip(video, codes):
        vectors = unit_codes(weights)[numbers]
        latents = vectors @ weights["bottleneck.out_linear.weight"].T + weights["bottleneck.out_linear.bias"]
        rows = through("decoder", weights, torch.cat([latents + weights["decoder_latent_pe"][0], queries]))[TOKENS:]
        rows = normed("final_layer.norm_final", weights, rows, 1e-6)
        rows = rows @ weights["final_layer.linear.weight"].T + weights["final_layer.linear.bias"]
        for patch, row in zip(patches_of(clip), rows):
            patch.copy_(row.view(STEP, PATCH, PATCH, 3).permute(3, 0, 1, 2))  # a view of the clip
    return video.clamp(0, 1) * 2 - 1


def patches_of(clip: Tensor) -> list[Tensor]:
    """Views (3, STEP, PATCH, PATCH), in the order time, height, width."""
    return [
        clip[:, t * STEP : (t + 1) * STEP, y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH]
        for t in range(GRID[0])
        for y in range(GRID[1])
        for x in range(GRID[2])
    ]


def unit_codes(weights: dict[str, Tensor]) -> Tensor:
    codes = weights["bottleneck.regularizer.embedding.weight"]
    return codes / codes.norm(dim=1, keepdim=True)


def normed(name: str, weights: dict[str, Tensor], rows: Tensor, eps: float) -> Tensor:
    centred = rows - rows.mean(1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(1, keepdim=True) + eps).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def through(part: str, weights: dict[str, Tensor], rows: Tensor) -> Tensor:
    """Blocks of pre-norm attention, every row seeing every row, and an MLP: (n, width) → (n, width)."""
    width = WIDTHS[part]
    for number in range(DEPTHS[part]):
        block = {name.removeprefix(f"{part}.blocks.{number}."): weight for name, weight in weights.items()}
        query, key, value = (normed("norm1", block, rows, 1e-5) @ block["attn.qkv.weight"].T).split(width, dim=1)
        heads = []
        for head in torch.arange(width).chunk(HEADS[part]):
            likeness = query[:, head] @ key[:, head].T / len(head) ** 0.5
            heads.append(likeness.softmax(1) @ value[:, head])
        rows = rows + torch.cat(heads, dim=1) @ block["attn.proj.weight"].T + block["attn.proj.bias"]
        hidden = normed("norm2", block, rows, 1e-5) @ block["mlp.fc1.weight"].T + block["mlp.fc1.bias"]
        rows = rows + F.gelu(hidden) @ block["mlp.fc2.weight"].T + block["mlp.fc2.bias"]
    return rows
