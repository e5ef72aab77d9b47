"""`evagen push`, and diffusers' own `push_to_hub`: what is pushed is loaded again by its name."""

import json
import shutil

import pytest
import torch
from huggingface_hub import ModelCard, constants, utils
from huggingface_hub.utils import _http
from pretended_hub import pretend
from scored_models import make_models
from typer.testing import CliRunner

from evagen import VideoPipeline, cli
from evagen.commands import export_pipeline
from evagen.commands.push import main
from evagen.errors import UserError
from evagen.models.loading import fingerprint, load_model
from evagen.tokenizer import VideoTokenizer


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = make_models(tmp_path_factory.mktemp("push"))
    sources = {part: str(root / part) for part in ("tokenizer", "router", "generator")}
    export_pipeline.main(root / "pipeline", **sources)
    (root / "pipeline" / "clips.png").write_bytes(b"a picture")
    (root / "pipeline" / ".hidden").touch()
    return root


@pytest.fixture
def hub(tmp_path, monkeypatch):
    factory = _http._GLOBAL_CLIENT_FACTORY
    yield pretend(tmp_path / "hub", monkeypatch)
    utils.set_client_factory(factory)


def test_a_pushed_pipeline_is_loaded_by_its_name(root, hub, monkeypatch):
    done = CliRunner().invoke(cli.app, ["push", str(root / "pipeline"), "somebody/games", "--private"])
    assert done.output.splitlines()[-1] == "https://huggingface.co/somebody/games"
    assert hub.visibility == "private"
    card = (hub.files_of("somebody/games") / "README.md").read_text()
    assert 'MODEL="somebody/games"' in card
    assert 'model = "somebody/games"' in card
    assert str(root) not in card
    assert (hub.files_of("somebody/games") / "clips.png").exists()
    assert not (hub.files_of("somebody/games") / ".hidden").exists()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    pushed, own = (VideoPipeline.from_pretrained(name) for name in ("somebody/games", root / "pipeline"))
    assert torch.equal(pushed("Boxing", seed=1).tokens[0].codes, own("Boxing", seed=1).tokens[0].codes)
    assert fingerprint(load_model(VideoTokenizer, "somebody/games")) == fingerprint(own.tokenizer)


def test_of_a_run_only_the_model_is_pushed_and_a_card_is_written(road, hub, monkeypatch):
    values = json.loads((road / "final" / "config.json").read_text()) | {"_name_or_path": "/home/somebody"}
    (road / "final" / "config.json").write_text(json.dumps(values))
    assert main(road / "final", "somebody/tokenizer") == "https://huggingface.co/somebody/tokenizer"
    files = hub.files_of("somebody/tokenizer")
    assert {each.name for each in files.iterdir()} == {
        "README.md",
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    assert "/home/somebody" not in (files / "config.json").read_text()
    card = ModelCard.load(files / "README.md")
    assert card.data.library_name == "evagen"
    assert 'MODEL="somebody/tokenizer"' in card.text
    assert "| steps | 6 |" in card.text
    assert not (road / "final" / "README.md").exists()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    wanted = fingerprint(VideoTokenizer.from_pretrained(road / "final"))
    assert fingerprint(VideoTokenizer.from_pretrained("somebody/tokenizer")) == wanted


def test_what_cannot_be_pushed_is_explained(root, hub, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, repo, message in (
        (tmp_path / "empty", "somebody/x", "holds no model of evagen: give what `evagen export pipeline`"),
        (tmp_path / "nowhere", "somebody/x", "holds no model of evagen"),
        (root / "pipeline", "some body/x", "some body/x cannot be the name of a repository"),
        (root / "pipeline", "evagen/arcade", "mean the models in the box"),
    ):
        with pytest.raises(UserError, match=message):
            main(folder, repo)
    for status, message in (
        (401, "needs a login: `hf auth login`"),
        (403, "does not let you write to somebody/x"),
        (400, "the hub refused somebody/x"),
        (None, "the hub cannot be reached .*nothing was pushed"),
    ):
        hub.status = status
        with pytest.raises(UserError, match=message):
            main(root / "pipeline", "somebody/x")
    assert not hub.cache.exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("router/config.json", lambda old: old[:-9], "router/config.json cannot be read: "),
        (
            "router/config.json",
            lambda old: old.replace(b"levels", b"lvls"),
            "router is damaged: levels: Field required",
        ),
        ("router/config.json", lambda old: b"[]", "should be an object with names"),
        ("model_index.json", lambda old: old[:-9], "model_index.json cannot be read: "),
        ("router/diffusion_pytorch_model.safetensors", lambda old: old[:99], "router is damaged: .*header"),
        ("README.md", lambda old: b"caf\xe9", "README.md is not UTF-8 .*: save it as such"),
    ],
)
def test_a_damaged_folder_is_told_in_words(root, hub, tmp_path, name, change, message):
    damaged = shutil.copytree(root / "pipeline", tmp_path / "damaged") / name
    damaged.write_bytes(change(damaged.read_bytes()))
    with pytest.raises(UserError, match=message):
        main(tmp_path / "damaged", "somebody/x")


def test_offline_is_said(root, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"offline mode is enabled.*HF_HUB_OFFLINE"):
        main(root / "pipeline", "somebody/x")


def test_push_to_hub_of_diffusers_works_too(root, hub, monkeypatch):
    pipeline = VideoPipeline.from_pretrained(root / "pipeline")
    pipeline.push_to_hub("somebody/whole")
    pipeline.tokenizer.push_to_hub("somebody/part")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    wanted = fingerprint(pipeline.tokenizer)
    assert fingerprint(VideoPipeline.from_pretrained("somebody/whole").tokenizer) == wanted
    assert fingerprint(VideoTokenizer.from_pretrained("somebody/part")) == wanted
    assert (hub.files_of("somebody/whole") / "pipeline.py").exists()
