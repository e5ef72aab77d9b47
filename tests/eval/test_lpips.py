"""LPIPS-VGG16 against torchmetrics' network with the same weights. VGG16 is random here: nothing is downloaded."""

import copy
import socket
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision import models

from evagen.eval import lpips as lpips_module
from evagen.eval.frame_distance import FrameDistance
from evagen.eval.lpips import VGG16_FILE, LPIPSDistance
from evagen.eval.perceptual import PerceptualDistance


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a test of LPIPS reached for the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv(VGG16_FILE.variable, raising=False)


@pytest.fixture(scope="module")
def reference():
    """torchmetrics' LPIPS with its own heads and a VGG16 of random weights."""
    torch.manual_seed(0)
    return _LPIPS(net="vgg", pnet_rand=True).eval()


@pytest.fixture(scope="module")
def vgg16_file(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg16") / "vgg16.safetensors"
    names = (name.split(".", 1)[1] for name in reference.net.state_dict())
    save_file({f"features.{name}": v for name, v in zip(names, reference.net.state_dict().values())}, path)
    return path


@pytest.fixture(scope="module")
def lpips(vgg16_file):
    return LPIPSDistance(vgg16_file)


def frames(count: int = 3, size: tuple[int, int] = (32, 48), seed: int = 0) -> torch.Tensor:
    coarse = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size, mode="bicubic").clamp(-1, 1)


@pytest.mark.parametrize("size", [(32, 48), (37, 65)])
def test_distances_and_gradients_are_those_of_torchmetrics(lpips, reference, size):
    x, y = frames(size=size).requires_grad_(), frames(size=size, seed=1)
    ours, theirs = lpips(x, y), reference(x, y).flatten()
    assert (ours > 0.01).all()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(d.sum(), x)[0] for d in (ours, theirs)), rtol=1e-3, atol=1e-7)


def test_zero_for_equal_frames_and_symmetric(lpips):
    x, y = frames(), frames(seed=1)
    assert lpips(x, x).tolist() == [0, 0, 0]
    torch.testing.assert_close(lpips(x, y), lpips(y, x))


def test_has_the_interface_of_the_perceptual_distance(lpips):
    assert isinstance(lpips, FrameDistance)
    assert issubclass(PerceptualDistance, FrameDistance)
    assert lpips.name != PerceptualDistance.name
    assert len(lpips.fingerprint) == 16


def test_a_reference_kept_as_features_is_compared_with_many(lpips):
    x, y, z = frames(), frames(seed=1), frames(seed=2)
    many = [torch.stack(maps) for maps in zip(lpips.features(x), lpips.features(y))]  # 2 N C h w
    expected = torch.stack([lpips(x, z), lpips(y, z)])
    torch.testing.assert_close(lpips.distance_from_features(many, lpips.features(z)), expected)


def test_video_distance_is_that_of_each_frame(lpips):
    x, y = frames(6), frames(6, seed=1)
    videos = [v.unflatten(0, (2, 3)).transpose(1, 2) for v in (x, y)]  # B C F H W
    torch.testing.assert_close(lpips.video_distance(*videos), lpips(x, y).unflatten(0, (2, 3)))


def test_nothing_to_train_or_save(lpips):
    assert not list(lpips.parameters())
    assert not lpips.state_dict()
    x, y = frames(), frames(seed=1)
    before = lpips(x, y)
    assert torch.equal(copy.deepcopy(lpips).train().requires_grad_(True)(x, y), before)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 15, 32)])
def test_other_layouts_are_refused(lpips, shape):
    with pytest.raises(ValueError, match="should be floating point N 3 H W"):
        lpips(torch.zeros(shape), torch.zeros(shape))


def test_pth_file_named_by_the_environment_gives_the_same(lpips, reference, vgg16_file, tmp_path, monkeypatch):
    weights = {f"features.{k.split('.', 1)[1]}": v for k, v in reference.net.state_dict().items()}
    weights["classifier.0.weight"] = torch.zeros(1)  # torchvision's file holds more than LPIPS uses
    torch.save(weights, tmp_path / "vgg16.pth")
    monkeypatch.setenv(VGG16_FILE.variable, str(tmp_path / "vgg16.pth"))
    again = LPIPSDistance()
    assert again.fingerprint == lpips.fingerprint
    torch.testing.assert_close(again(frames(), frames(seed=1)), lpips(frames(), frames(seed=1)))


def test_without_weights_or_network_the_error_says_which_file_goes_where(tmp_path, monkeypatch):
    def no_route(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", no_route)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no route to host") as error:
        LPIPSDistance()
    for part in (
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "SHA-256 397923af…",
        str(tmp_path / "checkpoints"),
        VGG16_FILE.variable,
    ):
        assert part in str(error.value)


def test_a_path_without_a_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.pth; expected is vgg16-397923af\.pth"):
        LPIPSDistance(tmp_path / "nothing.pth")


def test_weights_of_another_network_are_refused(tmp_path):
    save_file({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "alexnet.safetensors")
    with pytest.raises(ValueError, match="not those of torchvision's VGG16: 26 of 26 are missing"):
        LPIPSDistance(tmp_path / "alexnet.safetensors")


def test_a_file_in_torchvisions_place_is_found_without_a_download(lpips, vgg16_file, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    assert models.VGG16_Weights.IMAGENET1K_V1.url == VGG16_FILE.mirrors[0]
    assert VGG16_FILE.cached_at == tmp_path / "checkpoints" / models.VGG16_Weights.IMAGENET1K_V1.url.split("/")[-1]
    VGG16_FILE.cached_at.parent.mkdir()
    torch.save(load_file(vgg16_file), VGG16_FILE.cached_at)
    assert LPIPSDistance().fingerprint == lpips.fingerprint


@pytest.mark.parametrize("name", ["vgg16.pth", "vgg16.safetensors"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"half a download")
    with pytest.raises(ValueError, match=f"{name} cannot be read as"):
        LPIPSDistance(tmp_path / name)


def test_frames_of_many_clips_are_compared_some_at_a_time(lpips, monkeypatch):
    """A frame of 128 × 128 takes 16 MB, and a benchmark compares 512 of them."""
    video, other = (
        frames(24).unflatten(0, (2, 12)).transpose(1, 2),
        frames(24, seed=1).unflatten(0, (2, 12)).transpose(1, 2),
    )
    expected, seen, features = lpips.video_distance(video, other), [], LPIPSDistance.features
    monkeypatch.setattr(lpips_module, "PIXELS_PER_PASS", 10 * 32 * 48, raising=False)
    monkeypatch.setattr(LPIPSDistance, "features", lambda self, x: seen.append(len(x)) or features(self, x))
    torch.testing.assert_close(lpips.video_distance(video, other), expected)
    assert seen == [10, 10, 10, 10, 4, 4]
    seen.clear()
    lpips.video_distance(video.requires_grad_(), other)
    assert seen == [24, 24]
