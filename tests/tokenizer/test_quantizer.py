"""The quantiser: decoding indices equals the quantised output, losses as defined, usage counted."""

import math

import pytest
import torch

from evagen.tokenizer import CodebookUsage, DeadCodeRestart, VectorQuantizer, make_quantizer


def quantizer(size: int = 16, width: int = 4) -> VectorQuantizer:
    module = VectorQuantizer(size, width)
    torch.nn.init.normal_(module.codebook, generator=torch.Generator().manual_seed(0))
    return module


def test_looking_codes_up_gives_the_quantised_vectors():
    module, x = quantizer(), torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    quantized = module(x, with_losses=False)
    assert torch.equal(module.lookup(quantized.codes), quantized.vectors)
    torch.testing.assert_close(quantized.vectors.norm(dim=-1), torch.ones(50))


def test_codes_are_the_nearest_by_euclidean_distance_on_the_sphere():
    module, x = quantizer(), torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    unit = torch.nn.functional.normalize
    nearest = torch.cdist(unit(x, dim=-1), unit(module.codebook, dim=-1)).argmin(-1)
    assert torch.equal(module(x, with_losses=False).codes, nearest)


def test_quantising_is_independent_of_scale_and_straight_through():
    module, x = quantizer(), torch.randn(20, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
    quantized = module(x, with_losses=True)
    assert torch.equal(quantized.codes, module(x * 7, with_losses=False).codes)
    torch.testing.assert_close(quantized.vectors, module.lookup(quantized.codes))
    (gradient,) = torch.autograd.grad(quantized.vectors.sum(), x)
    assert gradient.abs().sum() > 0


def test_entropy_loss_rewards_sure_and_even_use():
    """Vectors that sit on all codes evenly approach -log K, vectors that all share one code approach 0."""
    module = quantizer()
    codes = torch.nn.functional.normalize(module.codebook.detach(), dim=-1)
    even = module(codes, with_losses=True).losses["entropy"]
    same = module(codes[:1].expand(16, -1), with_losses=True).losses["entropy"]
    assert -math.log(16) <= even < same - 1
    assert abs(same) < 1e-4


def test_usage_counts():
    usage = CodebookUsage(8)
    usage.update(torch.tensor([0, 0, 1, 1]))
    assert usage.used_fraction() == 0.25
    assert abs(usage.perplexity() - 2) < 1e-9
    usage.reset()
    assert usage.used_fraction() == 0


def test_fixed_codes_cannot_be_moved():
    with pytest.raises(ValueError, match="codes of a FiniteScalarQuantizer are fixed"):
        DeadCodeRestart(make_quantizer("fsq", 240, 4), patience=2)
    with pytest.raises(ValueError, match="patience=0: with less than 1 step every code would move"):
        DeadCodeRestart(make_quantizer("vq", 32, 4), patience=0)


def test_codes_unused_for_a_while_move_to_vectors_just_encoded():
    module = quantizer(size=4)
    restart, before = DeadCodeRestart(module, patience=2), module.codebook.detach().clone()
    inputs = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    drawn = torch.tensor([1, 1, 0, 2])
    assert not restart.step(torch.tensor([0, 1, 1]), inputs, drawn).any()
    assert restart.step(torch.tensor([0, 2, 0]), inputs, drawn).tolist() == [False, False, False, True]
    assert torch.equal(module.codebook[3], inputs[2])
    assert torch.equal(module.codebook[:3], before[:3])
    assert restart.steps_unused.tolist() == [0, 1, 0, 0]
