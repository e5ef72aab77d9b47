"""How many floating-point operations a clip takes in training, counted from the models themselves.

Counted are matrix products, convolutions and attention, a multiplication and an addition as two. The tokenizer and the
generator are counted by their layers, rows and visible pairs, all else by torch's `FlopCounterMode` on the meta device.
A backward pass is two forward passes where weights are trained (6 operations a weight and row in all), and one where
only a gradient passes through.

Legend: T temporal blocks, P patches of a block, D width.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from evagen.ar_model import VideoGenerator
from evagen.eval.lpips import STAGE_ENDS
from evagen.eval.perceptual import PerceptualDistance
from evagen.kernels.pretrained import UNTRAINED
from evagen.tokenizer import BlockRouter, Router, VideoTokenizer
from evagen.tokenizer.alignment import VideoTeacher, load_vjepa2
from evagen.tokenizer.layers import QFormer
from evagen.training.objective import (
    AdversarialConfig,
    AlignmentConfig,
    ObjectiveConfig,
    make_discriminator,
    make_projection,
)

TRAINED = 3
"""Forward passes that a pass with its backward one is worth, where weights are trained, …"""
PASSED = 2
"""… and where the gradient passes through frozen ones."""


def tokenizer_forward(model: VideoTokenizer, tokens: float) -> float:
    """Of one clip with so many tokens, equally many in each block; whole numbers are not needed, for means."""
    config, space = model.config, model.assignments
    rows, columns = model.patch_grid((config.resolution, config.resolution))
    patches, not_ahead = space.num_blocks * rows * columns, (space.num_blocks + 1) / (2 * space.num_blocks)
    among_tokens = not_ahead if config.encoder_self_attention == "causal" else 1 / space.num_blocks
    codebook = 0 if model.quantizer.codebook is None else model.quantizer.codebook.numel()
    of_token = _weights(model.to_code, model.from_code, model.start_query, model.decoder_position) + codebook
    of_patch = _weights(model.embed_patches, model.to_pixels, model.decoder_position)
    across = not_ahead * tokens * patches
    return (
        2 * (tokens * of_token + patches * of_patch)
        + _q_former(model.encoder, tokens, patches, among_tokens * tokens**2, across)
        + _q_former(model.decoder, patches, tokens, not_ahead * patches**2, across)
    )


def generator_forward(model: VideoGenerator, tokens: float) -> float:
    """Of one sequence of so many tokens."""
    attended = 4 * model.config.width * model.config.depth * tokens * (tokens + 1) / 2
    return 2 * tokens * _weights(model) + attended


def router_forward(model: Router | BlockRouter) -> float:
    """Of one clip, or of one block."""
    config = model.config
    with torch.device("meta"):
        if isinstance(model, BlockRouter):
            block = torch.empty(1, 3, config.temporal_patch, config.resolution, config.resolution)
            seen = model.features(block, block[:, :, :0], torch.empty(1, 0, dtype=torch.int64))
            return _counted(model, seen, torch.empty(1))
        video = torch.empty(1, 3, config.num_frames, config.resolution, config.resolution)
        return _counted(model, model.features(video), torch.empty(1))


def objective_of_clip(config: ObjectiveConfig, model: VideoTokenizer, steps: int) -> float:
    """Of what a tokenizer's loss needs beside the tokenizer: the mean over so many steps, a clip."""
    sizes = model.config
    video = torch.empty(1, 3, sizes.num_frames, sizes.resolution, sizes.resolution, device="meta")
    total = 0.0
    if config.perceptual:  # of real frames, and of reconstructed ones
        total += (1 + PASSED) * config.compare.frames * _of_frame(config.compare.network, sizes.resolution)
    if config.alignment.weight:
        total += _alignment(config.alignment, model, video)
    if config.adversarial.discriminator != "none":
        total += _adversarial(config.adversarial, model, video, steps)
    return total


def _q_former(stack: QFormer, rows: float, context: float, within: float, across: float) -> float:
    """rows that are carried through, rows of their context, and how many pairs of both kinds are visible."""
    layer: Any = stack.layers[0]
    cross = layer.cross_attention
    of_row = _weights(layer.self_attention, cross.to_query, cross.to_out, layer.mlp)
    width = cross.to_query.out_features
    products = 2 * (rows * of_row + context * _weights(cross.to_key_value))
    return len(stack.layers) * (products + 4 * width * (within + across))


def _alignment(config: AlignmentConfig, model: VideoTokenizer, video: Tensor) -> float:
    teacher = _teacher()
    with torch.device("meta"):
        projection = make_projection(config, model, teacher)
        rows, columns = model.patch_grid((video.shape[-2], video.shape[-1]))
        decoded = torch.empty(1, model.assignments.num_blocks, rows, columns, model.config.decoder_width)
        targets = torch.empty(1, *teacher.grid(video.shape[2]), teacher.width)
    return _of_teacher(video.shape) + TRAINED * _counted(projection, decoded, targets)


def _adversarial(config: AdversarialConfig, model: VideoTokenizer, video: Tensor, steps: int) -> float:
    """The discriminator judges a reconstruction for the tokenizer, once the term counts, and a clip and a
    reconstruction to learn itself. Of VideoMAE only heads are trained, 0.3% of it, which are not counted apart."""
    with torch.device("meta"):
        judge = make_discriminator(config.model_copy(update={"videomae": UNTRAINED}), model)
    learns = 1 if config.discriminator == "videomae" else TRAINED
    share = max(0, steps - config.start_step) / steps
    return _counted(judge, video) * (PASSED * share + 2 * learns / config.every)


@functools.cache
def _of_teacher(shape: torch.Size) -> float:
    return _counted(_teacher(), torch.empty(shape, device="meta"))


@functools.cache
def _teacher() -> VideoTeacher:
    with torch.device("meta"):
        return VideoTeacher(load_vjepa2(UNTRAINED))


@functools.cache
def _of_frame(network: str, size: int) -> float:
    """Of one frame in the network that compares frames."""
    frame = torch.empty(1, 3, size, size, device="meta")
    if network != "lpips":
        return _counted(PerceptualDistance().network.to("meta"), frame)
    with torch.device("meta"):
        return _counted(models.vgg16(weights=None).features[: STAGE_ENDS[-1]], frame)


def _counted(network: nn.Module, *inputs: Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return counter.get_total_flops()


def _weights(*modules: nn.Module) -> int:
    """Numbers in the matrices of linear layers."""
    every = (each for module in modules for each in module.modules())
    return sum(each.weight.numel() for each in every if isinstance(each, nn.Linear))
