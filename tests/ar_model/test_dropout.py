"""Dropout of the generator: in training only, in its three places, right on average."""

import pytest
import torch
from torch import nn

from evagen.ar_model import ClipTokens, VideoGenerator
from evagen.ar_model.decoding import Decoder
from evagen.ar_model.llama import from_llama, to_llama
from evagen.kernels.plans import plan_causal

PLACES = ["token_dropout", "residual_dropout", "mlp_dropout"]


def new_generator(**dropout) -> VideoGenerator:
    torch.manual_seed(0)
    return VideoGenerator(11, [1, 3, 5], 3, width=32, depth=2, num_heads=2, hidden_width=48, **dropout)


@pytest.fixture
def tokens() -> torch.Tensor:
    return new_generator().grammar.pack([ClipTokens(torch.arange(7), torch.tensor([3, 1, 3]))], torch.tensor([-1]))[0]


@pytest.mark.parametrize("place", PLACES)
def test_without_training_it_changes_nothing(place, tokens, tmp_path):
    plain, dropping = new_generator().eval(), new_generator(**{place: 0.5}).eval()
    expected = plain(tokens, [len(tokens)])
    assert torch.equal(dropping(tokens, [len(tokens)]), expected)
    dropping.save_pretrained(tmp_path)
    again = VideoGenerator.from_pretrained(tmp_path)  # in eval mode
    assert again.config[place] == 0.5
    assert torch.equal(again(tokens, [len(tokens)]), expected)
    llama = to_llama(dropping)
    assert llama.config.attention_dropout == 0
    assert torch.equal(from_llama(llama)(tokens, [len(tokens)]), expected)


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_writing_never_drops(training, tokens):
    """Whatever mode the model was left in."""
    rows = []
    for model in (new_generator(), new_generator(**dict.fromkeys(PLACES, 0.5))):
        decoder = Decoder(model.train(training), 2)
        decoder.prefill([0, 1], [tokens[:4], tokens[:6]])
        rows.append(decoder.step(tokens[[3, 5]]))
    assert torch.equal(*rows)


@pytest.mark.parametrize("place", PLACES)
def test_training_drops_anew_each_time_and_a_share_of_zero_draws_nothing(place, tokens):
    model, plain = new_generator(**{place: 0.3}).train(), new_generator(**{place: 0.0}).train()
    first, second = (model(tokens, [len(tokens)]) for _ in range(2))
    assert not torch.equal(first, second)
    before = torch.get_rng_state()
    undropped = plain(tokens, [len(tokens)])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(undropped, new_generator().eval()(tokens, [len(tokens)]))
    assert not torch.equal(first, undropped)


@torch.no_grad()
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_each_place_is_right_on_average_and_drops_its_share(share):
    """What leaves each place is linear in the mask, so its mean is what leaves it without dropout."""
    dropping = new_generator(**dict.fromkeys(PLACES, share)).train()
    layer, draws = dropping.layers[0], 4000
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))  # N D
    cos, sin = dropping.rotary(torch.arange(5))
    places = {
        "attention": (layer.self_attn, lambda: layer.self_attn(x, cos, sin, plan_causal([5]))),
        "mlp": (layer.mlp, lambda: layer.mlp(x)),
        "tokens": (dropping.dropout, lambda: dropping.dropout(dropping.embed_tokens(torch.arange(5)))),
    }
    for name, (module, output) in places.items():
        seen = torch.stack([output() for _ in range(draws)])  # draws N D
        expected = output_without(module, output)  # N D
        dropped = (seen == 0).float().mean()
        assert dropped == pytest.approx(share, abs=0.01), name
        error = (seen.mean(0) - expected).abs() / expected.abs().clamp_min(1e-3)
        assert error.mean() < 0.05, name
        kept = seen[seen != 0].div(expected.expand_as(seen)[seen != 0])
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - share)), rtol=1e-3, atol=1e-3)


def output_without(module: nn.Module, output) -> torch.Tensor:
    module.eval()
    expected = output()
    module.train()
    return expected


def test_an_impossible_share_is_refused():
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        new_generator(mlp_dropout=1.5)
