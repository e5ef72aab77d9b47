"""Where models are found: in folders, pipelines, runs and their snapshots, on a hub, in the box."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from scored_models import make_models

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
    with pytest.raises(UserError, match=r"none of the models in the box: evagen/tiny$"):
        load_model(VideoTokenizer, "somebody/nothing")


@pytest.mark.parametrize("what", ["tokenizer", "pipeline"])
def test_a_hub_id_of_a_model_or_of_a_pipeline(root, wanted, tmp_path, monkeypatch, what):
    """From a cache in the hub's layout, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit = "0" * 40
    folder = tmp_path / "models--somebody--video"
    shutil.copytree(root / what, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    assert found("somebody/video") == wanted


def test_weights_stored_in_half_precision_are_loaded_in_fp32(root, tmp_path):
    half = VideoTokenizer.from_pretrained(root / "tokenizer").to(torch.float16)
    half.save_pretrained(tmp_path / "half")
    model = load_model(VideoTokenizer, tmp_path / "half")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(
        dict(model.named_parameters()), {n: p.float() for n, p in half.named_parameters()}, rtol=0, atol=0
    )
