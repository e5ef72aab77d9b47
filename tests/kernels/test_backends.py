"""Whether attention kernels work is tried once, and a failure says why."""

import pytest
import torch

from evagen.kernels.backends import xformers_works


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
