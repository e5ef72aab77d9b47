"""Folders of models that somebody else made: absurd ones are refused in words before memory is taken, and no code in
them runs, under whatever name it lies there."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_generator, tiny_router, tiny_tokenizer

from evagen.ar_model import VideoGenerator
from evagen.ar_model.llama import to_llama
from evagen.commands.import_llama import main as import_llama
from evagen.errors import UserError
from evagen.eval import LPIPSDistance, VideoMAEDetector, get_protocol, load_detector
from evagen.models.larp import load_larp
from evagen.models.loading import load_model
from evagen.sampling.pipeline import VideoPipeline
from evagen.tokenizer import Router, VideoTokenizer

WEIGHTS = "diffusion_pytorch_model.safetensors"
KINDS = {"tokenizer": VideoTokenizer, "router": Router, "generator": VideoGenerator}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("saved")
    for name, model in (("tokenizer", tiny_tokenizer()), ("router", tiny_router()), ("generator", tiny_generator())):
        model.save_pretrained(root / name)
    to_llama(tiny_generator()).save_pretrained(root / "llama")
    VideoPipeline.of(None, root / "tokenizer", root / "router").save_pretrained(root / "pipeline")
    return root


@pytest.fixture
def folders(saved, tmp_path) -> Path:
    """Copies, to be damaged."""
    shutil.copytree(saved, tmp_path / "copies")
    return tmp_path / "copies"


def change(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("tokenizer", {"codebook_size": 10**12}, r"quantizer.codebook is \(64, 4\) in place of \(1000000000000, 4\)"),
        ("tokenizer", {"encoder_width": 10**6}, r"in place of \(1000000"),
        ("tokenizer", {"encoder_depth": 10**9}, "encoder_depth=1000000000: numbers from 0 to 1,024"),
        ("tokenizer", {"levels": [2, 4, 10**9]}, "levels=1000000000: numbers from 0 to 1,048,576"),
        ("tokenizer", {"resolution": 10**7}, "resolution=10000000"),
        ("tokenizer", {"num_frames": -4}, "num_frames=-4"),
        ("tokenizer", {"temporal_patch": 0}, "no VideoTokenizer can be made with the settings in config.json"),
        ("tokenizer", {"quantizer": "fsq", "codebook_size": 2**39 + 7, "code_width": 6}, "possible|Possible"),
        ("tokenizer", {"encoder_depth": 2}, r"encoder.layers.1.* is missing.* and \d+ more; put back"),
        ("tokenizer", {"levels": 4}, "levels: Input should be a valid list"),
        ("tokenizer", {"levels": ["2", "4", "8"]}, "levels.0: Input should be a valid integer"),
        ("tokenizer", {"num_frames": True}, "num_frames: Input should be a valid integer"),
        ("tokenizer", {"finest_blocks": None}, "finest_blocks: Input should be a valid number"),
        ("tokenizer", {"quantization_config": {"quant_method": "bitsandbytes"}}, "names a quantization_config"),
        ("tokenizer", {"_class_name": "Router"}, "holds a Router, a VideoTokenizer is needed"),
        ("router", {"num_frames": 2**20}, "no Router can be made|in place of|is missing"),
        ("router", {"width": 10**6}, "in place of"),
        ("generator", {"codebook_size": 10**12}, "in place of"),
        ("generator", {"class_names": "ab"}, "class_names: 'str' instances are not allowed"),
        ("generator", {"levels": [5, 3, 1]}, "strictly increasing"),
        ("generator", {"rope_theta": 0}, "must be positive"),
    ],
)
def test_settings_that_cannot_be_are_refused(folders, part, changes, message):
    change(folders / part / "config.json", **changes)
    with pytest.raises(UserError, match=message):
        load_model(KINDS[part], folders / part)
    with pytest.raises(ValueError, match=r"config\.json"):
        KINDS[part].from_pretrained(folders / part)


@pytest.mark.parametrize("text", ["", "[1]", "[" * 10**5, '{"levels": [2], "levels": [4]}', '{"levels": NaN}', "\xff"])
def test_a_config_that_is_no_json_object_is_refused(folders, text):
    (folders / "tokenizer" / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"VideoTokenizer at .* cannot be loaded"):
        load_model(VideoTokenizer, folders / "tokenizer")


def test_weights_that_are_not_finite_are_refused(folders):
    weights = load_file(folders / "tokenizer" / WEIGHTS)
    weights["to_code.bias"][0] = float("nan")
    save_file(weights, folders / "tokenizer" / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match=r"to_code.bias holds numbers that are not finite"):
        load_model(VideoTokenizer, folders / "tokenizer")
    with pytest.raises(ValueError, match="not finite"):
        VideoTokenizer.from_pretrained(folders / "tokenizer")


class Mark:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(params=["pickle", "torch"])
def mark(request, tmp_path):
    """What would leave it: bytes; and where."""
    path = tmp_path / "mark"
    if request.param == "pickle":
        content = pickle.dumps(Mark(path))
    else:
        torch.save({"weight": Mark(path)}, tmp_path / "content")
        content = (tmp_path / "content").read_bytes()
    yield content
    assert not path.exists(), "code in a model's folder ran"


def test_what_the_mark_would_do(tmp_path):
    pickle.loads(pickle.dumps(Mark(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "name",
    [
        "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin", "pytorch_model.bin", "model.pt",
        "diffusion_pytorch_model.pkl", "model.pth", "model.ckpt", WEIGHTS, "index",
    ],
)  # fmt: skip
def test_a_pickle_in_a_model_never_runs(folders, mark, name):
    tokenizer, pipeline = folders / "tokenizer", folders / "pipeline"
    for folder in (tokenizer, pipeline / "tokenizer"):
        (folder / WEIGHTS).unlink()
        if name == "index":
            (folder / "diffusion_pytorch_model.bin").write_bytes(mark)
            table = {"metadata": {"total_size": 4}, "weight_map": {"to_code.bias": "diffusion_pytorch_model.bin"}}
            (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(table))
        else:
            (folder / name).write_bytes(mark)
    told = {WEIGHTS: "is damaged", "index": "should name safetensors files beside it"}.get(name, "convert it: MODEL")
    with pytest.raises(UserError, match=told):
        load_model(VideoTokenizer, tokenizer)
    for options in ({}, {"variant": "fp16"}, {"use_safetensors": True}, {"use_safetensors": False}):
        with pytest.raises((OSError, ValueError, RuntimeError, pickle.UnpicklingError)):
            VideoTokenizer.from_pretrained(tokenizer, **options)
    with pytest.raises(UserError):
        VideoPipeline.from_pretrained(pipeline)


def test_a_pickle_of_weights_alone_is_read_when_it_is_asked_for(folders):
    folder = folders / "tokenizer"
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(weights, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"use_safetensors=False\).save_pretrained"):
        load_model(VideoTokenizer, folder)
    VideoTokenizer.from_pretrained(folder, use_safetensors=False).save_pretrained(folder)
    assert load_model(VideoTokenizer, folder).state_dict().keys() == weights.keys()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "index"])
def test_a_pickle_in_a_network_of_transformers_never_runs(folders, mark, name):
    llama = folders / "llama"
    (llama / "model.safetensors").unlink()
    if name == "index":
        (llama / "pytorch_model.bin").write_bytes(mark)
        table = {"metadata": {}, "weight_map": {"lm_head.weight": "pytorch_model.bin"}}
        (llama / "model.safetensors.index.json").write_text(json.dumps(table))
    else:
        (llama / name).write_bytes(mark)
    with pytest.raises(UserError, match="cannot be imported"):
        import_llama(llama, folders / "out")
    change(llama / "config.json", model_type="videomae", architectures=["VideoMAEModel"])
    with pytest.raises((FileNotFoundError, ValueError)):
        VideoMAEDetector(llama)
    (folders / "larp").mkdir()
    (folders / "larp" / "model.safetensors").write_bytes(mark)
    with pytest.raises(UserError):
        load_larp(folders / "larp")


def test_a_pickle_in_the_files_of_metrics_never_runs(tmp_path, mark):
    for name in ("vgg16.pth", "vgg16.safetensors", "i3d.pt"):
        (tmp_path / name).write_bytes(mark)
    for name in ("vgg16.pth", "vgg16.safetensors"):
        with pytest.raises(ValueError, match=r"cannot be read as \.pth or \.safetensors weights"):
            LPIPSDistance(tmp_path / name)
    with pytest.raises(ValueError, match="was not loaded"):
        load_detector(get_protocol("larp-ucf101-class2video"), tmp_path / "i3d.pt", None, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer": ["os", "system"]},
        {"tokenizer": ["evil", "VideoTokenizer"]},
        {"tokenizer": ["diffusers", "AutoencoderKL"]},
        {"scheduler": ["evil", "Evil"]},
        {"_class_name": ["evil", "VideoPipeline"]},
        {"_class_name": "StableDiffusionPipeline"},
        {"router": [["evil"], None]},
    ],
)
def test_a_pipeline_names_only_classes_of_ours(folders, monkeypatch, changes):
    evil = f"import os; os.mkdir({str(folders / 'mark')!r})\nclass VideoTokenizer: pass\n"
    for place in (folders / "pipeline", folders / "pipeline" / "tokenizer"):
        (place / "evil.py").write_text(evil)
        (place / "pipeline.py").write_text(evil)
    monkeypatch.syspath_prepend(str(folders / "pipeline"))
    change(folders / "pipeline" / "model_index.json", **changes)
    with pytest.raises(UserError, match=r"model_index\.json"):
        VideoPipeline.from_pretrained(folders / "pipeline")
    assert not (folders / "mark").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000"),
        ({"vocab_size": 10**12}, "vocab_size=1000000000000"),
        ({"evagen": [1]}, "no 'evagen' layout"),
        ({"evagen": {"codebook_size": 10**11, "levels": [1, 3], "num_blocks": 3}}, "they must be as many"),
        ({"evagen": {"codebook_size": "11", "levels": [1, 3], "num_blocks": 3}}, "codebook_size: Input should be"),
        ({"evagen": {"codebook_size": 11, "levels": [1, 3, 5], "num_blocks": 3, "trust": 1}}, "the layout has trust"),
        ({"auto_map": {"AutoConfig": "evil.Evil"}, "model_type": "evil"}, "'llama' is needed"),
    ],
)
def test_a_llama_that_cannot_be_is_refused(folders, changes, message):
    change(folders / "llama" / "config.json", **changes)
    with pytest.raises(UserError, match=message):
        import_llama(folders / "llama", folders / "out")
    assert not (folders / "out").exists()


def test_a_llama_without_some_weights_is_refused(folders):
    weights = load_file(folders / "llama" / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folders / "llama" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 are missing, model.norm.weight among them"):
        import_llama(folders / "llama", folders / "out")
