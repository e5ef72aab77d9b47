"""Whether attention kernels work is tried once, and a failure says why."""

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from evagen.bench.pretended import kernels as pretended
from evagen.kernels import backends
from evagen.kernels.backends import flash_works, xformers_works

try_flash = backends._try_flash


@pytest.fixture(autouse=True)
def tried_anew():
    xformers_works.cache_clear()
    yield
    xformers_works.cache_clear()


def test_a_backend_is_found_by_a_caller_without_gradients(monkeypatch):
    """Whether it works is tried once, forward and backward: sampling or encoding may be what asks first."""
    ops = pytest.importorskip("xformers.ops")
    monkeypatch.setattr(ops, "memory_efficient_attention", lambda q, k, v, attn_bias: q * k * v)
    with torch.inference_mode():
        assert xformers_works(torch.device("cpu"))


def test_a_backend_that_fails_says_why(monkeypatch, caplog):
    ops = pytest.importorskip("xformers.ops")

    def broken(*_, **__):
        raise NotImplementedError("no kernel was built for this")

    monkeypatch.setattr(ops, "memory_efficient_attention", broken)
    assert not xformers_works(torch.device("cpu"))
    assert "no kernel was built for this" in caplog.text


def test_it_is_tried_with_the_numbers_and_the_heads_that_are_asked_for(monkeypatch):
    """Forward and backward, without and with what is ahead."""
    ops = pytest.importorskip("xformers.ops")
    tried = []

    def attention(q, k, v, attn_bias):
        tried.append((q.dtype, q.shape[-1], type(attn_bias).__name__))
        return q * k * v

    monkeypatch.setattr(ops, "memory_efficient_attention", attention)
    for dtype, head_width in ((torch.float32, 64), (torch.bfloat16, 64), (torch.float32, 64)):
        assert xformers_works(torch.device("cpu"), dtype, head_width)
    kinds = ("BlockDiagonalMask", "BlockDiagonalCausalMask")
    assert tried == [(dtype, 64, kind) for dtype in (torch.float32, torch.bfloat16) for kind in kinds]


@pytest.fixture
def flash_on_a_cpu(monkeypatch):
    """What a Hopper GPU is asked, answered by the pretended kernel; yields what is changed of it."""
    changes = {}

    def forward(*args, **kwargs):
        attended, *rest = pretended.flash_forward(*args, **kwargs)
        return attended * changes.get(changes["active"], 1), *rest

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(
        torch.nn.attention, "activate_flash_attention_impl", lambda name: changes.update(active=name), raising=False
    )
    monkeypatch.setattr(
        torch.nn.attention, "restore_flash_attention_impl", lambda: changes.update(active="FA2"), raising=False
    )
    monkeypatch.setattr(backends, "send", lambda nest, _: nest)
    changes["active"] = "FA2"
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", forward, "CPU")
        library.impl("_flash_attention_backward", pretended.flash_backward, "CPU")
        yield changes


def ask(monkeypatch, is_installed: bool) -> bool:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda _: object() if is_installed else None)
    return flash_works.__wrapped__(AsIfOnCuda(), torch.bfloat16, 64)


class AsIfOnCuda:
    """Where tensors are made on the CPU, by one who believes that it is a GPU."""

    type = "cuda"


def test_flash_attention_3_is_taken_where_it_is_installed_and_right(flash_on_a_cpu, monkeypatch, caplog):
    monkeypatch.setattr(backends, "_try_flash", lambda _, *rest: try_flash(torch.device("cpu"), *rest))
    assert ask(monkeypatch, is_installed=False)
    assert flash_on_a_cpu["active"] == "FA2"
    assert ask(monkeypatch, is_installed=True)
    assert flash_on_a_cpu["active"] == "FA3"
    flash_on_a_cpu["FA3"] = 1.2
    assert ask(monkeypatch, is_installed=True)
    assert flash_on_a_cpu["active"] == "FA2"
    assert "FlashAttention 3 does not work" in caplog.text
    assert "wrong by" in caplog.text
    flash_on_a_cpu["FA2"] = float("nan")
    assert not ask(monkeypatch, is_installed=False)


def test_a_reason_of_many_lines_is_told_in_one(monkeypatch, caplog):
    ops = pytest.importorskip("xformers.ops")

    def broken(*_, **__):
        raise NotImplementedError("no operator found\nwith these inputs\nand many more lines")

    monkeypatch.setattr(ops, "memory_efficient_attention", broken)
    assert not xformers_works(torch.device("cpu"))
    assert len(caplog.records) == 1
    assert "many more" not in caplog.text


def test_a_backend_may_be_tried_first_in_a_checkpointed_layer(monkeypatch):
    """What the attempt keeps for its own backward pass is none of the layer's."""
    ops = pytest.importorskip("xformers.ops")
    monkeypatch.setattr(ops, "memory_efficient_attention", lambda q, k, v, attn_bias: q * k * v)
    weight = torch.randn(3, requires_grad=True)

    def layer(x: Tensor) -> Tensor:
        assert xformers_works(torch.device("cpu"))
        return (x * weight).sin()

    checkpoint(layer, torch.ones(3), use_reentrant=False).sum().backward()
    torch.testing.assert_close(weight.grad, weight.detach().cos())
