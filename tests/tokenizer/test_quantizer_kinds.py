"""What holds for every quantiser: looking codes up equals the quantised output, in any precision; each trains, is saved
and searched like the others."""

import json
import math

import pytest
import torch

from evagen.tokenizer import (
    BinarySphericalQuantizer,
    CandidateSearch,
    FiniteScalarQuantizer,
    LossWeights,
    VectorQuantizer,
    VideoTokenizer,
    brute_force_distances,
    make_quantizer,
    tokenizer_loss,
)
from evagen.tokenizer.lattices import even_levels

SIZES = {"vq": (32, 4), "svq": (32, 4), "fsq": (60, 3), "bsq": (32, 5)}
LOSSES = {
    "vq": {"codebook", "commitment", "entropy"}, "svq": {"codebook", "commitment", "entropy"}, "fsq": set(),
    "bsq": {"entropy"},
}  # fmt: skip
every_kind = pytest.mark.parametrize("kind", SIZES)


def quantizer(kind: str, **settings):
    module = make_quantizer(kind, *SIZES[kind], **settings)
    if module.codebook is not None:
        torch.nn.init.normal_(module.codebook, generator=torch.Generator().manual_seed(0))
    return module


def vectors(kind: str, count: int = 50, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, SIZES[kind][1], generator=torch.Generator().manual_seed(seed))


def tokenizer(kind: str, **settings) -> VideoTokenizer:
    torch.manual_seed(0)
    size, width = SIZES[kind]
    return VideoTokenizer(
        levels=[1, 4, 6], num_frames=12, resolution=24, encoder_width=32, encoder_depth=2, encoder_heads=2,
        decoder_width=32, decoder_depth=2, decoder_heads=2, codebook_size=size, code_width=width, quantizer=kind,
        **settings,
    ).eval()  # fmt: skip


def clips(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 12, 24, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@every_kind
def test_looking_codes_up_gives_the_quantised_vectors(kind):
    module = quantizer(kind)
    quantized = module(vectors(kind), with_losses=False)
    assert torch.equal(module.lookup(quantized.codes), quantized.vectors)
    training = module(vectors(kind), with_losses=True)
    torch.testing.assert_close(module.lookup(training.codes), training.vectors)


@every_kind
def test_codes_are_in_range_and_all_reachable(kind):
    module = quantizer(kind).eval()
    codes = module(vectors(kind, 20_000) * 2, with_losses=False).codes
    assert codes.dtype == torch.int64
    assert codes.unique().tolist() == list(range(SIZES[kind][0])) == list(range(module.codebook_size))


@every_kind
def test_a_code_quantises_to_itself(kind):
    module = quantizer(kind).eval()
    codes = torch.arange(module.codebook_size)
    looked_up = module.lookup(codes)
    if kind == "fsq":  # which squashes first
        looked_up = (looked_up * 0.9).atanh()
    assert torch.equal(module(looked_up, with_losses=False).codes, codes)
    assert len(module.lookup(codes).unique(dim=0)) == module.codebook_size


@every_kind
def test_gradients_reach_what_was_quantised(kind):
    module, x = quantizer(kind), vectors(kind).requires_grad_()
    weights = torch.randn(SIZES[kind][1], generator=torch.Generator().manual_seed(3))
    gradient = torch.autograd.grad((module(x, with_losses=True).vectors * weights).sum(), x)[0]
    assert bool((gradient.abs().sum(-1) > 0).all())


@every_kind
def test_evaluation_draws_nothing(kind):
    module, x = quantizer(kind).eval(), vectors(kind)
    torch.manual_seed(0)
    one = module(x, with_losses=True).codes
    torch.manual_seed(1)
    assert torch.equal(module(x, with_losses=True).codes, one)
    assert torch.equal(module.train()(x, with_losses=False).codes, one)


@every_kind
def test_losses_are_those_of_the_kind_and_only_when_asked_for(kind):
    module, x = quantizer(kind), vectors(kind)
    assert module(x, with_losses=False).losses == {}
    losses = module(x, with_losses=True).losses
    assert set(losses) == LOSSES[kind]
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())


@every_kind
def test_half_precision_around_changes_nothing(kind):
    module, x = quantizer(kind).eval(), vectors(kind).to(torch.bfloat16)
    exact = module(x.float(), with_losses=True)
    with torch.autocast("cpu", torch.bfloat16):
        inside = module(x, with_losses=True)
        assert torch.equal(module.lookup(exact.codes), module.lookup(inside.codes))
    assert torch.equal(inside.codes, exact.codes)
    assert torch.equal(inside.vectors, exact.vectors)
    assert inside.vectors.dtype == torch.float32
    for name, loss in exact.losses.items():
        assert torch.equal(inside.losses[name], loss)


@pytest.mark.parametrize("kind", ["fsq", "bsq"])
def test_a_lattice_in_a_converted_model_stays_as_it_is(kind):
    module, x = quantizer(kind), vectors(kind)
    before = module(x, with_losses=False)
    after = module.to(torch.bfloat16)(x, with_losses=False)
    assert torch.equal(after.codes, before.codes)
    assert torch.equal(after.vectors, before.vectors)
    assert module.codebook is None
    assert list(module.parameters()) == []


@every_kind
@pytest.mark.parametrize("with_losses", [False, True])
def test_broken_inputs_have_codes_all_the_same(kind, with_losses):
    """So that a training whose weights broke can still say so."""
    x = torch.full((3, SIZES[kind][1]), torch.nan)
    codes = quantizer(kind)(x, with_losses=with_losses).codes
    assert 0 <= codes.min() <= codes.max() < SIZES[kind][0]


# Of single kinds


def test_stochastic_codes_are_drawn_by_similarity():
    module, x = quantizer("svq", stochastic_temperature=0.5), vectors("svq", 1).expand(40_000, -1)
    torch.manual_seed(0)
    drawn = torch.bincount(module(x, with_losses=True).codes, minlength=32) / 40_000
    unit = torch.nn.functional.normalize
    expected = (unit(x[:1], dim=-1) @ unit(module.codebook, dim=-1).T / 0.5).softmax(-1)[0]
    torch.testing.assert_close(drawn, expected.detach(), atol=0.01, rtol=0)


def test_stochastic_codes_are_those_that_torch_would_draw():
    module, x, unit = quantizer("svq", stochastic_temperature=0.5), vectors("svq"), torch.nn.functional.normalize
    torch.manual_seed(0)
    drawn = module(x, with_losses=True).codes
    torch.manual_seed(0)
    weights = (unit(x, dim=-1) @ unit(module.codebook, dim=-1).T / 0.5).softmax(-1)
    assert torch.equal(drawn, weights.multinomial(1)[:, 0])


def test_cold_stochastic_codes_are_the_nearest():
    module, x = quantizer("svq", stochastic_temperature=1e-6), vectors("svq")
    assert torch.equal(module(x, with_losses=True).codes, quantizer("vq")(x, with_losses=True).codes)


@pytest.mark.parametrize("name", ["entropy_temperature", "stochastic_temperature"])
def test_temperatures_must_be_positive(name):
    with pytest.raises(ValueError, match=f"must be positive.*{name}=0"):
        VectorQuantizer(32, 5, **{name: 0})


@pytest.mark.parametrize(
    ("codebook_size", "levels"),
    [
        (240, (8, 6, 5)), (1000, (8, 5, 5, 5)), (4375, (7, 5, 5, 5, 5)), (15360, (8, 8, 8, 6, 5)),
        (64000, (8, 8, 8, 5, 5, 5)), (8192, (8, 8, 8, 4, 4)),
    ],
)  # fmt: skip
def test_finite_scalar_levels_are_those_of_the_paper(codebook_size, levels):
    """Its table 1; then a power of two."""
    assert even_levels(codebook_size, len(levels)) == levels
    assert FiniteScalarQuantizer(codebook_size, len(levels)).codebook_size == codebook_size


def test_finite_scalar_levels_are_whole_numbers_about_zero():
    """8 levels are -4 … 3 and 5 levels -2 … 2, divided by 4 and by 2; nought is quantised to nought."""
    module = FiniteScalarQuantizer(40, 2)
    first, second = module.lookup(torch.arange(40)).T
    assert (first.unique() * 4).tolist() == [-4, -3, -2, -1, 0, 1, 2, 3]
    assert (second.unique() * 2).tolist() == [-2, -1, 0, 1, 2]
    assert module(torch.zeros(1, 2), with_losses=False).vectors.tolist() == [[0, 0]]


def test_binary_codes_are_the_nearest_corners():
    module, x = quantizer("bsq"), vectors("bsq")
    corners = module.lookup(torch.arange(32))
    torch.testing.assert_close(corners.norm(dim=-1), torch.ones(32))
    assert torch.equal(module(x, with_losses=False).codes, torch.cdist(x, corners).argmin(-1))


def test_binary_entropy_is_that_of_a_codebook_of_all_corners():
    module, x = quantizer("bsq"), vectors("bsq")
    module.entropy_temperature = 0.7
    table = VectorQuantizer(32, 5, entropy_temperature=0.7)
    table.codebook.data = module.lookup(torch.arange(32))
    torch.testing.assert_close(module(x, True).losses["entropy"], table(x, True).losses["entropy"])


def test_binary_entropy_of_many_bits_is_least_where_all_are_sure_and_used_evenly():
    module = BinarySphericalQuantizer(2**20, 20, entropy_temperature=0.01)
    codes = torch.randint(2**20, (8192,), generator=torch.Generator().manual_seed(0))
    even = module(module.lookup(codes), True).losses["entropy"]
    same = module(module.lookup(codes[:1]).expand(64, -1), True).losses["entropy"]
    assert -20 * math.log(2) - 1e-3 <= even < -19 * math.log(2)
    assert abs(same) < 1e-2


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        (
            "fsq",
            (8192, 16),
            r"no product of 16 such.*codebook_size=43046721\. .*code_width=1 or 2 or 3 or 4 or 5 or 6$",
        ),
        ("fsq", (8191, 4), r"8191 is no product of 4 .*code_width=4: codebook_size=8190 or 8192"),
        ("fsq", (2, 1), "codebook_size=3.*code_width=none"),
        (
            "bsq",
            (8192, 16),
            r"8192 is not 2\*\*16.*codebook_size=65536 with code_width=16 or .*8192 with code_width=13",
        ),
        ("bsq", (1000, 10), "codebook_size=512 with code_width=9 or codebook_size=1024 with code_width=10"),
        ("lfq", (8, 3), "is vq, svq, fsq or bsq; got 'lfq'"),
    ],
)
def test_sizes_that_a_kind_cannot_have_are_explained(kind, size, message):
    with pytest.raises(ValueError, match=message):
        make_quantizer(kind, *size)


# In a tokenizer


@every_kind
def test_decoding_stored_tokens_equals_the_direct_reconstruction(kind):
    model, video = tokenizer(kind), clips(3)
    lengths = model.assignments.random(3, torch.Generator().manual_seed(1))
    output, stored = model(video, lengths), model.encode(video, lengths)
    assert torch.equal(stored.codes, output.tokens.codes)
    decoded = model.decode(stored, (24, 24))
    torch.testing.assert_close(decoded, output.reconstruction.clamp(-1, 1), atol=1e-5, rtol=0)


@every_kind
def test_every_parameter_is_trained_by_the_terms_that_exist(kind):
    model, video = tokenizer(kind).train(), clips()
    output = model(video, torch.tensor([[1, 4, 6], [6, 4, 1]]))
    loss, terms = tokenizer_loss(output, video, LossWeights(perceptual=0.0), perceptual=None)
    assert set(terms) == {"l1", "l2"} | LOSSES[kind]
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    without = [n for (n, _), g in zip(model.named_parameters(), gradients) if g is None or not g.abs().sum() > 0]
    assert without == []


@every_kind
def test_a_tokenizer_survives_a_round_trip(kind, tmp_path):
    model = tokenizer(kind, stochastic_temperature=0.4)
    model.save_pretrained(tmp_path)
    again = VideoTokenizer.from_pretrained(tmp_path)
    assert type(again.quantizer) is type(model.quantizer)
    assert again.config.stochastic_temperature == 0.4
    tokens = model.encode(clips(), model.assignments.uniform(4, 2))
    assert torch.equal(tokens.codes, again.encode(clips(), tokens.lengths).codes)
    assert torch.equal(model.decode(tokens), again.decode(tokens))


def test_a_tokenizer_from_before_the_settings_is_loaded_as_what_it_is(tmp_path):
    model = tokenizer("vq", finest_blocks=1.0)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("quantizer", "stochastic_temperature", "finest_blocks", "encoder_self_attention"):
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = VideoTokenizer.from_pretrained(tmp_path)
    lengths = model.assignments.uniform(4, 2)
    one, other = model(clips(), lengths), again(clips(), lengths)
    assert torch.equal(one.reconstruction, other.reconstruction)
    assert one.quantizer_losses == other.quantizer_losses


@every_kind
def test_search_equals_brute_force(kind):
    model, video = tokenizer(kind), clips()
    blocks = video.split(4, dim=2)

    def distance(reconstruction, numbers, t):
        return {"mse": (reconstruction - blocks[t][numbers]).square().flatten(1).mean(1)}

    found = CandidateSearch(model, distance, 7).all_distances(video)["mse"]
    expected = brute_force_distances(model, video, distance)["mse"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert expected.std(1).min() > 1e-5
