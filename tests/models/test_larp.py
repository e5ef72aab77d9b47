"""LARP's tokenizer: computed as in plain torch, and everything but its own folder refused."""

import shutil

import pytest
import torch
from tiny_larp import (
    CODES,
    SIZE,
    TOKENS,
    decode_by_hand,
    encode_by_hand,
    larp_config,
    larp_weights,
    published_config,
    save_larp,
)
from tiny_models import random_clips, tiny_tokenizer
from torch import nn

from evagen.config import check_config
from evagen.errors import UserError
from evagen.models import larp
from evagen.models.larp import LarpConfig, LarpTokenizer, config_at, is_larp, load_larp
from evagen.models.loading import load_model, start_from
from evagen.tokenizer import Router, TokenizedClips, VideoTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_larp(tmp_path_factory.mktemp("larp") / "folder")


@pytest.fixture(scope="module")
def model(folder) -> LarpTokenizer:
    return load_larp(folder)


def all_tokens(count: int) -> torch.Tensor:
    return torch.full((count, 1), TOKENS)


def clips(count: int, seed: int = 0) -> torch.Tensor:
    return random_clips(count, seed, frames=16)


def test_tokens_are_those_of_plain_torch(model):
    tokens, codes = model.encode(clips(4), all_tokens(4)), encode_by_hand(larp_weights(), clips(4))
    assert torch.equal(tokens.codes, codes.flatten())
    assert torch.equal(tokens.lengths, all_tokens(4))
    assert len(codes.unique()) > 10
    assert not torch.equal(codes[0], codes[1])


def test_pixels_are_those_of_plain_torch(folder):
    """In fp64, where another epsilon of any norm shows."""
    codes = torch.randint(CODES, (4, TOKENS), generator=torch.Generator().manual_seed(0))
    expected = decode_by_hand({name: weight.double() for name, weight in larp_weights().items()}, codes)
    again = load_larp(folder).double().decode(TokenizedClips(codes.flatten(), all_tokens(4)), (SIZE, SIZE))
    torch.testing.assert_close(again, expected, atol=2e-7, rtol=0)
    assert again.dtype == torch.float32
    assert (again.abs() < 1).float().mean() > 0.2  # not all of it is cut off


def test_a_clip_does_not_depend_on_the_others(model):
    tokens = model.encode(clips(3), all_tokens(3))
    video = model.decode(tokens)
    for number, (clip, alone) in enumerate(zip(tokens.split(), clips(3).split(1))):
        assert torch.equal(model.encode(alone, all_tokens(1)).codes, clip.codes)
        torch.testing.assert_close(model.decode(clip), video[number : number + 1], atol=1e-5, rtol=0)


def test_the_published_size():
    with torch.device("meta"):
        model = LarpTokenizer(check_config(LarpConfig, published_config(), "test"))
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e6, 1) == 172.2
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["x_embedder.proj.weight"] == (768, 3, 4, 8, 8)
    assert shapes["encoder_patch_pe"] == shapes["decoder_patch_query_embed"] == (1, 1024, 768)
    assert shapes["bottleneck.regularizer.embedding.weight"] == (8192, 16)
    assert shapes["decoder.blocks.11.mlp.fc1.weight"] == (3072, 768)
    assert (model.config.levels, model.config.num_frames, model.config.resolution) == ([1024], 16, 128)


def test_for_inference_in_fp32_without_the_prior_model(model):
    assert set(model.state_dict()) == {name for name in larp_weights() if not name.startswith("prior_model.")}
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


def test_fields_that_are_left_out_have_the_constructors_defaults():
    flag = "use_decoder_patch_query_token_type_embed"
    few = {name: larp_config()[name] for name in ("bottleneck", "prior_model", flag)}
    config = check_config(LarpConfig, few, "test")
    assert (config.encoder_depth, config.decoder_num_heads, config.levels) == (6, 12, [1024])
    with pytest.raises(UserError, match=f"'{flag}' is missing"):  # the default, False, is another model
        check_config(LarpConfig, {name: value for name, value in few.items() if name != flag}, "test")


def with_regularizer(**changes) -> dict:
    config = larp_config()
    config["bottleneck"]["args"]["regularizer"]["args"].update(changes)
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (larp_config(encoder_layers=3), "unknown key 'encoder_layers'; the nearest known key is"),
        (larp_config(learned_decoder_latent_pe=True), "'learned_decoder_latent_pe' is True: input should be False"),
        (larp_config(transformer_name="transformer_encoder_fused"), "'transformer_name' is 'transformer_encoder_"),
        (larp_config(temporal_patch_size=1), "'temporal_patch_size' is 1: input should be greater than or equal to 2"),
        (larp_config(encoder_depth="many"), "'encoder_depth' is 'many'"),
        (with_regularizer(l2_normalized=False), "'bottleneck.args.regularizer.args.l2_normalized' is False"),
        (with_regularizer(stochastic_temperature=-1), "stochastic_temperature' is -1: input should be greater than 0"),
        (larp_config(decoder_patch_size=4), "the decoder's patches are 4 frames of 4 pixels, the encoder's 4 of 8"),
        (larp_config(frame_num=6), "clips of 6 frames at 32 pixels are not divisible into patches of 4"),
        (larp_config(decoder_num_heads=5), "decoder_hidden_size=48 is not divisible by decoder_num_heads=5"),
    ],
)  # fmt: skip
def test_another_config_is_refused(tmp_path, config, message):
    folder = save_larp(tmp_path / "folder", config)
    with pytest.raises(UserError, match=message) as refused:
        load_larp(folder)
    for part in (f"{folder}/config.json", "nothing else may (docs/peers.md): give such a model"):
        assert part in str(refused.value)


def without(name: str) -> dict[str, torch.Tensor]:
    return {other: weight for other, weight in larp_weights().items() if other != name}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (without("encoder_patch_pe"), "encoder_patch_pe is missing"),
        (larp_weights() | {"encoder.blocks.0.attn.qkv.bias": torch.zeros(96)}, "attn.qkv.bias is of no use"),
        (larp_weights() | {"decoder_latent_pe": torch.zeros(1, 25, 48)}, r"is \(1, 25, 48\) in place of \(1, 24, 48\)"),
        ({"weight": torch.zeros(3)}, r"is missing, .* and \d+ more; fetch"),
    ],
)
def test_other_weights_are_refused(tmp_path, weights, message):
    folder = save_larp(tmp_path / "folder", weights=weights)
    with pytest.raises(UserError, match=f"not those of its config.json: .*{message}"):
        load_larp(folder)


def test_missing_or_damaged_weights_are_explained(tmp_path, folder):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    for _ in range(2):
        with pytest.raises(UserError, match="missing or damaged: fetch"):
            load_larp(copy)
        (copy / "model.safetensors").unlink(missing_ok=True)


def test_other_clips_lengths_and_codes_are_refused(model):
    with pytest.raises(ValueError, match=r"of shape \(3, 16, 32, 32\), got \(3, 16, 40, 32\)"):
        model.encode(random_clips(1, frames=16, height=40), all_tokens(1))
    with pytest.raises(ValueError, match=r"\[7\] are no levels"):
        model.encode(clips(1), torch.full((1, 1), 7))
    with pytest.raises(ValueError, match="2 clips of one block need lengths of shape"):
        model.encode(clips(2), torch.full((2, 4), TOKENS))
    tokens = model.encode(clips(2), all_tokens(2))
    with pytest.raises(ValueError, match="32 × 32 pixels, got"):
        model.decode(tokens, (64, 64))
    with pytest.raises(ValueError, match="add up to 48 tokens, got 46 codes"):
        model.decode(TokenizedClips(tokens.codes[:-2], tokens.lengths))
    with pytest.raises(ValueError, match=f"codes run from 0 to {CODES - 1}"):
        model.decode(TokenizedClips(tokens.codes + CODES, tokens.lengths))


# Told apart from ours


def test_recognised_by_its_config(folder, tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "ours")
    assert is_larp(config_at(folder))
    assert not is_larp(config_at(tmp_path / "ours"))
    assert config_at(tmp_path) == {}


@pytest.mark.parametrize("kind", [VideoTokenizer, Router])
def test_whoever_needs_another_model_says_so(folder, kind):
    with pytest.raises(UserError, match=f"holds a LARP tokenizer, a {kind.__name__} is needed: .*evagen benchmark"):
        load_model(kind, folder)


def test_nothing_is_trained_from_it(folder):
    with pytest.raises(UserError, match="holds a LARP tokenizer"):
        start_from(tiny_tokenizer(), folder)


def test_a_hub_id(folder, model, monkeypatch):
    asked = []

    def cached_file(source: str, name: str, **options: bool) -> str:
        asked.append((source, name, options))
        return str(folder / name)

    def not_ours(*arguments: object, **options: object) -> nn.Module:
        raise OSError("no file named diffusion_pytorch_model.safetensors")

    monkeypatch.setattr(larp, "cached_file", cached_file)
    loaded = load_larp("somebody/larp")
    assert {source for source, *_ in asked} == {"somebody/larp"}
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in loaded.state_dict().items())
    monkeypatch.setattr(VideoTokenizer, "from_pretrained", not_ours)
    with pytest.raises(UserError, match="somebody/larp holds a LARP tokenizer"):
        load_model(VideoTokenizer, "somebody/larp")
    assert asked[-1] == ("somebody/larp", "config.json", {"local_files_only": True})  # it has been asked already
