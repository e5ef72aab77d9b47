"""Detectors: the I3D file's checksum and calls, on a scripted stub of its signature; VideoMAE of random weights; the
preprocessing of clips for them. Nothing is downloaded but from this machine."""

# isort: split
import hashlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
import torch.nn.functional as F
from stub_i3d import StubI3D
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEModel, ViTConfig, ViTModel

from evagen.errors import UserError
from evagen.eval import i3d, reconstruction
from evagen.eval.detectors import ImageNetworkDetector, load_detector
from evagen.eval.frechet import FrechetVideoDistance
from evagen.eval.i3d import I3D_FILE, I3DDetector
from evagen.eval.network_input import NetworkInput, PreparedDetector
from evagen.eval.perceptual import PerceptualDistance
from evagen.eval.protocols import get_protocol
from evagen.eval.videomae import VideoMAEDetector
from evagen.eval.weight_files import WeightFile
from evagen.kernels import pretrained
from evagen.kernels.frozen import Frozen
from evagen.models.networks import choose_detector


@pytest.fixture(scope="module")
def stub(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("i3d") / "i3d_torchscript.pt"
    torch.jit.script(StubI3D()).save(str(path))
    return path


@pytest.fixture(scope="module")
def sha256(stub) -> str:
    return hashlib.sha256(stub.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.delenv(I3D_FILE.variable, raising=False)


@pytest.fixture
def served(tmp_path):
    """A folder and the address that it is served at."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def clips(count: int = 2, frames: int = 16, size: int = 24, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, frames, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def never_load(*_, **__):
    raise AssertionError("an unchecked file was loaded")


def test_floats_go_in_as_larp_calls_it(stub, sha256):
    detector = I3DDetector(stub, sha256)
    features = detector(clips())
    assert features.shape == (2, 400)
    assert features.dtype == torch.float32
    assert features[0, :3].tolist() == [0, 1, 1]
    torch.testing.assert_close(features, StubI3D()(clips(), False, True, True))


def test_bytes_go_in_as_styleganv_calls_it(stub, sha256):
    detector = PreparedDetector(I3DDetector(stub, sha256), get_protocol("styleganv-fvd2048-16f").network_input)
    features = detector(clips())
    assert features[0, :3].tolist() == [1, 1, 1]
    levels = ((clips() + 1) * 127.5).round().to(torch.uint8)
    torch.testing.assert_close(features, StubI3D()(levels, True, True, True))


def test_cdfvd_resizes_before_the_network(stub, sha256):
    detector = PreparedDetector(I3DDetector(stub, sha256), get_protocol("cdfvd").network_input)
    levels = ((clips() + 1) / 2 * 254).byte().float()
    features = detector((levels + 0.9) / 127.5 - 1)  # what is beyond the level is cut off
    assert features[0, :3].tolist() == [0, 0, 1]
    resized = torch.stack([F.interpolate(clip.transpose(0, 1), (224, 224), mode="bilinear") for clip in levels])
    torch.testing.assert_close(features, StubI3D()((2 * resized / 255 - 1).transpose(1, 2), False, False, True))


def test_frame_prediction_is_scored_at_64_pixels(stub, sha256):
    detector = PreparedDetector(I3DDetector(stub, sha256), get_protocol("larp-k600-frame-prediction").network_input)
    large = clips(size=128)
    small = torch.stack(
        [F.interpolate(clip.transpose(0, 1), (64, 64), mode="bilinear", antialias=True) for clip in large]
    ).transpose(1, 2)
    torch.testing.assert_close(detector(large), StubI3D()(small, False, True, True))


def test_fvd_of_the_stub_reaches_the_metric(stub, sha256):
    detector = load_detector(get_protocol("larp-ucf101-recon"), stub, sha256)
    assert (detector.num_features, detector.fingerprint) == (400, sha256)
    metric = FrechetVideoDistance(detector)
    metric.update(clips(4), real=True)
    metric.update(clips(4, seed=1), real=False)
    with pytest.warns(UserWarning, match="4 real and 4 generated videos; the covariance of 400 features"):
        assert metric.compute() > 0


def test_another_file_is_not_called_i3d(stub, sha256, monkeypatch):
    assert I3DDetector(stub, sha256).name == f"torchscript-{sha256[:8]}"
    assert I3DDetector(stub, sha256.upper()).fingerprint == sha256
    published = WeightFile(I3D_FILE.name, I3D_FILE.variable, sha256, 51, ())
    monkeypatch.setattr(i3d, "I3D_FILE", published)
    assert I3DDetector(stub).name == "i3d-kinetics400-torchscript"


def test_a_wrong_checksum_is_refused_before_loading(stub, sha256, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", never_load)
    with pytest.raises(ValueError, match=f"SHA-256 is {sha256}, expected is {I3D_FILE.sha256}"):
        I3DDetector(stub)
    I3D_FILE.cached_at.parent.mkdir(parents=True)
    I3D_FILE.cached_at.write_bytes(stub.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"was not loaded: .* \(1,000 bytes"):
        I3DDetector()


def test_the_file_is_found_by_environment_variable(stub, sha256, monkeypatch):
    monkeypatch.setenv(I3D_FILE.variable, str(stub))
    assert I3DDetector(sha256=sha256).fingerprint == sha256
    monkeypatch.setenv(I3D_FILE.variable, "/nowhere/i3d.pt")
    with pytest.raises(FileNotFoundError, match=r"no file /nowhere/i3d\.pt; expected is i3d_torchscript\.pt"):
        I3DDetector(sha256=sha256)


def test_no_file_and_no_network_say_which_file_goes_where(monkeypatch):
    unreachable = WeightFile("i3d.pt", "EVAGEN_I3D", "0" * 64, 51, ("http://127.0.0.1:1/a", "http://127.0.0.1:1/b"))
    monkeypatch.setattr(i3d, "I3D_FILE", unreachable)
    with pytest.raises(FileNotFoundError) as error:
        I3DDetector()
    for said in (*unreachable.mirrors, str(unreachable.cached_at), "EVAGEN_I3D", "0" * 64, "51 MB", "Fetch i3d.pt"):
        assert said in str(error.value)
    with pytest.raises(FileNotFoundError, match="downloading is switched off"):
        I3DDetector(download=False)


def test_a_download_takes_the_first_good_mirror_and_is_kept(served):
    folder, address = served
    (folder / "false.pt").write_bytes(b"something else")
    (folder / "true.pt").write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    mirrors = [f"{address}/{name}.pt" for name in ("missing", "false", "true")]
    file = WeightFile("weights.pt", "EVAGEN_NOT_SET", sha256, 1, mirrors)
    assert file.read() == b"weights"
    (folder / "true.pt").unlink()
    assert file.read() == b"weights"  # from the cache
    assert list(file.cached_at.parent.iterdir()) == [file.cached_at]


def test_a_download_of_wrong_checksum_leaves_nothing_behind(served):
    folder, address = served
    (folder / "false.pt").write_bytes(b"something else")
    file = WeightFile("weights.pt", "EVAGEN_NOT_SET", "0" * 64, 1, [f"{address}/false.pt"])
    both = f"SHA-256 {hashlib.sha256(b'something else').hexdigest()}, expected is {'0' * 64}"
    with pytest.raises(FileNotFoundError, match=both):
        file.read()
    assert list(file.cached_at.parent.iterdir()) == []


def test_the_first_digits_of_a_checksum_are_enough_for_a_download(served):
    folder, address = served
    (folder / "true.pt").write_bytes(b"weights")
    first = hashlib.sha256(b"weights").hexdigest()[:8]
    file = WeightFile("weights.pt", "EVAGEN_NOT_SET", first, 1, [f"{address}/true.pt"])
    assert file.find().read_bytes() == b"weights"
    with pytest.raises(FileNotFoundError, match="expected is 00000000…"):
        WeightFile("other.pt", "EVAGEN_NOT_SET", "0" * 8, 1, [f"{address}/true.pt"]).find()


def test_too_few_frames_are_refused_with_the_figure(stub, sha256):
    with pytest.raises(ValueError, match=r"at least 10 frames, which I3D cannot do without, not \(2, 3, 9, 24, 24\)"):
        I3DDetector(stub, sha256)(clips(frames=9))
    assert I3DDetector(stub, sha256)(clips(frames=10)).shape == (2, 400)


def test_a_videomae_is_not_downloaded_where_nothing_may_be(monkeypatch):
    asked = []

    def config_of(source, local_files_only):
        asked.append(local_files_only)
        raise OSError("not here")

    monkeypatch.setattr(pretrained, "is_out_of_reach", lambda source: False)
    monkeypatch.setattr(VideoMAEConfig, "get_config_dict", config_of)
    for download in (True, False):
        with pytest.raises(UserError, match="no VideoMAEModel at MCG-NJU"):
            choose_detector(get_protocol("cdfvd"), "videomae", None, None, download)
    assert asked == [False, True]


def test_autocast_and_training_mode_change_nothing(stub, sha256):
    detector = I3DDetector(stub, sha256)
    expected = detector(clips())
    detector.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(detector(clips()), expected)
    assert not list(detector.parameters())
    assert not detector.state_dict()


def test_a_detector_of_three_attributes_takes_a_protocols_preprocessing():
    class Means(torch.nn.Module):
        name, fingerprint, num_features = "means", "1", 3

        def forward(self, videos):
            return videos.mean((2, 3, 4))

    detector = PreparedDetector(Means(), get_protocol("larp-ucf101-recon").network_input)
    assert (detector.name, detector.num_features) == ("means", 3)
    assert detector(clips(2)).shape == (2, 3)
    with pytest.raises(ValueError, match=r"values in \[-1, 1\]"):
        detector(clips(2) * 127.5 + 127.5)


def test_the_offline_network_takes_the_same_preprocessing():
    detector = ImageNetworkDetector()
    clip = clips(frames=3, size=32)
    rounded = ((clip + 1) * 127.5).round()
    through = PreparedDetector(detector, NetworkInput(rounding="nearest"))
    torch.testing.assert_close(through(clip), detector(rounded / 127.5 - 1))
    assert (through.name, through.fingerprint) == (detector.name, detector.fingerprint)
    with pytest.raises(ValueError, match=r"floating point in .* not torch\.uint8"):
        through(rounded.to(torch.uint8))


@pytest.fixture(scope="module")
def tiny_videomae() -> VideoMAEConfig:
    return VideoMAEConfig(
        image_size=32, patch_size=16, num_frames=4, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, num_labels=5,
    )  # fmt: skip


def test_videomae_is_loaded_from_a_folder(tiny_videomae, tmp_path):
    torch.manual_seed(0)
    network = VideoMAEForVideoClassification(tiny_videomae).eval()
    nn.init.normal_(network.fc_norm.weight)
    network.save_pretrained(tmp_path / "finetuned")
    network.videomae.save_pretrained(tmp_path / "pretrained")
    detector = VideoMAEDetector(tmp_path / "finetuned")
    video = clips(frames=4, size=48)
    features = detector(video)
    assert features.shape == (2, detector.num_features) == (2, 24)
    assert (detector.name, detector.min_frames, len(detector.fingerprint)) == ("videomae-2x24", 4, 16)
    torch.testing.assert_close(network.classifier(features), network(imagenet(video, 32)).logits)
    plain = VideoMAEDetector(tmp_path / "pretrained")
    assert plain.fingerprint != detector.fingerprint
    torch.testing.assert_close(network.fc_norm(plain(video)), features)
    assert not list(detector.parameters())
    assert not detector.state_dict()
    with pytest.raises(ValueError, match="clips of 4 frames, not 6"):
        detector(clips(frames=6))


def test_networks_behind_metrics_and_ssim_compute_in_fp32(stub, sha256, tiny_videomae, tmp_path, monkeypatch):
    """On a GPU their convolutions would be in TF32, which is another network."""
    seen, look = [], Frozen.forward

    def watched(call):
        def watching(*args, **kwargs):
            seen.append((torch.backends.cudnn.conv.fp32_precision, torch.is_autocast_enabled("cpu")))
            return call(*args, **kwargs)

        return watching

    monkeypatch.setattr(Frozen, "forward", watched(look))
    ssim_of_images = reconstruction.structural_similarity_index_measure
    monkeypatch.setattr(reconstruction, "structural_similarity_index_measure", watched(ssim_of_images))
    VideoMAEModel(tiny_videomae).save_pretrained(tmp_path)
    perceptual, video = PerceptualDistance(), clips(1, frames=10, size=32)
    detectors = (I3DDetector(stub, sha256), ImageNetworkDetector(), VideoMAEDetector(tmp_path))
    with torch.autocast("cpu", torch.bfloat16):
        for detector in detectors:
            detector(video[:, :, : 4 if isinstance(detector, VideoMAEDetector) else None])
        reconstruction.ssim(video, video)
        perceptual.video_distance(video, video)
        assert seen == [("ieee", False)] * 6
        perceptual.is_exact = False  # of a loss
        perceptual.video_distance(video, video)
        assert seen[6:] == [("tf32", True)] * 2


def imagenet(video: Tensor, size: int) -> Tensor:
    """B C F H W in [-1, 1] → B F C size size as VideoMAE's own preprocessing has it."""
    frames = F.interpolate(video.transpose(1, 2).flatten(0, 1), (size, size), mode="bilinear", antialias=True)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    frames = (frames / 2 + 0.5 - mean[:, None, None]) / deviation[:, None, None]
    return frames.unflatten(0, (len(video), -1))


def test_other_networks_are_no_videomae(tiny_videomae, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no VideoMAEModel at .*nowhere"):
        VideoMAEDetector(tmp_path / "nowhere")
    ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=32)).save_pretrained(
        tmp_path / "vit"
    )
    with pytest.raises(ValueError, match="of type vit"):
        VideoMAEDetector(tmp_path / "vit")
    VideoMAEModel(tiny_videomae).save_pretrained(tmp_path / "shorter")
    tiny_config = (tmp_path / "shorter" / "config.json").read_text()
    (tmp_path / "shorter" / "config.json").write_text(
        tiny_config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    with pytest.raises(ValueError, match="not those of a VideoMAEModel: 15 are missing"):
        VideoMAEDetector(tmp_path / "shorter")
