"""Where models are found: in folders, pipelines, runs and their snapshots, on a hub, in the box."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import _http as http_utils
from scored_models import make_models
from tiny_models import tiny_tokenizer

from evagen.ar_model import VideoGenerator
from evagen.errors import UserError
from evagen.kernels import sources
from evagen.kernels.sources import Located, locate
from evagen.models.loading import fingerprint, load_model
from evagen.sampling.pipeline import VideoPipeline
from evagen.tokenizer import Router, VideoTokenizer


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = make_models(tmp_path_factory.mktemp("sources"))
    VideoPipeline.of(root / "generator", root / "tokenizer", root / "router").save_pretrained(root / "pipeline")
    return root


@pytest.fixture(scope="module")
def wanted(root) -> str:
    return fingerprint(load_model(VideoTokenizer, root / "tokenizer"))


def found(source: str | Path) -> str:
    return fingerprint(VideoTokenizer.from_pretrained(source))


def test_a_folder_and_a_part_of_a_pipeline_are_the_same_model(root, wanted):
    assert found(root / "tokenizer") == found(root / "pipeline") == wanted
    assert fingerprint(load_model(VideoTokenizer, root / "pipeline")) == wanted
    assert isinstance(Router.from_pretrained(root / "pipeline"), Router)
    VideoPipeline.of(None, root / "tokenizer").save_pretrained(root / "alone")
    with pytest.raises(UserError, match="alone has no router; it has: tokenizer"):
        load_model(Router, root / "alone")


def test_a_run_and_its_snapshots(root, wanted, tmp_path, caplog):
    run = tmp_path / "run"
    for step in (500, 12_000):
        shutil.copytree(root / "tokenizer", run / "snapshots" / f"step_{step:08d}")
    assert locate(run, "tokenizer") == Located(str(run / "snapshots" / "step_00012000"))
    assert "has not finished: taking its snapshot step_00012000" in caplog.text
    assert found(f"{run}@500") == found(run) == wanted
    with pytest.raises(FileNotFoundError, match=r"has no snapshot 600; it has: 500, 12000$"):
        locate(f"{run}@600", "tokenizer")
    with pytest.raises(UserError, match="has no snapshot best"):
        load_model(VideoTokenizer, f"{run}@best")
    shutil.copytree(root / "tokenizer", run / "best")
    assert found(f"{run}@best") == wanted
    shutil.copytree(root / "tokenizer", run, dirs_exist_ok=True)  # finished
    assert locate(run, "tokenizer") == Located(str(run))


def test_names_in_the_box(root, wanted, tmp_path, monkeypatch):
    (tmp_path / "box").mkdir()
    shutil.copytree(root / "pipeline", tmp_path / "box" / "tiny")
    monkeypatch.setattr(sources, "BOX", tmp_path / "box")
    assert list(sources.box()) == ["evagen/tiny"]
    assert found("evagen/tiny") == wanted
    pipeline = VideoPipeline.from_pretrained("evagen/tiny")
    assert fingerprint(pipeline.tokenizer) == wanted
    assert pipeline(["Boxing"]).frames.shape == (1, 16, 32, 32, 3)
    with pytest.raises(UserError, match=r"no model evagen/tin in the box; there are: evagen/tiny$"):
        load_model(VideoTokenizer, "evagen/tin")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"none of the models in the box: evagen/tiny$"):
        VideoPipeline.from_pretrained("somebody/nothing")
    with pytest.raises(UserError, match=r"none of the models in the box: evagen/tiny$"):
        load_model(VideoTokenizer, "somebody/nothing")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache in the hub's layout, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(hub: Path, source: Path, name: str, revision: str, commit: str) -> Path:
    folder = hub / f"models--{name.replace('/', '--')}"
    shutil.copytree(source, folder / "snapshots" / commit)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    return folder / "snapshots" / commit


@pytest.mark.parametrize("what", ["tokenizer", "pipeline"])
def test_a_hub_id_of_a_model_or_of_a_pipeline(root, wanted, hub, what):
    put(hub, root / what, "somebody/video", "main", "0" * 40)
    assert found("somebody/video") == wanted
    assert fingerprint(load_model(VideoTokenizer, "somebody/video")) == wanted


def test_a_hub_id_of_a_pipeline_is_all_its_parts(root, wanted, hub):
    put(hub, root / "pipeline", "somebody/video", "main", "0" * 40)
    pipeline = VideoPipeline.from_pretrained("somebody/video")
    assert fingerprint(pipeline.tokenizer) == wanted
    for part, kind in ((pipeline.router, Router), (pipeline.generator, VideoGenerator)):
        assert fingerprint(kind.from_pretrained("somebody/video")) == fingerprint(part)


@pytest.mark.parametrize("kind", [VideoTokenizer, VideoPipeline])
@pytest.mark.parametrize(("name", "network"), [("nowhere", True), ("somebody/video", False)])
def test_the_hub_is_not_asked_for_a_name_without_an_owner_nor_without_a_network(hub, monkeypatch, kind, name, network):
    asked = []

    def address(host: str, port: None) -> list:
        if not network:
            raise OSError("Name or service not known")
        return []

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(http_utils, "get_session", lambda: asked.append("asked"))
    monkeypatch.setattr(sources.socket, "getaddrinfo", address)
    monkeypatch.setattr(sources, "getproxies", dict)
    with pytest.raises(UserError, match=f"at {name}"):
        VideoPipeline.from_pretrained(name) if kind is VideoPipeline else load_model(kind, name)
    assert not asked


def test_a_hub_behind_a_proxy_or_with_a_known_address_is_asked(monkeypatch):
    monkeypatch.setattr(sources.socket, "getaddrinfo", lambda *_: (_ for _ in ()).throw(OSError("unknown")))
    monkeypatch.setattr(sources, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert not sources.is_out_of_reach("somebody/video")
    monkeypatch.setattr(sources, "getproxies", dict)
    assert sources.is_out_of_reach("somebody/video")
    monkeypatch.setattr(sources.socket, "getaddrinfo", lambda *_: [])
    assert not sources.is_out_of_reach("somebody/video")


def test_a_revision_of_a_hub_id(root, wanted, hub, tmp_path):
    """Also where one revision is a single model and another a pipeline."""
    other = tiny_tokenizer(seed=1, num_frames=16)
    other.save_pretrained(tmp_path / "other")
    put(hub, tmp_path / "other", "somebody/video", "main", "0" * 40)
    put(hub, root / "pipeline", "somebody/video", "v2", "1" * 40)
    assert found("somebody/video") == fingerprint(other)
    assert fingerprint(VideoTokenizer.from_pretrained("somebody/video", revision="v2")) == wanted
    assert fingerprint(VideoPipeline.from_pretrained("somebody/video", revision="v2").tokenizer) == wanted
    with pytest.raises(OSError, match="somebody/video"):
        VideoTokenizer.from_pretrained("somebody/video", revision="v3")


@pytest.mark.parametrize("source", ["runs/quickstart/fnal", "/tmp/nothing", "runs/fnal"])
def test_a_folder_that_is_not_there_is_told_as_one(source, monkeypatch):
    monkeypatch.setattr(sources, "_hub_is_unknown", lambda: True)
    with pytest.raises(OSError, match=f"no model at {source}: no such folder here, and no hub id within reach"):
        VideoTokenizer.from_pretrained(source)


def test_a_variant_and_a_dtype_are_diffusers_own(root, tmp_path):
    half = VideoTokenizer.from_pretrained(root / "tokenizer").half()
    half.save_pretrained(tmp_path / "tokenizer", variant="fp16")
    wanted = fingerprint(half.float())
    assert fingerprint(VideoTokenizer.from_pretrained(tmp_path / "tokenizer", variant="fp16")) == wanted
    model = VideoTokenizer.from_pretrained(tmp_path / "tokenizer", variant="fp16", torch_dtype=torch.float16)
    assert {each.dtype for each in model.parameters()} == {torch.float16}
    with pytest.raises(OSError, match="no file named"):
        VideoTokenizer.from_pretrained(tmp_path / "tokenizer")


def test_a_saved_model_does_not_say_on_whose_machine_it_was_loaded(root, tmp_path):
    VideoPipeline.from_pretrained(root / "pipeline").save_pretrained(tmp_path / "again")
    for path in (tmp_path / "again").rglob("*.json"):
        assert str(root) not in path.read_text()


def test_weights_stored_in_half_precision_are_loaded_in_fp32(root, tmp_path):
    half = VideoTokenizer.from_pretrained(root / "tokenizer").to(torch.float16)
    half.save_pretrained(tmp_path / "half")
    model = load_model(VideoTokenizer, tmp_path / "half")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(
        dict(model.named_parameters()), {n: p.float() for n, p in half.named_parameters()}, rtol=0, atol=0
    )
