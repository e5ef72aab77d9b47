"""The generator: grammar, packed = alone, cached = uncached, guidance, seeds, sizes."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters

from ar_model import (
    SIZES,
    SamplingOptions,
    SequenceGrammar,
    VideoGenerator,
    length_shares,
    next_token_loss,
    sample,
    shape_of,
    with_shape,
)
from ar_model.sampler import draw, token_probabilities
from evagen.training import OptimizerConfig, make_optimizers

LEVELS = [1, 3, 5]


@pytest.fixture(scope="module")
def model() -> VideoGenerator:
    torch.manual_seed(0)
    model = VideoGenerator(11, LEVELS, 3, class_names=["a", "b"], width=32, depth=2, num_heads=2, hidden_width=48)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # logits apart from one another, as a trained model's
    return model.eval()


def random_clips(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(LEVELS)[torch.randint(3, (count, 3), generator=generator)]
    codes = torch.randint(11, (int(lengths.sum()),), generator=generator)
    return codes, lengths, torch.randint(-1, 2, (count,), generator=generator)


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_unpacking_gives_back_what_was_packed(count, seed):
    grammar = SequenceGrammar(11, LEVELS, 3, 2)
    codes, lengths, labels = random_clips(count, seed)
    tokens, sequence_lengths = grammar.pack(codes, lengths, labels)
    assert len(tokens) == sum(sequence_lengths)
    for sequence, clip_codes, row in zip(tokens.split(sequence_lengths), codes.split(lengths.sum(1).tolist()), lengths):
        unpacked_codes, unpacked_lengths = grammar.unpack(sequence)
        assert torch.equal(unpacked_codes, clip_codes)
        assert torch.equal(unpacked_lengths, row)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.7, 5.0]), st.sampled_from([0, 1, 4]), st.sampled_from([1.0, 0.3]))
def test_the_grammar_holds_for_random_logits(seed, temperature, top_k, top_p):
    grammar = SequenceGrammar(11, LEVELS, 3, 2)
    options = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p)
    generator = torch.Generator().manual_seed(seed)
    state, written = grammar.start(4, torch.device("cpu")), [grammar.class_token(torch.tensor([-1, 0, 1, 1]))]
    for _ in range(grammar.max_sequence_length - 1):
        logits = torch.randn(4, grammar.vocabulary_size, generator=generator) * 10
        logits = logits.masked_fill(~grammar.allowed(state), -torch.inf)
        uniform = torch.rand(4, generator=generator, dtype=torch.float64)
        written.append(draw(token_probabilities(logits, options), uniform))
        state = grammar.advance(state, written[-1])
    assert bool(grammar.finished(state).all())
    for sequence in torch.stack(written, dim=1):
        end = int((sequence == grammar.end).nonzero()[0])
        codes, lengths = grammar.unpack(sequence[:end])
        assert set(lengths.tolist()) <= set(LEVELS)
        assert len(codes) == int(lengths.sum())


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ([14, 0], "position 1 should hold the length token of block 0"),
        ([14, 12, 0, 1], "block 0 should hold 3 content tokens from position 2"),
        ([14, 11, 0, 11, 1, 11, 2, 5], "only the end token may follow"),
    ],
)
def test_a_sequence_that_breaks_the_grammar_is_explained(sequence, message):
    with pytest.raises(ValueError, match=message):
        SequenceGrammar(11, LEVELS, 3, 2).unpack(torch.tensor(sequence))


def test_packed_loss_equals_the_sum_over_clips(model):
    codes, lengths, labels = random_clips(5, 0)
    tokens, sequence_lengths = model.grammar.pack(codes, lengths, labels)
    packed = next_token_loss(model(tokens, sequence_lengths), tokens, sequence_lengths, model.grammar)
    total = count = 0
    for sequence in tokens.split(sequence_lengths):
        targets = len(sequence) - 2  # all but the class token and the end
        one = next_token_loss(model(sequence, [len(sequence)]), sequence, [len(sequence)], model.grammar)
        total, count = total + one.loss * targets, count + targets
    torch.testing.assert_close(packed.loss, total / count)


def test_loss_by_hand_counts_lengths_and_contents_only():
    grammar = SequenceGrammar(2, [1], 1, 0)  # vocabulary: codes 0 1, length 2, null class 3, separator 4, end 5
    tokens = torch.tensor([3, 2, 1, 5])
    logits = torch.zeros(4, 6)
    logits[0, 2] = 2.0
    loss = next_token_loss(logits, tokens, [4], grammar)
    length_loss = -torch.log(torch.tensor(2.0).exp() / (torch.tensor(2.0).exp() + 5))
    content_loss = torch.log(torch.tensor(6.0))
    torch.testing.assert_close(loss.length_loss, length_loss)
    torch.testing.assert_close(loss.content_loss, content_loss)
    torch.testing.assert_close(loss.loss, (length_loss + content_loss) / 2)


def test_length_shares_by_hand():
    """Two clips of one block; the model knows the first length for sure and wavers between all three at the second."""
    grammar = SequenceGrammar(2, [1, 2, 4], 1, 0)  # codes 0 1, lengths 2 3 4, null class 5, separator 6, end 7
    tokens = torch.tensor([5, 3, 0, 1, 7, 5, 2, 0, 7])
    logits = torch.randn(9, 8, generator=torch.Generator().manual_seed(0))
    logits[0, 2:5] = torch.tensor([-50.0, 50.0, -50.0])
    logits[5, 2:5] = 3.0
    shares = length_shares(logits[:, 2:5], tokens, [5, 4], grammar)
    torch.testing.assert_close(shares.predicted, torch.tensor([1 / 6, 4 / 6, 1 / 6]))
    torch.testing.assert_close(shares.true, torch.tensor([0.5, 0.5, 0.0]))


def test_a_batch_with_its_clips_in_another_order_has_the_same_loss(model):
    """So that training may sort them by length, and padding of equal sequences is all that a packed batch saves."""
    tokens, sequence_lengths = model.grammar.pack(*random_clips(6, 4))
    backwards = torch.cat(tokens.split(sequence_lengths)[::-1]), sequence_lengths[::-1]
    losses = [
        next_token_loss(model(*batch), *batch, model.grammar).loss for batch in ((tokens, sequence_lengths), backwards)
    ]
    torch.testing.assert_close(*losses)


def gradients(model: VideoGenerator, seed: int = 0, count: int = 4) -> list[torch.Tensor]:
    tokens, sequence_lengths = model.grammar.pack(*random_clips(count, seed))
    loss = next_token_loss(model(tokens, sequence_lengths), tokens, sequence_lengths, model.grammar).loss
    return list(torch.autograd.grad(loss, model.parameters()))


def test_checkpointed_layers_give_the_same_gradients(model):
    checkpointed = copy.deepcopy(model)
    checkpointed.enable_gradient_checkpointing()
    assert checkpointed.gradient_checkpointing
    for mine, theirs in zip(gradients(checkpointed), gradients(model)):
        torch.testing.assert_close(mine, theirs)


def test_compiled_layers_give_the_same_gradients_and_compile_once_for_all_lengths(model):
    compiled = copy.deepcopy(model)
    compiled.compile_repeated_blocks(dynamic=True, backend="aot_eager")  # all of inductor's road but its code
    for mine, theirs in zip(gradients(compiled), gradients(model)):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    graphs = counters["stats"]["unique_graphs"]
    for count in (1, 2, 5, 9):
        gradients(compiled, count, count)
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_norms_and_embeddings_have_no_weight_decay(model, matrices):
    config = OptimizerConfig(steps=1, batch_size=1, learning_rate=0.1, weight_decay=0.3, matrices=matrices)
    groups = [group for optimizer in make_optimizers(model, config) for group in optimizer.param_groups]
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    spared = {name for name, parameter in model.named_parameters() if id(parameter) not in decayed}
    assert spared == {name for name, _ in model.named_parameters() if "norm" in name or "embed" in name}


@pytest.mark.parametrize("name", SIZES)
def test_a_named_size_has_the_parameters_that_the_table_says(name):
    with torch.device("meta"):
        model = VideoGenerator(8192, [32, 64, 128, 256, 512], 4, [str(i) for i in range(101)], **shape_of(name))
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert round(millions, 1) == SIZES[name].millions
    if name == "L-plus":
        assert millions == pytest.approx(633, rel=0.02)


def test_a_size_and_a_shape():
    assert with_shape({"width": 5}) == {"width": 5}
    assert with_shape({"size": None, "depth": 5}) == {"size": None, "depth": 5}
    assert with_shape({"size": "S", "depth": 12}) == {"size": "S", "width": 384, "depth": 12, "num_heads": 6}
    with pytest.raises(ValueError, match="size S means width=384, depth=12, num_heads=6, not depth=3, num_heads=2"):
        with_shape({"size": "S", "depth": 3, "num_heads": 2})
    with pytest.raises(ValueError, match="no size 's'; the sizes are nano, S, B"):
        with_shape({"size": "s"})


def test_cached_logits_equal_uncached(model):
    codes, lengths, labels = random_clips(3, 1)
    tokens, sequence_lengths = model.grammar.pack(codes, lengths, labels)
    full = model(tokens, sequence_lengths).split(sequence_lengths)
    shortest = min(sequence_lengths)
    sequences = torch.stack([sequence[:shortest] for sequence in tokens.split(sequence_lengths)])  # (S, shortest)
    cache = model.make_cache(3)
    for position in range(shortest):
        step = model.step(sequences[:, position], cache, position)
        expected = torch.stack([logits[position] for logits in full])
        torch.testing.assert_close(step, expected, atol=1e-4, rtol=1e-4)


def test_the_future_changes_nothing(model):
    codes, lengths, labels = random_clips(1, 2)
    tokens, sequence_lengths = model.grammar.pack(codes, lengths, labels)
    changed = tokens.clone()
    changed[4:] = (changed[4:] + 1) % 11
    before, after = model(tokens, sequence_lengths), model(changed, sequence_lengths)
    assert torch.equal(before[:4], after[:4])
    assert not torch.equal(before[4:], after[4:])


def test_guidance_one_equals_no_guidance_and_two_differs(model):
    labels, seeds = torch.tensor([0, 1, 0, 1, 0, 1]), range(6)

    def codes(guidance: float) -> list[list[int]]:
        return [c.codes.tolist() for c in sample(model, labels, seeds, SamplingOptions(guidance=guidance))]

    tokens = model.grammar.class_token(labels)
    null = torch.full_like(tokens, model.grammar.null_class)
    conditional = model.step(tokens, model.make_cache(6), 0)
    unconditional = model.step(null, model.make_cache(6), 0)
    torch.testing.assert_close(unconditional + 1.0 * (conditional - unconditional), conditional)
    assert codes(1.0) == codes(1.0 + 1e-9)  # the guided road, at a scale that changes nothing
    assert codes(1.0) != codes(3.0)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_clip_depends_on_its_label_and_seed_only(model, batch_size):
    labels, seeds = torch.tensor([0, 1, 1, -1, 0]), [7, 8, 9, 10, 7]
    options = SamplingOptions(guidance=2.0, top_p=0.9)
    together = list(sample(model, labels, seeds, options, batch_size=5))
    apart = list(sample(model, labels, seeds, options, batch_size=batch_size))
    assert all(torch.equal(a.codes, b.codes) and torch.equal(a.lengths, b.lengths) for a, b in zip(together, apart))
    assert torch.equal(together[0].codes, together[4].codes)
    assert not torch.equal(together[1].codes[:3], together[2].codes[:3])


def test_draws_follow_the_probabilities():
    probabilities = torch.tensor([[0.5, 0.0, 0.2, 0.3]], dtype=torch.float64).expand(4000, -1)
    uniform = torch.rand(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.bincount(draw(probabilities, uniform), minlength=4) / 4000
    torch.testing.assert_close(counts, torch.tensor([0.5, 0.0, 0.2, 0.3]), atol=0.03, rtol=0)
    assert draw(probabilities[:3], torch.tensor([0.0, 0.5, 1 - 1e-16], dtype=torch.float64)).tolist() == [0, 2, 3]


def test_filters_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = lambda **options: token_probabilities(logits, SamplingOptions(**options))[0].tolist()  # noqa: E731
    assert kept() == pytest.approx([0.5, 0.3, 0.15, 0.05])
    assert kept(temperature=0) == [1, 0, 0, 0]
    assert kept(top_k=2) == pytest.approx([0.625, 0.375, 0, 0])
    assert kept(top_p=0.6) == pytest.approx([0.625, 0.375, 0, 0])
    assert kept(top_p=0.01) == [1, 0, 0, 0]
    assert kept(temperature=0.5) == pytest.approx([p * p / 0.365 for p in (0.5, 0.3, 0.15, 0.05)])


@pytest.mark.parametrize("options", [{"top_p": 0}, {"temperature": -1}, {"top_k": -1}, {"guidance": -1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SamplingOptions(**options)


def test_an_unknown_label_is_refused(model):
    with pytest.raises(ValueError, match="labels run from 0 to 1"):
        list(sample(model, torch.tensor([2]), [0], SamplingOptions()))


def test_weights_survive_a_round_trip(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = VideoGenerator.from_pretrained(tmp_path)
    tokens, sequence_lengths = model.grammar.pack(*random_clips(2, 3))
    assert torch.equal(model(tokens, sequence_lengths), again(tokens, sequence_lengths))
    assert list(again.config.class_names) == ["a", "b"]
