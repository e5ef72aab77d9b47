"""Tokenizers, routers and generators with random weights, small enough for a test."""

import torch
from transformers import VJEPA2Config, VJEPA2Model

from evagen.ar_model import VideoGenerator
from evagen.tokenizer import BlockRouter, Router, VideoTokenizer

LEVELS = [2, 4, 8]
RESOLUTION = 32
FRAMES = 8


def tiny_tokenizer(seed: int = 0, **changes) -> VideoTokenizer:
    """Clips of 8 frames, two blocks of 4, patches of 8 pixels."""
    torch.manual_seed(seed)
    sizes = {
        "levels": LEVELS, "num_frames": FRAMES, "resolution": RESOLUTION, "encoder_width": 32, "encoder_depth": 1,
        "encoder_heads": 2, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2, "codebook_size": 64,
        "code_width": 4,
    }  # fmt: skip
    return VideoTokenizer(**(sizes | changes)).eval()


def tiny_router(seed: int = 0, **changes) -> Router:
    """For the tiny tokenizer. Its head is drawn wide, so that clips and preferences get different assignments."""
    torch.manual_seed(seed)
    sizes = {
        "levels": LEVELS, "num_frames": FRAMES, "resolution": RESOLUTION, "downscale": 4, "patch": 4, "width": 32,
        "depth": 1, "num_heads": 2,
    }  # fmt: skip
    router = Router(**(sizes | changes)).eval()
    torch.nn.init.normal_(router.vit.head.weight)
    return router


def tiny_block_router(seed: int = 0, **changes) -> BlockRouter:
    """For the tiny tokenizer with a memory of two blocks, and as `tiny_router`."""
    torch.manual_seed(seed)
    sizes = {
        "levels": LEVELS, "memory_blocks": 2, "resolution": RESOLUTION, "downscale": 4, "patch": 4, "width": 32,
        "depth": 1, "num_heads": 2,
    }  # fmt: skip
    router = BlockRouter(**(sizes | changes)).eval()
    with torch.no_grad():
        for weight in router.vit.parameters():  # or no picture would matter
            weight.add_(torch.randn_like(weight) * 0.3)
    return router


def tiny_generator(**changes) -> VideoGenerator:
    """Sequences of three blocks of 1, 3 or 5 tokens, 11 codes, two classes."""
    torch.manual_seed(0)
    sizes = {
        "levels": [1, 3, 5], "width": 64, "depth": 2, "num_heads": 2, "hidden_width": 64, "class_names": ["a", "b"],
    }  # fmt: skip
    model = VideoGenerator(11, num_blocks=3, **(sizes | changes))
    with torch.no_grad():
        for parameter in model.parameters():  # so that what was written before matters, as to a trained model
            parameter.add_(torch.randn_like(parameter) * 0.15)
        model.lm_head.weight.mul_(2)
    return model.eval()


def random_clips(count: int, seed: int = 0, frames: int = FRAMES, height: int = 32, width: int = 32) -> torch.Tensor:
    """Noise of different strength on different colours, another in each half: (count, 3, frames, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, 3, frames, height, width, generator=generator) * 2 - 1
    strength = torch.rand(count, 1, 1, 1, 1, generator=generator)
    colours = torch.rand(count, 3, 2, 1, 2, generator=generator) * 2 - 1
    areas = colours.repeat_interleave(-(-frames // 2), 2).repeat_interleave(-(-width // 2), 4)[:, :, :frames, :, :width]
    return (areas + strength * noise).clamp(-1, 1)


def tiny_teacher() -> VJEPA2Model:
    """V-JEPA 2 of random weights, for pictures of 32 pixels."""
    torch.manual_seed(0)
    sizes = VJEPA2Config(
        patch_size=8, crop_size=32, hidden_size=48, num_attention_heads=2, num_hidden_layers=2, pred_hidden_size=48,
        pred_num_attention_heads=2, pred_num_hidden_layers=1, pred_num_mask_tokens=1,
    )  # fmt: skip
    return VJEPA2Model(sizes)
