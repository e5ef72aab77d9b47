"""The sampler: what it writes against a plain uncached loop, whatever is written beside it; filters, guidance, length
constraints, given blocks."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import tiny_generator

from evagen.ar_model import (
    ClipRequest,
    ClipTokens,
    LengthConstraints,
    SamplingOptions,
    SequenceGrammar,
    VideoGenerator,
    decoding,
    sample,
    sample_in_order,
)
from evagen.ar_model.decoding import Decoder
from evagen.ar_model.drawing import clip_noise, draw, token_probabilities
from evagen.ar_model.sampler import ContinuousBatch
from evagen.kernels.decode_step import can_compile

LEVELS = [1, 3, 5]


@pytest.fixture(scope="module")
def model() -> VideoGenerator:
    return tiny_generator()


def blocks(*lengths: int, seed: int = 0) -> ClipTokens:
    codes = torch.randint(11, (sum(lengths),), generator=torch.Generator().manual_seed(seed))
    return ClipTokens(codes, torch.tensor(lengths))


REQUESTS = [ClipRequest(7, 0), ClipRequest(8, 1), ClipRequest(9, 1), ClipRequest(10), ClipRequest(7, 0)]
REQUESTS += [ClipRequest(seed, seed % 2) for seed in range(20, 26)]


@torch.no_grad()
def plain_sample(model: VideoGenerator, request: ClipRequest, options: SamplingOptions) -> ClipTokens:
    """The same clip by the shortest road: the whole sequence through the model for every token, the grammar by hand."""
    grammar = model.grammar
    noise = clip_noise(request.seed, grammar.max_sequence_length)
    tokens = grammar.prompt(request.label, request.given).tolist()
    own = 0 if request.given is None or grammar.num_given_blocks else len(request.given.lengths)
    for block in range(own, grammar.num_blocks):
        remaining, length = -1, 0  # the length token first
        while remaining != 0:
            logits = model(torch.tensor(tokens), [len(tokens)])[-1]
            if options.guidance != 1:
                without = torch.tensor([grammar.null_class, *tokens[1:]])
                unconditional = model(without, [len(tokens)])[-1]
                due = remaining / length if remaining > 0 else 1.0  # share of this block that is not written yet
                progress = torch.tensor([(block + 1 - due) / grammar.num_blocks])
                logits = unconditional + options.guidance_at(progress)[0] * (logits - unconditional)
            low, high = (grammar.first_length, grammar.first_class) if remaining < 0 else (0, grammar.codebook_size)
            allowed = torch.full_like(logits, -torch.inf)
            allowed[low:high] = logits[low:high]
            token = draw(token_probabilities(allowed[None], options), noise[None, len(tokens) - 1])
            tokens.append(int(token))
            if remaining < 0:
                remaining = length = LEVELS[int(token) - grammar.first_length]
            else:
                remaining -= 1
    return grammar.unpack(torch.tensor(tokens))


def same(a: ClipTokens, b: ClipTokens) -> bool:
    return torch.equal(a.codes, b.codes) and torch.equal(a.lengths, b.lengths)


OPTIONS = [
    SamplingOptions(),
    SamplingOptions(temperature=0.0),
    SamplingOptions(top_k=4, top_p=0.9, min_p=0.05),
    SamplingOptions(guidance=2.0),
    SamplingOptions(guidance=2.0, guidance_schedule="linear"),
    SamplingOptions(guidance=3.0, guidance_schedule="interval", guidance_interval=(0.3, 0.7)),
]


@pytest.mark.parametrize("num_slots", [1, 3, 64])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.guidance_schedule}{o.guidance}")
def test_clips_are_those_of_a_plain_loop_at_any_number_of_slots(model, options, num_slots):
    requests = [*REQUESTS, ClipRequest(5, 1, blocks(3, 1)), ClipRequest(6, 0, blocks(5))]
    clips = sample_in_order(model, requests, options, num_slots=num_slots)
    for request, clip in zip(requests, clips, strict=True):
        assert same(clip, plain_sample(model, request, options))


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_frame_prediction_is_that_of_a_plain_loop(guidance):
    model = tiny_generator(given_frames=5, num_given_blocks=2)
    requests = [ClipRequest(i, i % 3 - 1, blocks(LEVELS[i % 3], 3, seed=i)) for i in range(5)]
    clips = sample_in_order(model, requests, SamplingOptions(guidance=guidance), num_slots=2)
    for request, clip in zip(requests, clips, strict=True):
        assert same(clip, plain_sample(model, request, SamplingOptions(guidance=guidance)))
    other = sample_in_order(model, [ClipRequest(0, -1, blocks(1, 3, seed=9))])
    assert not same(clips[0], other[0])  # what is given matters


def test_a_clip_depends_on_its_class_and_seed(model):
    clips = sample_in_order(model, REQUESTS)
    assert same(clips[0], clips[4])
    assert not same(clips[1], clips[2])  # another seed
    (other,) = sample_in_order(model, [ClipRequest(7, 1)])
    assert not same(clips[0], other)


def test_a_clip_continued_from_its_own_beginning_becomes_itself(model):
    """Random numbers belong to places in the sequence, so a clip cut anywhere grows back."""
    whole = sample_in_order(model, REQUESTS)
    for number in (1, 2):
        begun = [ClipTokens(clip.codes[: int(clip.lengths[:number].sum())], clip.lengths[:number]) for clip in whole]
        requests = [ClipRequest(r.seed, r.label, before) for r, before in zip(REQUESTS, begun)]
        assert all(map(same, sample_in_order(model, requests, num_slots=4), whole))


def test_of_a_seed_the_low_32_bits_count(model):
    clips = [sample_in_order(model, [ClipRequest(seed)])[0] for seed in (5, 5 + 2**32, 5 + 2**70, 5 - 2**32)]
    assert all(same(clip, clips[0]) for clip in clips)
    assert clip_noise(5, 9, 1).equal(clip_noise(5 - 2**32, 9, 1))


def test_no_given_blocks_are_none(model):
    for options in (SamplingOptions(), SamplingOptions(guidance=2.0)):
        without, nothing = sample_in_order(model, [ClipRequest(7, 0), ClipRequest(7, 0, blocks())], options)
        assert same(nothing, without)


class OnGPU:
    """A tensor elsewhere, of which nothing can be had but its copy here."""

    def __init__(self, tensor: torch.Tensor):
        self._tensor = tensor

    def cpu(self) -> torch.Tensor:
        return self._tensor


def test_given_blocks_may_lie_on_another_device(model):
    """As the tokenizer leaves them."""
    here, there = blocks(3, 1), ClipTokens(*map(OnGPU, blocks(3, 1)))
    clips = [sample_in_order(model, [ClipRequest(5, 1, given), ClipRequest(6)])[0] for given in (here, there)]
    assert same(*clips)


def test_clips_come_as_they_get_finished(model):
    numbers = [number for number, _ in sample(model, REQUESTS, num_slots=3)]
    assert sorted(numbers) == list(range(len(REQUESTS)))
    lengths = [len(clip.codes) for clip in sample_in_order(model, REQUESTS)]
    assert lengths[numbers[0]] == min(lengths[:3])  # the shortest of those that start together


@pytest.mark.parametrize("compiled", [True, False])
def test_steps_read_from_the_cache_what_the_model_computes(model, compiled, monkeypatch):
    """Rows at different places, started at different times, one of them in place of another."""
    if not compiled:
        monkeypatch.setattr(decoding, "can_compile", lambda *_: False)
    elif not can_compile(2, 64, 64, 32):
        pytest.skip("there is no C compiler")
    clips = [ClipTokens(*clip) for clip in (blocks(5, 5, 3), blocks(1, 3, 3, seed=1), blocks(3, 3, 1, seed=2))]
    tokens, lengths = model.grammar.pack(clips, torch.tensor([0, 1, -1]))
    sequences = list(tokens.split(lengths))
    with torch.no_grad():
        expected = list(model(tokens, lengths).split(lengths))
        decoder = Decoder(model, 2)
        decoder.prefill([0, 1], [sequences[0][:6], sequences[1][:1]])
        at, rows = [5, 0], [0, 1]
        for step in range(8):
            if step == 3:
                decoder.prefill([1], [sequences[2][:4]])
                rows[1], at[1] = 2, 3
            due = torch.tensor([sequences[row][i] for row, i in zip(rows, at)])
            logits = decoder.step(due)
            wanted = torch.stack([expected[row][i] for row, i in zip(rows, at)])
            torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)
            at = [i + 1 for i in at]
            if step == 5:
                decoder.keep([1])
                rows, at = rows[1:], at[1:]


def test_half_precision_is_that_of_products_and_cache(model):
    clips = [ClipTokens(*clip) for clip in (blocks(5, 5, 3), blocks(1, 3, 3, seed=1))]
    tokens, lengths = model.grammar.pack(clips, torch.tensor([0, 1]))
    sequences = list(tokens.split(lengths))
    with torch.no_grad():
        decoder = Decoder(model, 2, torch.bfloat16)
        decoder.prefill([0, 1], [sequence[:6] for sequence in sequences])
        logits = decoder.step(torch.stack([sequence[5] for sequence in sequences]))
        exact = torch.stack([part[5] for part in model(tokens, lengths).split(lengths)])
    assert (logits.dtype, decoder.cache[0].dtype, model.dtype) == (torch.float32, torch.bfloat16, torch.float32)
    assert 0 < (logits - exact).abs().max() < 0.03 * exact.abs().max()


def test_guidance_one_equals_no_guidance_and_three_differs(model):
    clips = {g: sample_in_order(model, REQUESTS, SamplingOptions(guidance=g)) for g in (1.0, 1.0 + 1e-9, 3.0)}
    assert all(map(same, clips[1.0], clips[1.0 + 1e-9]))  # the guided road, at a scale that changes nothing
    assert not all(map(same, clips[1.0], clips[3.0]))


def test_guidance_costs_a_generator_without_classes_nothing():
    model, options = tiny_generator(class_names=[]), SamplingOptions(guidance=3.0)
    assert len(ContinuousBatch(model, [ClipRequest(0)], options, 1).decoder.positions) == 1
    assert same(*(sample_in_order(model, [ClipRequest(0)], each)[0] for each in (options, SamplingOptions())))


def test_the_largest_numbers_draw_tokens_still(model):
    for options in ({"temperature": 1e-6}, {"temperature": 1e6}, {"guidance": 1e6}):
        for bias in (1e6, -1e6):
            request = ClipRequest(0, 0, constraints=LengthConstraints(bias=bias))
            (clip,) = sample_in_order(model, [request], SamplingOptions(**options))
            assert len(clip.lengths) == 3


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"top_p": 0.9}, {"guidance": 2.0}], ids=str)
def test_numbers_that_half_precision_cannot_hold_are_told(options):
    model = tiny_generator()
    with torch.no_grad():
        for layer in model.layers:
            layer.mlp.gate_proj.weight.mul_(300)
            layer.mlp.up_proj.weight.mul_(3e4)
    assert len(sample_in_order(model, [ClipRequest(0)], SamplingOptions(**options))) == 1
    with pytest.raises(ValueError, match=r"in torch\.float16 the generator's numbers become infinite: compute in bf16"):
        sample_in_order(model, [ClipRequest(0)], SamplingOptions(**options), dtype=torch.float16)


def test_an_interval_may_be_a_list():
    options = SamplingOptions(guidance_schedule="interval", guidance_interval=[0, 0.5])
    assert hash(options) == hash(SamplingOptions(guidance_schedule="interval", guidance_interval=(0, 0.5)))


def test_guidance_schedules_by_hand():
    progress = torch.tensor([0.0, 0.25, 0.5, 1.0])
    scale = lambda **options: SamplingOptions(guidance=3.0, **options).guidance_at(progress)[:, 0].tolist()  # noqa: E731
    assert scale() == [3, 3, 3, 3]
    assert scale(guidance_schedule="linear") == [1, 1.5, 2, 3]
    assert scale(guidance_schedule="interval", guidance_interval=(0.25, 0.5)) == [1, 3, 1, 1]


def test_progress_rises_through_the_clip():
    grammar = SequenceGrammar(11, LEVELS, 3, 2)
    state, seen = grammar.start(1), []
    for token in (12, 0, 0, 0, 11, 0, 13, 0):  # lengths 3, 1 and 5
        seen.append(round(grammar.progress(state).item() * 9))
        state = grammar.advance(state, torch.tensor([token]))
    assert seen == [0, 0, 1, 2, 3, 3, 6, 6]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([None, *LEVELS]), min_size=3, max_size=3),
    st.sampled_from([None, 5, 7, 9]),
    st.sampled_from([-8.0, 0.0, 8.0]),
    st.integers(0, 2**31),
)
def test_constraints_are_obeyed(model, forced, max_tokens, bias, seed):
    constraints = LengthConstraints(forced, max_tokens=max_tokens, bias=bias)
    requests = [ClipRequest(seed + i, i % 2, constraints=constraints) for i in range(4)]
    least = sum(length or 1 for length in forced)
    if max_tokens is not None and max_tokens < least:
        with pytest.raises(ValueError, match=f"it needs at least {least}"):
            sample_in_order(model, requests)
        return
    for clip in sample_in_order(model, requests):
        lengths = clip.lengths.tolist()
        assert all(wanted in (None, length) for wanted, length in zip(forced, lengths))
        assert max_tokens is None or sum(lengths) <= max_tokens


def test_caps_bias_and_given_lengths(model):
    def lengths(**constraints) -> torch.Tensor:
        requests = [replace(request, constraints=LengthConstraints(**constraints)) for request in REQUESTS]
        return torch.stack([clip.lengths for clip in sample_in_order(model, requests, num_slots=4)])

    free = lengths()
    assert free.max() == 5  # so that the cap says something
    assert lengths(max_length=3).max() == 3
    assert lengths(bias=50.0).min() == 5
    assert lengths(bias=-50.0).max() == 1
    assert torch.equal(lengths(bias=0.0), free)
    (clip,) = sample_in_order(model, [ClipRequest(3, 0, blocks(5), LengthConstraints([1, 1, 3], max_tokens=9))])
    assert clip.lengths.tolist() == [5, 1, 3]
    with pytest.raises(ValueError, match="a clip cannot do with 6 tokens: it needs at least 7"):
        sample(model, [ClipRequest(3, 0, blocks(5), LengthConstraints(max_tokens=6))])


def test_each_clip_has_its_own_constraints(model):
    forced = [[1, 3, 5], [5, 5, 5], None, [1, 1, 1], [3, None, 1], [5, 1, 1]]
    requests = [replace(request, constraints=LengthConstraints(lengths)) for request, lengths in zip(REQUESTS, forced)]
    for request, clip in zip(requests, sample_in_order(model, requests, num_slots=2), strict=True):
        assert same(clip, *sample_in_order(model, [request]))
    assert clip.lengths.tolist() == [5, 1, 1]


def test_draws_follow_the_probabilities():
    probabilities = torch.tensor([[0.5, 0.0, 0.2, 0.3]], dtype=torch.float64).expand(4000, -1)
    uniform = torch.rand(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.bincount(draw(probabilities, uniform), minlength=4) / 4000
    torch.testing.assert_close(counts, torch.tensor([0.5, 0.0, 0.2, 0.3]), atol=0.03, rtol=0)
    assert draw(probabilities[:3], torch.tensor([0.0, 0.5, 1 - 1e-16], dtype=torch.float64)).tolist() == [0, 2, 3]


def test_filters_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()

    def kept(**options) -> list[float]:
        weights = token_probabilities(logits, SamplingOptions(**options))[0]
        return (weights / weights.sum()).tolist()

    assert kept() == pytest.approx([0.5, 0.3, 0.15, 0.05])
    assert kept(temperature=0) == [1, 0, 0, 0]
    assert kept(top_k=2) == pytest.approx([0.625, 0.375, 0, 0])
    assert kept(top_p=0.6) == pytest.approx([0.625, 0.375, 0, 0])
    assert kept(top_p=0.01) == [1, 0, 0, 0]
    assert kept(min_p=0.4) == pytest.approx([0.625, 0.375, 0, 0])
    assert kept(min_p=1.0) == [1, 0, 0, 0]
    assert kept(temperature=0.5) == pytest.approx([p * p / 0.365 for p in (0.5, 0.3, 0.15, 0.05)])


@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 0}, {"temperature": -1}, {"temperature": 1e-40}, {"temperature": float("inf")}, {"top_k": -1},
        {"top_k": 2.5}, {"guidance": -1}, {"guidance": 1e39}, {"min_p": 2}, {"guidance_interval": (1, 0)},
        {"guidance_interval": (0, 0.5)}, {"guidance_schedule": "linaer"},
    ],
    ids=str,
)  # fmt: skip
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SamplingOptions(**options)


def test_what_the_model_cannot_follow_is_refused_before_anything_is_written(model):
    with pytest.raises(ValueError, match="labels run from 0 to 1"):
        sample(model, [ClipRequest(0, 2)])
    with pytest.raises(
        ValueError, match=r"lengths \[1, 2, 1\]: 3 are needed, one for each block, each one of \[1, 3, 5"
    ):
        sample(model, [ClipRequest(0, constraints=LengthConstraints([1, 2, 1]))])
    with pytest.raises(ValueError, match="one needs 5: the levels are"):
        sample(model, [ClipRequest(0, constraints=LengthConstraints([5, 1, 1], max_length=3))])
    for bias in (float("nan"), 1e39, -1e39):
        with pytest.raises(ValueError, match=r"bias on lengths lies in \[-1e\+06, 1e\+06\]"):
            LengthConstraints(bias=bias)
    with pytest.raises(ValueError, match=r"max_tokens is a whole number, got 5\.5"):
        LengthConstraints(max_tokens=5.5)
    for wrong in (torch.tensor([1.0, 1.0, 1.0]), [1, 1.5, 1], 3):
        with pytest.raises(ValueError, match="forced lengths are a list of whole numbers"):
            LengthConstraints(wrong)
    for wrong, message in (
        ((None,), "seed is a whole number, got None"),
        ((0, "a"), "label is a whole number, got 'a'"),
        ((0, 0, None, LengthConstraints(), 3.0), r"num_blocks is a whole number, got 3\.0"),
    ):
        with pytest.raises(ValueError, match=message):
            ClipRequest(*wrong)
    for slots in (0, -1):
        with pytest.raises(ValueError, match=f"num_slots={slots}: at least 1 clip"):
            sample(model, [ClipRequest(0)], num_slots=slots)
    with pytest.raises(ValueError, match="num_blocks=0: a clip has at least 1 block"):
        sample(model, [ClipRequest(0, num_blocks=0)])
    always_conditional = tiny_generator(class_dropout=0.0)
    with pytest.raises(ValueError, match="trained with class_dropout 0: sample with guidance 1"):
        sample(always_conditional, [ClipRequest(0, 1)], SamplingOptions(guidance=1.5))
    assert list(sample(model, [])) == []


def test_what_a_sampler_held_is_free_when_it_is_done(monkeypatch):
    """At once, and not when Python next looks for circles: on a GPU it is caches of gigabytes."""
    model, made = tiny_generator(), []
    prepare = Decoder.__init__

    def noted(self, *rest):
        prepare(self, *rest)
        made.append(weakref.ref(self))

    monkeypatch.setattr(Decoder, "__init__", noted)
    gc.disable()
    try:
        sample_in_order(model, [ClipRequest(seed) for seed in range(3)], None, 2)
        assert [decoder() for decoder in made] == [None]
    finally:
        gc.enable()
