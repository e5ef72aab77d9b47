"""The step as Triton kernels equals torch's."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_generator
from triton_interpreter import interpreted, loops_up_to_a_loaded_number, not_interpreted, on_gpu, run_in_interpreter

from evagen.ar_model import ClipTokens
from evagen.ar_model.decoding import Decoder
from evagen.kernels.replay import Replayed

EPS = 1e-6
__all__ = ["loops_up_to_a_loaded_number"]  # a fixture


@not_interpreted
def test_all_of_these_in_the_interpreter():
    run_in_interpreter(__file__)


def random_model(num_rows, length, width=32, heads=2, hidden=48, vocabulary=37, depth=2, half=torch.float16, x=None):
    """Weights and layers as TritonStep takes them, with a cache that is full already."""
    torch.manual_seed(0)

    def drawn(*shape, dtype=half):
        return (torch.randn(*shape) / shape[-1] ** 0.5).to(dtype)

    x = x or torch.float32
    angles = torch.rand(length, width // heads // 2) * 6
    weights = {
        "embedding": drawn(vocabulary, width, dtype=x) * 5, "norm": 1 + drawn(width, dtype=x),
        "head": drawn(vocabulary, width), "rotation": torch.stack([angles.cos(), angles.sin()], -1),
    }  # fmt: skip
    layers = []
    for _ in range(depth):
        cache = drawn(2, num_rows, length, heads, width // heads).transpose(2, 3) * 3
        layers.append({
            "norm1": 1 + drawn(width, dtype=x), "norm2": 1 + drawn(width, dtype=x), "qkv": drawn(3 * width, width) * 2,
            "out": drawn(width, width), "gate_up": drawn(2 * hidden, width), "down": drawn(width, hidden),
            "keys": cache[0], "values": cache[1],
        })  # fmt: skip
    return weights, layers


def copied(layers):
    """The same layers with a cache of their own, in the same order in memory."""
    return [
        {name: x.transpose(1, 2).clone().transpose(1, 2) if x.ndim == 4 else x for name, x in layer.items()}
        for layer in layers
    ]


def plain_step(weights, layers, heads, tokens, positions):
    """The step in fp32, with roundings where TritonStep rounds; writes to the cache."""
    half, all_rows = weights["head"].dtype, torch.arange(len(tokens))

    def product(x, weight):
        return (x.to(half).float() @ weight.float().t()).to(half).float()

    def norm(x, weight):
        return x * (x.square().mean(1, keepdim=True) + EPS).rsqrt() * weight.float()

    kept = weights["embedding"].dtype
    rotation = torch.view_as_complex(weights["rotation"])[positions][:, None, None]  # (R, 1, 1, d / 2)
    x = weights["embedding"][tokens].float()
    for layer in layers:
        qkv = product(norm(x, layer["norm1"]), layer["qkv"]).unflatten(1, (3, heads, -1))
        pairs = torch.view_as_complex(qkv[:, :2].unflatten(-1, (-1, 2)))
        query, key = torch.view_as_real(pairs * rotation).flatten(-2).to(half).unbind(1)
        layer["keys"][all_rows, :, positions], layer["values"][all_rows, :, positions] = key, qkv[:, 2].to(half)
        seen = (torch.arange(layer["keys"].shape[2]) <= positions[:, None])[:, None, None]
        query, keys, values = query[:, :, None].float(), layer["keys"].float(), layer["values"].float()
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen)
        x = (x + product(attended.flatten(1), layer["out"])).to(kept).float()
        gate, up = product(norm(x, layer["norm2"]), layer["gate_up"]).chunk(2, dim=1)
        x = (x + product(F.silu(gate).to(half).float() * up, layer["down"])).to(kept).float()
    return product(norm(x, weights["norm"]), weights["head"])


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


CASES = {
    "one row": {"positions": [3]},
    "one row, widths that are no powers of two": {"positions": [5], "width": 48, "heads": 3, "hidden": 40},
    "rows at different places": {"positions": [0, 11, 4]},
    "widths that are no multiples of tiles": {"positions": [2, 7], "width": 144, "heads": 9, "hidden": 75},
    "a full tile of rows": {"positions": list(range(16)), "length": 20},
    "more than a tile of rows": {"positions": [i % 7 for i in range(21)]},
    "two tiles of rows": {"positions": [i % 9 for i in range(66)], "depth": 1},
    "a long context in splits": {"positions": [1700], "length": 2000, "depth": 1},
    "rows in splits, one of them with keys for the first": {"positions": [900, 1], "length": 1000, "depth": 1},
    "all in half": {"positions": [3, 8], "x": torch.float16},
    "bf16": {"positions": [6], "half": torch.bfloat16},  # in one row, since the interpreter has no product of bf16
}  # fmt: skip


@interpreted
@pytest.mark.parametrize("name", CASES)
def test_the_step_equals_a_plain_one_and_repeats_to_the_bit(name):
    from evagen.kernels.decode_step_triton import TritonStep

    shape = {"length": 12, "heads": 2, **CASES[name]}
    positions = torch.tensor(shape.pop("positions"))
    heads = shape["heads"]
    weights, layers = random_model(len(positions), **shape)
    expected_layers = copied(layers)
    tokens = torch.arange(len(positions)) % 37
    step = TritonStep(weights, layers, heads, EPS)
    expected = plain_step(weights, expected_layers, heads, tokens, positions)
    found = step(tokens, positions)
    close = 0.1 if shape.get("half") == torch.bfloat16 else 3e-3  # the interpreter cuts off what bf16 has no place for
    assert relative_error(found, expected) < close
    for ours, theirs in zip(layers, expected_layers):
        for part in ("keys", "values"):
            assert relative_error(ours[part].float(), theirs[part].float()) < close
    assert step(tokens, positions).equal(found)


@interpreted
@pytest.mark.parametrize("num_rows", [3, 20])
def test_a_row_does_not_depend_on_those_beside_it(num_rows):
    from evagen.kernels.decode_step_triton import TritonStep

    weights, layers = random_model(num_rows, length=12)
    tokens, positions = torch.arange(num_rows), torch.arange(num_rows) % 12
    found = TritonStep(weights, copied(layers), 2, EPS)(tokens, positions)
    tokens[1:], positions[1:] = tokens[1:] + 3, 11 - positions[1:]
    again = TritonStep(weights, copied(layers), 2, EPS)(tokens, positions)
    assert again[0].equal(found[0])
    assert not again[1].equal(found[1])


@on_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_rows", [1, 3, 16, 40, 70])
def test_recorded_steps_on_a_gpu_equal_those_in_torch(num_rows, dtype):
    from evagen.kernels.decode_step_triton import TritonStep

    model = tiny_generator().cuda()
    random = torch.Generator().manual_seed(num_rows)
    lengths = [[1, 3, 5][row % 3] for row in range(num_rows)]
    given = [ClipTokens(torch.randint(11, (n,), generator=random), torch.tensor([n])) for n in lengths]
    prompts = [model.grammar.prompt(0, clip) for clip in given]
    tokens = torch.zeros(num_rows, dtype=torch.int64, device="cuda")
    with torch.no_grad():
        ours, plain = Decoder(model, num_rows, dtype), Decoder(model, num_rows, dtype)
        assert isinstance(ours._fused_step, TritonStep)
        plain._fused_step = None
        for decoder in (ours, plain):
            decoder.prefill(list(range(num_rows)), prompts)
        logits = torch.empty(num_rows, model.grammar.vocabulary_size, device="cuda")
        step = Replayed(model.device)
        for _ in range(6):
            tokens.copy_(torch.randint(11, (num_rows,), generator=random))
            step(lambda: logits.copy_(ours.launch(tokens)), ours.keys_read)
            ours.count()
            assert relative_error(logits, plain.step(tokens)) < (2e-2 if dtype == torch.bfloat16 else 3e-3)
        assert step.records
        kept = range(0, num_rows, 2)
        for decoder in (ours, plain):
            decoder.keep(kept)
        plain._fused_step, tokens = None, tokens[kept]
        assert relative_error(ours.step(tokens), plain.step(tokens)) < (2e-2 if dtype == torch.bfloat16 else 3e-3)


@on_gpu
@pytest.mark.parametrize("name", CASES)
def test_on_a_gpu_the_step_equals_a_plain_one_and_repeats_to_the_bit(name):
    from evagen.kernels.decode_step_triton import TritonStep

    shape = {"length": 12, "heads": 2, **CASES[name]}
    positions, heads = torch.tensor(shape.pop("positions")), shape["heads"]
    weights, layers = random_model(len(positions), **shape)
    tokens = torch.arange(len(positions)) % 37
    expected = plain_step(weights, copied(layers), heads, tokens, positions)
    on_device = [{key: x.cuda() for key, x in each.items()} for each in (weights, *layers)]
    step = TritonStep(on_device[0], on_device[1:], heads, EPS)
    found = step(tokens.cuda(), positions.cuda())
    assert relative_error(found.cpu(), expected) < (3e-2 if shape.get("half") == torch.bfloat16 else 3e-3)
    assert all(step(tokens.cuda(), positions.cuda()).equal(found) for _ in range(20))


def test_a_failure_of_triton_is_told_and_torch_goes_on(monkeypatch, caplog):
    model = tiny_generator()
    decoder = Decoder(model, 2, torch.bfloat16)
    assert decoder._fused_step is None
    broken = SimpleNamespace(has_kernels_for=lambda *_: True, TritonStep=_raises)
    monkeypatch.setitem(sys.modules, "evagen.kernels.decode_step_triton", broken)
    decoder.device = torch.device("cuda")
    for _ in range(2):
        assert decoder._make_fused_step() is None
    assert [record.message for record in caplog.records].count(
        "a step's Triton kernels do not work here, torch's slower ones are taken: no compiler"
    ) == 1


@pytest.mark.parametrize("share", [1.2, float("nan")])
def test_kernels_that_are_wrong_are_not_used(monkeypatch, caplog, share):
    decoder = Decoder(tiny_generator(), 2, torch.bfloat16)
    right = torch.randn(2, 18, generator=torch.Generator().manual_seed(0))
    steps = {"right": lambda *_: right * 1.01, "wrong": lambda *_: right * share}
    monkeypatch.setattr(decoder, "_step_in_torch", lambda _: right)
    decoder.device = torch.device("cuda")
    for name, is_used in (("right", True), ("wrong", False)):
        module = SimpleNamespace(has_kernels_for=lambda *_: True, TritonStep=lambda *_, name=name: steps[name])
        monkeypatch.setitem(sys.modules, "evagen.kernels.decode_step_triton", module)
        assert (decoder._make_fused_step() is not None) == is_used
    assert "their logits are wrong by" in caplog.text


@pytest.mark.parametrize("num_rows", [1, 3])
def test_a_step_that_turns_queries_wrongly_is_not_used(monkeypatch, caplog, num_rows):
    """At a sequence's first place every rotation is right, since there is nothing to turn to. And what was tried is
    forgotten: the first real step is that of a decoder that has tried nothing."""
    model, random = tiny_generator(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.1)
    untried, decoder = (Decoder(model, num_rows, torch.bfloat16) for _ in range(2))

    def turned(tokens, positions):
        assert len(set(positions.tolist())) == num_rows
        right, decoder.rotation = decoder.rotation, decoder.rotation.conj().resolve_conj()
        try:
            return decoder._step_in_torch(tokens)
        finally:
            decoder.rotation = right

    for step, is_used in ((lambda tokens, _: decoder._step_in_torch(tokens), True), (turned, False)):
        module = SimpleNamespace(has_kernels_for=lambda *_: True, TritonStep=lambda *_, step=step: step)
        monkeypatch.setitem(sys.modules, "evagen.kernels.decode_step_triton", module)
        assert (decoder._triton_step({}, []) is not None) == is_used
    assert "their logits are wrong by" in caplog.text
    tokens = torch.arange(num_rows)
    with torch.no_grad():
        for _ in range(3):
            assert decoder.step(tokens).equal(untried.step(tokens))


def _raises(*_):
    raise RuntimeError("no compiler\nand more lines")
