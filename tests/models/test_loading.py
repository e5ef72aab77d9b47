"""Loading models: what does not fit its config, or the model that it is to start, is named."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_generator, tiny_router, tiny_tokenizer

from evagen.errors import UserError
from evagen.models.loading import load_model, start_from
from evagen.tokenizer import Router, VideoTokenizer

SIZES = {"vq": (32, 5), "svq": (32, 5), "fsq": (243, 5), "bsq": (32, 5)}


def tokenizer(kind: str, seed: int = 0, **changes) -> VideoTokenizer:
    size, width = SIZES[kind]
    return tiny_tokenizer(seed, quantizer=kind, codebook_size=size, code_width=width, **changes)


def saved(folder: Path, kind: str, config: dict | None = None, **changes) -> Path:
    """A tokenizer's folder, with some of its config.json changed by hand."""
    tokenizer(kind, **changes).save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text()) | (config or {})
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("kind", SIZES)
def test_a_tokenizer_with_each_quantiser_is_loaded(tmp_path, kind):
    model = load_model(VideoTokenizer, saved(tmp_path, kind))
    assert model.config.quantizer == kind


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("vq", {"quantizer": "fsq", "codebook_size": 243}, "not those of config.json: quantizer.codebook is of no"),
        ("vq", {"quantizer": "fsq"}, "no product of 5 such numbers"),
        ("vq", {"quantizer": "bsq"}, "quantizer.codebook is of no use"),
        ("fsq", {"quantizer": "vq"}, "quantizer.codebook is missing"),
        ("bsq", {"quantizer": "svq"}, "quantizer.codebook is missing"),
        ("vq", {"quantizer": "lfq"}, "quantizer: Input should be 'vq', 'svq', 'fsq' or 'bsq'"),
    ],
)
def test_weights_of_another_quantiser_are_explained(tmp_path, kind, config, message):
    with pytest.raises(UserError, match=message):
        load_model(VideoTokenizer, saved(tmp_path, kind, config))


def test_a_router_whose_config_does_not_fit_together_is_explained(tmp_path):
    tiny_router().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_heads": 3}))
    with pytest.raises(UserError, match=r"in config\.json: width 32 is not divisible by 3 heads"):
        load_model(Router, tmp_path)


@pytest.mark.parametrize(
    ("kind", "other", "message"),
    [
        ("vq", "fsq", "codebook_size is 32 there and 243 here, quantizer is vq there and fsq here"),
        ("bsq", "fsq", "quantizer is bsq there and fsq here"),
        ("fsq", "svq", "quantizer is fsq there and svq here"),
        ("vq", "bsq", "quantizer is vq there and bsq here"),
    ],
)
def test_fine_tuning_with_another_quantiser_is_explained(tmp_path, kind, other, message):
    with pytest.raises(UserError, match=f"do not fit this model: .*{message}"):
        start_from(tokenizer(other), saved(tmp_path, kind))


@pytest.mark.parametrize(("setting", "value"), [("finest_blocks", 1.0), ("encoder_heads", 1), ("decoder_heads", 1)])
def test_settings_that_no_shape_shows_must_agree_too(tmp_path, setting, value):
    folder = saved(tmp_path, "vq", **{setting: value})
    with pytest.raises(UserError, match=rf"{setting} is {value} there and 2(\.0)? here; use its settings"):
        start_from(tokenizer("vq"), folder)


@pytest.mark.parametrize(
    ("make", "ours", "theirs"),
    [
        (tiny_tokenizer, {"temporal_patch": 1, "spatial_patch": 8}, {"temporal_patch": 4, "spatial_patch": 4}),
        (tiny_generator, {}, {"num_heads": 4}),
        (tiny_generator, {}, {"rope_theta": 500.0}),
        (tiny_generator, {}, {"norm_eps": 1e-5}),
        (tiny_generator, {"endless": True}, {"endless": False}),
        (tiny_generator, {"num_given_blocks": 1}, {"num_given_blocks": 0}),
        (tiny_generator, {"levels": [1, 3, 5]}, {"levels": [1, 4, 5]}),
    ],
)
def test_weights_of_the_same_shapes_with_another_meaning_are_no_start(tmp_path, make, ours, theirs):
    make(**theirs).save_pretrained(tmp_path)
    name, value = next(iter(theirs.items()))
    with pytest.raises(UserError, match=rf"{name} is {re.escape(str(value))} there and .* here; use its settings"):
        start_from(make(**ours), tmp_path)


def test_a_generator_starts_with_as_many_other_classes(tmp_path):
    tiny_generator().save_pretrained(tmp_path)
    model = tiny_generator(class_names=["c", "d"])
    assert torch.equal(model.lm_head.weight, start_from(model, tmp_path).lm_head.weight)


def test_stochastic_codes_start_from_deterministic_ones(tmp_path):
    model = tokenizer("svq", seed=1)
    trained = start_from(model, saved(tmp_path, "vq"))
    assert torch.equal(model.quantizer.codebook, trained.quantizer.codebook)


def test_weights_saved_in_bf16_compute_in_fp32_on_a_cpu(tmp_path):
    """As a model that was trained or converted on a GPU may come."""
    exact = tiny_tokenizer().to(torch.bfloat16)
    exact.save_pretrained(tmp_path)
    model, wanted = load_model(VideoTokenizer, tmp_path), exact.float()
    video, lengths = torch.rand(2, 3, 8, 32, 32) * 2 - 1, torch.tensor([[2, 8], [4, 4]])
    found = model.encode(video, lengths)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(found.codes, wanted.encode(video, lengths).codes)
    torch.testing.assert_close(model.decode(found), wanted.decode(found), atol=1e-5, rtol=1e-5)


def test_weights_under_a_name_that_safetensors_does_not_read_are_not_called_damaged(tmp_path):
    folder = tmp_path / os.fsdecode(b"tokenizer\xe9")
    tiny_tokenizer().save_pretrained(folder)
    with pytest.raises(UserError, match=r"names in UTF-8 alone, which .*tokenizer\\xe9/.* is not: give it another"):
        load_model(VideoTokenizer, folder)
