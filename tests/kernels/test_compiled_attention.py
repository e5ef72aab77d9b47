"""Models whose attention is FlashAttention, compiled: torch's kernel is pretended on the CPU."""

import copy
from collections.abc import Callable

import pytest
import torch
from tiny_models import LEVELS, tiny_generator, tiny_tokenizer
from torch import Tensor
from torch._dynamo.utils import counters

from evagen.ar_model import transformer
from evagen.bench.pretended import kernels as pretended
from evagen.kernels import attention
from evagen.tokenizer import autoencoder


@pytest.fixture(autouse=True)
def flash(monkeypatch):
    """FlashAttention on a CPU, of any type, and plans made ready for it there."""
    monkeypatch.setattr(pretended, "check_heads", lambda *_: None)
    monkeypatch.setattr(attention, "backend_for", torch.compiler.assume_constant_result(lambda *_: "flash"))
    for module in (autoencoder, transformer):
        monkeypatch.setattr(module, "send", lambda nest, _: _ready(nest))
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", pretended.flash_forward, "CPU")
        library.impl("_flash_attention_backward", pretended.flash_backward, "CPU")
        yield


def _ready(nest):
    from evagen.kernels.transfer import _each

    return _each(nest, lambda tensor: tensor)


def tokenizer_gradients(model, clips: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(clips)
    video = torch.rand(clips, 3, 8, 16, 16, generator=random) * 2 - 1
    lengths = torch.tensor(LEVELS)[torch.randint(2, (clips, 2), generator=random)]
    output = model(video, lengths)
    loss = (output.reconstruction - video).square().mean() + sum(output.quantizer_losses.values())
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True))


def generator_gradients(model, clips: int) -> list[Tensor]:
    lengths = [3 + n % 4 for n in range(clips)]
    tokens = torch.randint(11, (sum(lengths),), generator=torch.Generator().manual_seed(clips))
    return list(torch.autograd.grad(model(tokens, lengths).square().mean(), model.parameters()))


@pytest.mark.parametrize(
    ("make", "gradients", "kinds"),
    [(lambda: tiny_tokenizer(), tokenizer_gradients, 2), (tiny_generator, generator_gradients, 1)],
    ids=["tokenizer", "generator"],
)
def test_a_kind_of_layer_is_one_graph_for_all_lengths(make: Callable, gradients: Callable, kinds: int):
    plain = make()
    compiled = copy.deepcopy(plain)
    compiled.compile_repeated_blocks(dynamic=True, fullgraph=True, backend="aot_eager")
    before = counters["stats"]["unique_graphs"]
    for clips in (2, 3, 5, 4):
        for mine, theirs in zip(gradients(compiled, clips), gradients(plain, clips)):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] - before == kinds
