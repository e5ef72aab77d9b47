"""The formulas for operations give what torch counts while the models run."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from evagen.ar_model import VideoGenerator
from evagen.tokenizer import Router, VideoTokenizer
from evagen.training.objective import ObjectiveConfig
from evagen.training.operations import generator_forward, objective_of_clip, router_forward, tokenizer_forward


def attention(query, key, value, *rest, out_shape=None, **settings):
    """Two products of queries and keys, (G, h, length, d); under a causal mask half of the square and the diagonal."""
    groups, heads, rows, width = query
    causal = len(rest) > 1 and rest[1]
    pairs = rows * (rows + 1) / 2 if causal else rows * key[2]
    return 4 * groups * heads * width * pairs


def counted(run) -> float:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={kernel: attention}) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("sees", ["block", "causal"])
@pytest.mark.parametrize("length", [4, 16])
def test_a_tokenizer(sees, length):
    """But for the angles of the places, which are 3 numbers a row and pair of a head."""
    model = VideoTokenizer(
        [4, 16], num_frames=16, resolution=32, encoder_width=96, encoder_depth=2, encoder_heads=2, decoder_width=128,
        decoder_depth=3, decoder_heads=4, codebook_size=64, encoder_self_attention=sees,
    )  # fmt: skip
    video, lengths = torch.zeros(1, 3, 16, 32, 32), torch.full((1, 4), length)
    assert tokenizer_forward(model, 4 * length) == pytest.approx(counted(lambda: model(video, lengths)), rel=2e-3)


def test_a_generator():
    model = VideoGenerator(codebook_size=64, levels=[4, 16], num_blocks=4, width=64, depth=3, num_heads=2)
    assert generator_forward(model, 37) == counted(lambda: model(torch.zeros(37, dtype=torch.int64), [37]))


def test_a_router():
    settings = {"num_frames": 8, "resolution": 32, "downscale": 2, "patch": 8, "width": 32, "depth": 2, "num_heads": 2}
    model = Router([4, 16], **settings)
    features, preference = model.features(torch.zeros(1, 3, 8, 32, 32)), torch.zeros(1)
    with torch.device("meta"):
        shape = Router([4, 16], **settings)
    assert router_forward(shape) == counted(lambda: model(features, preference))


def test_a_loss_costs_what_its_networks_do():
    with torch.device("meta"):
        model = VideoTokenizer([4, 16])

    def of(steps: int = 10, **settings) -> float:
        return objective_of_clip(ObjectiveConfig.model_validate({"perceptual": 0, **settings}), model, steps)

    assert of() == 0
    frames = of(perceptual=1, compare={"network": "lpips", "frames": 1})
    assert frames == pytest.approx(
        3 * 10.02e9, rel=1e-3
    )  # VGG16's convolutions at 128 pixels: 15.35e9 · 2 · (128 / 224)²
    assert of(perceptual=1, compare={"network": "lpips", "frames": 16}) == 16 * frames
    teacher = 2 * 302e6 * 2048 + 24 * 4 * 2048**2 * 1024  # ViT-L on 8 × 16 × 16 patches
    assert of(alignment={"weight": 0.7}) == pytest.approx(teacher, rel=0.01)
    judge = of(adversarial={"discriminator": "transformer", "start_step": 10})  # it learns, the tokenizer does not yet
    assert of(adversarial={"discriminator": "transformer", "start_step": 10, "every": 5}) == pytest.approx(judge / 5)
    assert of(adversarial={"discriminator": "transformer"}) == pytest.approx(judge * (2 * 3 + 2) / (2 * 3))
    assert of(adversarial={"discriminator": "transformer", "start_step": 5}) == pytest.approx(
        judge * (2 * 3 + 1) / (2 * 3)
    )
