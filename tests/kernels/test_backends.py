"""Whether attention kernels work is tried once, and a failure says why."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from evagen.bench.pretended import kernels as pretended
from evagen.kernels import backends
from evagen.kernels.backends import backend_for, efficient_works, flash_works, xformers_works

try_anywhere = backends._try


find_trouble = backends.xformers_trouble


@pytest.fixture(autouse=True)
def tried_anew(monkeypatch):
    monkeypatch.setattr(backends, "xformers_trouble", lambda: None)
    cached = (xformers_works, backends._xformers_loads, efficient_works, flash_works, backends._choose_flash3)
    for each in cached:
        each.cache_clear()
    yield
    for each in cached:
        each.cache_clear()


def by_its_mask(query: Tensor, key: Tensor, value: Tensor, attn_bias) -> Tensor:
    """What xformers computes, under its bias made dense."""
    mask = attn_bias.materialize((query.shape[1], key.shape[1])).to(query.dtype)
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)), mask).transpose(1, 2)


def test_a_backend_is_found_by_a_caller_without_gradients(monkeypatch):
    """Whether it works is tried once, forward and backward: sampling or encoding may be what asks first."""
    ops = pytest.importorskip("xformers.ops")
    monkeypatch.setattr(ops, "memory_efficient_attention", by_its_mask)
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
        return by_its_mask(q, k, v, attn_bias)

    monkeypatch.setattr(ops, "memory_efficient_attention", attention)
    for dtype, head_width in ((torch.float32, 64), (torch.bfloat16, 64), (torch.float32, 64)):
        assert xformers_works(torch.device("cpu"), dtype, head_width)
    kinds = ("BlockDiagonalCausalMask", "BlockDiagonalMask")
    assert tried == [(dtype, 64, kind) for dtype in (torch.float32, torch.bfloat16) for kind in kinds]


class AsIfOnCuda:
    """A Hopper GPU, to one who does not make tensors there."""

    type = "cuda"


@pytest.fixture
def gpu(monkeypatch):
    """What a Hopper GPU is asked, answered by the pretended kernels; yields factors of what they compute, by name."""
    factors = {"active": "FA2"}

    def changed(compute, name):
        def kernel(*args, **kwargs):
            attended, *rest = compute(*args, **kwargs)
            return attended * factors.get(name or factors["active"], 1), *rest

        return kernel

    on_a_cpu = lambda attend, _, *about: try_anywhere(attend, torch.device("cpu"), *about)  # noqa: E731
    monkeypatch.setattr(backends, "_try", on_a_cpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    for name, change in (
        ("activate_flash_attention_impl", lambda name: factors.update(active=name)),
        ("restore_flash_attention_impl", lambda: factors.update(active="FA2")),
    ):
        monkeypatch.setattr(torch.nn.attention, name, change, raising=False)
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", changed(pretended.flash_forward, None), "CPU")
        library.impl("_flash_attention_backward", pretended.flash_backward, "CPU")
        library.impl("_efficient_attention_forward", changed(pretended.efficient_forward, "efficient"), "CPU")
        library.impl("_efficient_attention_backward", pretended.efficient_backward, "CPU")
        yield factors


def ask(monkeypatch, is_installed: bool) -> bool:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda _: object() if is_installed else None)
    return flash_works(AsIfOnCuda(), torch.bfloat16, 64)


def test_flash_attention_3_is_taken_where_it_is_installed_and_right(gpu, monkeypatch, caplog):
    assert ask(monkeypatch, is_installed=False)
    assert gpu["active"] == "FA2"
    assert ask(monkeypatch, is_installed=True)
    assert gpu["active"] == "FA3"
    gpu["FA3"] = 1.2
    assert ask(monkeypatch, is_installed=True)
    assert gpu["active"] == "FA2"
    assert "FlashAttention 3 does not work" in caplog.text
    assert "wrong by" in caplog.text
    gpu["FA2"] = float("nan")
    assert not ask(monkeypatch, is_installed=False)


def test_flash_attention_3_that_cannot_be_loaded_is_done_without(gpu, monkeypatch, caplog):
    def broken(_):
        raise ImportError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", broken, raising=False)
    assert ask(monkeypatch, is_installed=True)
    assert "libcudart.so.12" in caplog.text


def test_one_version_of_flash_attention_is_chosen_for_heads_of_every_width(gpu, monkeypatch):
    """One that fails for some heads stays, and is not used for these; else it would come back with the next width."""
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda _: object())
    device = AsIfOnCuda()
    assert flash_works(device, torch.bfloat16, 64)
    gpu["FA3"] = 1.2
    assert not flash_works(device, torch.bfloat16, 24)
    assert flash_works(device, torch.bfloat16, 64)
    assert gpu["active"] == "FA3"


@pytest.mark.parametrize("asked", ["auto", "torch"])
def test_torch_takes_one_call_where_its_kernel_is_right(gpu, monkeypatch, caplog, asked):
    monkeypatch.setattr(backends, "xformers_works", lambda *_: False)
    assert backend_for(AsIfOnCuda(), torch.float32, 64, asked) == "efficient"
    assert backend_for(AsIfOnCuda(), torch.float32, 6, asked) == "torch"  # heads that it has no kernel for
    assert backend_for(AsIfOnCuda(), torch.float64, 64, asked) == "torch"
    assert backend_for(torch.device("cpu"), torch.float32, 64, asked) == "torch"
    gpu["efficient"] = 1.01
    assert backend_for(AsIfOnCuda(), torch.float32, 64, asked) == "torch"
    assert "memory-efficient attention does not work" in caplog.text


def test_a_backend_whose_results_are_wrong_is_not_used(monkeypatch, caplog):
    ops = pytest.importorskip("xformers.ops")
    monkeypatch.setattr(ops, "memory_efficient_attention", lambda *args, **bias: by_its_mask(*args, **bias) * 1.01)
    assert not xformers_works(torch.device("cpu"))
    assert "wrong by" in caplog.text


def test_a_reason_of_many_lines_is_told_in_one(monkeypatch, caplog):
    ops = pytest.importorskip("xformers.ops")

    def broken(*_, **__):
        raise RuntimeError("no kernel image is available\nand many more lines")

    monkeypatch.setattr(ops, "memory_efficient_attention", broken)
    assert not xformers_works(torch.device("cpu"))
    assert len(caplog.records) == 1
    assert "many more" not in caplog.text


def test_of_all_that_xformers_has_tried_the_kernel_that_wants_least_is_told(monkeypatch, caplog):
    ops = pytest.importorskip("xformers.ops")

    def broken(*_, **__):
        raise NotImplementedError(
            "No operator found for `memory_efficient_attention_forward` with inputs:\n    p : 0.0\n"
            "`fa2F` is not supported because:\n    dtype=torch.float32 (supported: {torch.bfloat16})\n"
            "`cutlassF-pt` is not supported because:\n    your GPU has capability (12, 0) (too new)\n    and more"
        )

    monkeypatch.setattr(ops, "memory_efficient_attention", broken)
    assert not xformers_works(torch.device("cpu"))
    assert caplog.records[0].message.endswith("is not used: your GPU has capability (12, 0) (too new), and more")


def test_an_xformers_that_does_not_load_is_told_once_for_all_models(monkeypatch, caplog):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(backends, "xformers_trouble", lambda: "libcudart.so.12: no such file")
    for head_width in (32, 64):
        assert not xformers_works(torch.device("cpu"), torch.float32, head_width)
    (line,) = caplog.records
    assert line.message.endswith("libcudart.so.12: no such file")


def test_why_xformers_does_not_load_is_told_in_a_line(monkeypatch):
    library = pytest.importorskip("xformers._cpp_lib")
    monkeypatch.setattr(library, "_cpp_library_load_exception", None)
    assert find_trouble() is None
    built = library._BuildInfo({"version": {"torch": "2.10.0+cu128"}})
    failed = library.xFormersInvalidLibException(built)
    failed.__cause__ = OSError("Could not load this library: _C.so")
    failed.__cause__.__cause__ = OSError("libcudart.so.12: cannot open shared object file")
    monkeypatch.setattr(library, "_cpp_library_load_exception", failed)
    versions = f"it was built for torch 2.10.0+cu128, and this is {torch.__version__}"
    assert find_trouble() == f"{versions}: libcudart.so.12: cannot open shared object file"
    monkeypatch.setattr(library, "_cpp_library_load_exception", library.xFormersWasNotBuiltException())
    assert find_trouble() == "Need to compile C++ extensions to use all xFormers features."
    monkeypatch.setitem(sys.modules, "xformers", None)
    assert "xformers" in find_trouble()


def test_a_backend_may_be_tried_first_in_a_checkpointed_layer(monkeypatch):
    """What the attempt keeps for its own backward pass is none of the layer's."""
    ops = pytest.importorskip("xformers.ops")
    monkeypatch.setattr(ops, "memory_efficient_attention", by_its_mask)
    weight = torch.randn(3, requires_grad=True)

    def layer(x: Tensor) -> Tensor:
        assert xformers_works(torch.device("cpu"))
        return (x * weight).sin()

    checkpoint(layer, torch.ones(3), use_reentrant=False).sum().backward()
    torch.testing.assert_close(weight.grad, weight.detach().cos())
