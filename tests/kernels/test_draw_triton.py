"""The drawing of tokens as one Triton kernel equals torch's."""

import itertools
import sys
from types import SimpleNamespace

import pytest
import torch
from triton_interpreter import interpreted, loops_up_to_a_loaded_number, not_interpreted, on_gpu, run_in_interpreter

from evagen.ar_model import LengthConstraints, SamplingOptions, SequenceGrammar
from evagen.ar_model.drawing import Drawing, Slots, SlotTables, draw_in_torch, draw_in_triton, triton_draws
from evagen.ar_model.lengths import LengthScores

__all__ = ["loops_up_to_a_loaded_number"]  # a fixture

GRAMMAR = SequenceGrammar(40, [1, 3, 4], 2, 2)
CONSTRAINTS = [LengthConstraints([3, None]), LengthConstraints(max_tokens=6), LengthConstraints(bias=2.5)]
OPTIONS = {
    "as the model says": SamplingOptions(),
    "temperature": SamplingOptions(temperature=0.6),
    "the likeliest": SamplingOptions(temperature=0),
    "top-k": SamplingOptions(top_k=3),
    "top-k of one": SamplingOptions(top_k=1),
    "top-k of more than there are": SamplingOptions(top_k=1000),
    "top-p": SamplingOptions(top_p=0.7),
    "min-p": SamplingOptions(min_p=0.3),
    "all cuts": SamplingOptions(1.3, 12, 0.9, 0.05),
    "guidance": SamplingOptions(guidance=2.0),
    "guidance that rises": SamplingOptions(guidance=3.0, guidance_schedule="linear", top_p=0.9),
    "guidance for a while": SamplingOptions(
        guidance=0.5, guidance_schedule="interval", guidance_interval=(0.2, 0.7), temperature=0.9
    ),
}


@not_interpreted
def test_all_of_these_in_the_interpreter():
    run_in_interpreter(__file__)


def drawn_clips(draw_all, options, device="cpu", spread=2.0):
    """The slots of three clips with constraints of their own, from their beginning until after their end."""
    guided = options.guidance != 1
    slots = Slots.empty(3, 6 if guided else 3, GRAMMAR, torch.device("cpu"))
    random = torch.Generator().manual_seed(7)
    slots.tables.noise.copy_(torch.rand(slots.tables.noise.shape, generator=random, dtype=torch.float64))
    tables = slots.tables._replace(**LengthScores.of(CONSTRAINTS, GRAMMAR)._asdict())
    slots = Slots(slots.tokens.to(device), SlotTables(*(table.to(device) for table in tables)))
    for place in range(1, GRAMMAR.max_sequence_length):
        logits = torch.randn(len(slots.tokens), GRAMMAR.vocabulary_size, generator=random) * spread
        positions = torch.full((len(slots.tokens),), place)
        draw_all(logits.to(device), positions.to(device), slots, GRAMMAR, options)
    return slots


@interpreted
@pytest.mark.parametrize("name", OPTIONS)
def test_the_kernel_draws_what_torch_draws(name):
    found, expected = (drawn_clips(draw_all, OPTIONS[name]) for draw_all in (draw_in_triton, draw_in_torch))
    assert GRAMMAR.finished(expected.state).all()
    assert found.tokens.equal(expected.tokens)
    for ours, theirs in zip(found.tables, expected.tables, strict=True):
        assert ours.equal(theirs)


@interpreted
@pytest.mark.parametrize("options", [SamplingOptions(top_k=2), SamplingOptions(top_p=0.5), SamplingOptions()])
def test_equally_likely_tokens_all_stay(options):
    slots = drawn_clips(draw_in_triton, options, spread=0.0)
    codes = []
    for sequence in slots.tables.written[:, 1:]:
        end = int((sequence == GRAMMAR.end).nonzero()[0])
        codes += GRAMMAR.unpack(torch.cat([torch.tensor([GRAMMAR.null_class]), sequence[:end]])).codes.tolist()
    assert min(codes) < GRAMMAR.codebook_size / 4
    assert max(codes) > GRAMMAR.codebook_size * 3 / 4  # and not the first two, or the first half


@interpreted
@pytest.mark.parametrize("name", ["as the model says", "the likeliest", "all cuts", "guidance"])
def test_of_what_is_no_number_the_end_is_drawn(name):
    for draw_all, sign in itertools.product((draw_in_triton, draw_in_torch), (1, -1)):
        slots = drawn_clips(draw_all, OPTIONS[name], spread=sign * torch.nan)
        assert slots.tables.written[:, 1:].eq(GRAMMAR.end).all()


@interpreted
def test_a_vocabulary_that_no_program_holds_is_refused():
    grammar = SequenceGrammar(40000, [1], 1, 0)
    slots = Slots.empty(1, 1, grammar, torch.device("cpu"))
    with pytest.raises(ValueError, match="40004 is more than 32768"):
        draw_in_triton(torch.zeros(1, 40004), torch.ones(1, dtype=torch.int64), slots, grammar, SamplingOptions())


@on_gpu
@pytest.mark.parametrize("name", OPTIONS)
def test_on_a_gpu_the_kernel_draws_what_torch_draws(name):
    assert triton_draws(torch.device("cuda", 0), GRAMMAR.vocabulary_size, OPTIONS[name])
    found = drawn_clips(draw_in_triton, OPTIONS[name], "cuda")
    expected = drawn_clips(draw_in_torch, OPTIONS[name])
    for ours, theirs in zip(found.tables, expected.tables, strict=True):
        assert ours.cpu().equal(theirs)


@pytest.mark.parametrize("other", [False, True])
def test_a_kernel_that_fails_or_draws_other_tokens_is_not_used(monkeypatch, caplog, other):
    def launch_draw(logits, positions, tokens, *_):
        if not other:
            raise RuntimeError("no compiler\nand more lines")

    monkeypatch.setitem(sys.modules, "evagen.kernels.draw_triton", SimpleNamespace(launch_draw=launch_draw))
    triton_draws.cache_clear()
    assert not any(triton_draws(torch.device("cpu"), 40, SamplingOptions(guidance=2.0)) for _ in range(2))
    triton_draws.cache_clear()
    said = "it draws other tokens than torch" if other else "no compiler"
    assert [record.message for record in caplog.records] == [
        f"the Triton kernel that draws tokens does not work on cpu, torch's slower ones are taken: {said}"
    ]


def test_on_a_cpu_torch_draws():
    assert not Drawing(GRAMMAR, SamplingOptions(), torch.device("cpu")).in_triton
