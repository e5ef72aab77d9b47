"""Packed linear layers: the same values as plain ones, and never those of earlier weights."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evagen.kernels import packed_linear
from evagen.kernels.packed_linear import PackedLinear, pack_linears


def plain_and_packed(bias: bool = True, seed: int = 0) -> tuple[nn.Linear, PackedLinear]:
    torch.manual_seed(seed)
    plain = nn.Linear(24, 40, bias=bias)
    packed = pack_linears(copy.deepcopy(plain))
    assert type(packed) is PackedLinear
    return plain, packed


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.booleans(), st.integers(0, 2**31))
def test_any_number_of_rows_gives_what_a_plain_layer_gives(rows, bias, seed):
    plain, packed = plain_and_packed(bias, seed)
    x = torch.randn(rows, 24)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), plain(x), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(packed(x.view(rows, 1, 24)), plain(x.view(rows, 1, 24)), atol=1e-6, rtol=1e-5)


def test_rows_that_are_not_contiguous_and_no_rows_at_all():
    plain, packed = plain_and_packed()
    x = torch.randn(24, 10).t()
    with torch.no_grad():
        torch.testing.assert_close(packed(x), plain(x), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(packed(x[:, None, ::1][:2]), plain(x[:, None][:2]), atol=1e-6, rtol=1e-5)
        assert packed(x[:0]).shape == (0, 40)


def test_gradients_are_those_of_a_plain_layer():
    plain, packed = plain_and_packed()
    x = torch.randn(3, 24)
    for mine, theirs in zip(*(torch.autograd.grad(m(x).square().sum(), m.parameters()) for m in (packed, plain))):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()}),
        lambda layer: layer.double().float(),
        lambda layer: layer.train().eval(),
    ],
)
def test_weights_that_may_have_changed_are_not_used_packed(change):
    _, packed = plain_and_packed()
    x = torch.randn(5, 24)
    with torch.no_grad():
        packed(x)
        assert packed.packed is not None
        change(packed)
        assert packed.packed is None
        torch.testing.assert_close(packed(x), x @ packed.weight.t() + packed.bias, atol=1e-6, rtol=1e-5)


def test_weights_that_an_optimizer_changes_in_eval_mode_are_packed_anew():
    _, packed = plain_and_packed()
    x, optimizer = torch.randn(5, 24), torch.optim.SGD(packed.parameters(), lr=1.0)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(packed(x), x @ packed.weight.t() + packed.bias, atol=1e-6, rtol=1e-5)
        packed(x).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        torch.testing.assert_close(packed(x), x @ packed.weight.t() + packed.bias, atol=1e-5, rtol=1e-5)


def test_a_layer_compiles_as_a_plain_one():
    plain, packed = plain_and_packed()
    x = torch.randn(5, 24)
    with torch.no_grad():
        compiled = torch.compile(packed, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), plain(x))


def test_a_layer_that_was_made_in_inference_mode_is_packed():
    with torch.inference_mode():
        plain, packed = plain_and_packed()
        x = torch.randn(5, 24)
        torch.testing.assert_close(packed(x), plain(x), atol=1e-6, rtol=1e-5)


def test_copies_and_pickles_work_and_hold_no_packed_weights():
    plain, packed = plain_and_packed()
    x = torch.randn(5, 24)
    with torch.no_grad():
        packed(x)
        assert packed.packed is not None
        for again in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
            assert torch.equal(again(x), plain(x))
            assert again.packed is None


def test_half_precision_and_machines_without_onednn_take_the_plain_road(monkeypatch):
    half = pack_linears(nn.Linear(24, 40).to(torch.bfloat16))
    assert not half.may_pack
    with torch.no_grad():
        assert half(torch.randn(4, 24, dtype=torch.bfloat16)).dtype == torch.bfloat16
    monkeypatch.setattr(packed_linear, "packing_works", lambda: False)
    plain, packed = plain_and_packed()
    x = torch.randn(4, 24)
    with torch.no_grad():
        assert torch.equal(packed(x), plain(x))
    assert packed.packed is None


def test_all_layers_of_a_model_are_packed_under_their_own_names():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 4)))
    names = list(model.state_dict())
    pack_linears(model)
    assert list(model.state_dict()) == names
    assert all(m.may_pack for m in model.modules() if isinstance(m, nn.Linear))


def test_plain_layers_are_replaced_in_their_parents_and_share_their_parameters():
    first = nn.Linear(8, 8).requires_grad_(False)
    model = nn.Sequential(first, nn.ModuleDict({"inner": nn.Linear(8, 4, bias=False)})).eval()
    weights = dict(model.named_parameters())
    assert pack_linears(model) is model
    assert all(parameter is weights[name] for name, parameter in model.named_parameters())
    assert type(model[0]) is type(model[1]["inner"]) is PackedLinear
    assert not model[0].training
    assert model[1]["inner"].bias is None
    assert type(first) is nn.Linear  # who holds the plain layer still has it, with the same weights
    assert first.weight is model[0].weight


def test_a_layer_that_stands_in_two_places_stays_one():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.second = self.first
            self.inner = nn.Sequential(self.first, nn.Linear(8, 8))
            self.inner[1].weight = self.first.weight

    model = pack_linears(Twice())
    assert model.first is model.second is model.inner[0]
    assert type(model.first) is PackedLinear
    assert model.inner[1].weight is model.first.weight


def test_a_model_that_is_a_layer_is_returned_anew_and_a_packed_one_stays():
    plain = nn.Linear(8, 8)
    packed = pack_linears(plain)
    assert type(plain) is nn.Linear
    assert packed.weight is plain.weight
    assert pack_linears(packed) is packed


def test_packing_draws_no_random_numbers():
    plain = nn.Linear(8, 8)
    before = torch.get_rng_state()
    pack_linears(plain)
    assert torch.equal(before, torch.get_rng_state())


def test_autocast_is_obeyed():
    layer = pack_linears(nn.Linear(64, 32))
    x = torch.randn(5, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
        assert half.dtype == torch.bfloat16
        assert torch.equal(half, nn.functional.linear(x, layer.weight, layer.bias))
