"""Frozen networks: unseen, unmoved by training, moved by `to()`; and what tells weights apart."""

import copy

import torch
from torch import nn

from evagen.kernels.frozen import Frozen
from evagen.kernels.weights import weights_fingerprint


class Owner(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.frozen, self.trained = Frozen(network), nn.Linear(3, 1)

    def forward(self, x):
        return self.trained(self.frozen(x))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.BatchNorm1d(3))


def test_only_what_is_trained_is_seen_and_gradients_flow_through():
    frozen = network()
    owner = Owner(frozen).train().requires_grad_(True)
    before = copy.deepcopy(frozen.state_dict())
    assert set(owner.state_dict()) == {"trained.weight", "trained.bias"}
    assert len(list(owner.parameters())) == 2
    x = torch.randn(5, 4).requires_grad_()
    optimizer = torch.optim.SGD(owner.parameters(), 1.0)
    owner(x).sum().backward()
    optimizer.step()
    assert x.grad.abs().max() > 0
    assert not frozen.training
    assert all(parameter.grad is None for parameter in frozen.parameters())
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())


def test_it_moves_with_its_owner_and_copies_are_its_own():
    owner = Owner(network())
    other = copy.deepcopy(owner).to(torch.float64)
    assert {value.dtype for value in other.frozen.network.parameters()} == {torch.float64}
    assert {value.dtype for value in owner.frozen.network.parameters()} == {torch.float32}
    assert all(value.is_meta for value in other.to("meta").frozen.network.buffers())


def test_a_scripted_network_is_frozen_and_moves_too():
    owner = Owner(torch.jit.script(network())).train().to(torch.float64)
    assert not owner.frozen.network.training
    assert not any(parameter.requires_grad for parameter in owner.frozen.network.parameters())
    assert owner(torch.randn(2, 4, dtype=torch.float64)).dtype == torch.float64


def test_a_fingerprint_changes_with_names_and_values_alone():
    state = network().state_dict()
    found = weights_fingerprint(state)
    assert found == weights_fingerprint(dict(reversed(state.items())))
    assert found == weights_fingerprint({**state, "0.weight": state["0.weight"].T.contiguous().T})
    assert found != weights_fingerprint({**state, "0.bias": state["0.bias"] + 1e-7})
    assert found != weights_fingerprint({f"{name}_": value for name, value in state.items()})
