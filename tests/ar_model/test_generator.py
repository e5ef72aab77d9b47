"""The generator: grammar, packed = alone, training, sizes."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters

from evagen.ar_model import (
    SIZES,
    ClipTokens,
    SamplingOptions,
    SequenceGrammar,
    VideoGenerator,
    length_shares,
    next_token_loss,
    shape_of,
    with_shape,
)
from evagen.ar_model.drawing import draw, token_probabilities
from evagen.training.optimizers import make_optimizers
from evagen.training.settings import OptimizerConfig

LEVELS = [1, 3, 5]


@pytest.fixture(scope="module")
def model() -> VideoGenerator:
    torch.manual_seed(0)
    model = VideoGenerator(11, LEVELS, 3, class_names=["a", "b"], width=32, depth=2, num_heads=2, hidden_width=48)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # logits apart from one another, as a trained model's
    return model.eval()


def random_clips(count: int, seed: int, blocks: int = 3) -> tuple[list[ClipTokens], torch.Tensor]:
    """Clips and their labels."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(LEVELS)[torch.randint(3, (count, blocks), generator=generator)]
    clips = [ClipTokens(torch.randint(11, (int(row.sum()),), generator=generator), row) for row in lengths]
    return clips, torch.randint(-1, 2, (count,), generator=generator)


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_unpacking_gives_back_what_was_packed(count, seed):
    grammar = SequenceGrammar(11, LEVELS, 3, 2)
    clips, labels = random_clips(count, seed)
    tokens, sequence_lengths = grammar.pack(clips, labels)
    assert len(tokens) == sum(sequence_lengths)
    for sequence, clip in zip(tokens.split(sequence_lengths), clips):
        assert all(map(torch.equal, grammar.unpack(sequence), clip))


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_given_blocks_stand_in_front_and_are_not_unpacked(count, seed):
    grammar = SequenceGrammar(11, LEVELS, 3, 2, num_given_blocks=2)
    clips, labels = random_clips(count, seed)
    given_blocks, _ = random_clips(count, seed + 1, blocks=2)
    tokens, sequence_lengths = grammar.pack(clips, labels, given_blocks)
    assert max(sequence_lengths) <= grammar.max_sequence_length
    for sequence, clip, before, label in zip(tokens.split(sequence_lengths), clips, given_blocks, labels.tolist()):
        prompt = grammar.prompt(label, before)
        assert torch.equal(sequence[: len(prompt)], prompt)
        assert prompt[-1] == grammar.separator
        assert all(map(torch.equal, grammar.unpack(sequence), clip))


def test_a_sequence_by_hand():
    """Codes 0 to 4, lengths 5 and 6 for levels 1 and 2, classes 7 and 8, null class 9, separator 10, end 11."""
    clip = ClipTokens(torch.tensor([4, 0, 1]), torch.tensor([1, 2]))
    before = ClipTokens(torch.tensor([3]), torch.tensor([1]))
    tokens, lengths = SequenceGrammar(5, [1, 2], 2, 2).pack([clip], torch.tensor([1]))
    assert (tokens.tolist(), lengths) == ([8, 5, 4, 6, 0, 1, 11], [7])
    tokens, lengths = SequenceGrammar(5, [1, 2], 2, 2, num_given_blocks=1).pack([clip], torch.tensor([-1]), [before])
    assert (tokens.tolist(), lengths) == ([9, 5, 3, 10, 5, 4, 6, 0, 1, 11], [10])


def test_codes_of_any_whole_type_and_labels_of_a_list_are_packed():
    grammar = SequenceGrammar(250, LEVELS, 3, 2)
    clip = ClipTokens(torch.arange(240, 245), torch.tensor([1, 3, 1]))
    wanted, lengths = grammar.pack([clip], torch.tensor([1]))
    small, again = grammar.pack([ClipTokens(clip.codes.to(torch.uint8), clip.lengths.int())], [1])
    assert torch.equal(small, wanted)
    assert again == lengths


def test_sequences_that_do_not_add_up_are_refused(model):
    with pytest.raises(ValueError, match=r"sequences of 5 tokens in all, got tokens of \(4,\)"):
        model(torch.zeros(4, dtype=torch.int64), [2, 3])


def test_blocks_that_do_not_fit_are_refused():
    grammar = SequenceGrammar(11, LEVELS, 3, 2)
    two = ClipTokens(torch.arange(4), torch.tensor([1, 3]))
    with pytest.raises(ValueError, match=r"lengths \[1, 2\] for 3 codes: the lengths should be of \[1, 3, 5\]"):
        grammar.prompt(0, ClipTokens(torch.arange(3), torch.tensor([1, 2])))
    with pytest.raises(ValueError, match="at most 2 of them can be given"):
        grammar.prompt(0, ClipTokens(torch.arange(5), torch.tensor([1, 3, 1])))
    whole, label = ClipTokens(torch.arange(5), torch.tensor([1, 3, 1])), torch.tensor([0])
    for clips, labels, message in (
        ([two], label, "clips have 3 blocks; clip 0 has 2"),
        ([ClipTokens(whole.codes + 7, whole.lengths)], label, "codes run from 0 to 10, got 7 to 11: tokens of another"),
        ([ClipTokens(whole.codes - 1, whole.lengths)], label, "got -1 to 3"),
        ([ClipTokens(whole.codes, whole.lengths[None])], label, r"ClipTokens\(clip.codes, clip.lengths\[0\]\)"),
        ([whole, whole], label, "2 clips need a label each"),
    ):
        with pytest.raises(ValueError, match=message):
            grammar.pack(clips, labels)
    with pytest.raises(ValueError, match="starts from 1 given blocks, got 2"):
        SequenceGrammar(11, LEVELS, 3, 2, num_given_blocks=1).prompt(0, two)
    with pytest.raises(ValueError, match="starts from 1 given blocks, got 0"):
        SequenceGrammar(11, LEVELS, 3, 2, num_given_blocks=1).prompt(0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.7, 5.0]), st.sampled_from([0, 1, 4]), st.sampled_from([1.0, 0.3]))
def test_the_grammar_holds_for_random_logits(seed, temperature, top_k, top_p):
    grammar = SequenceGrammar(11, LEVELS, 3, 2)
    options = SamplingOptions(temperature=temperature, top_k=top_k, top_p=top_p)
    generator = torch.Generator().manual_seed(seed)
    state, written = grammar.start(4), [grammar.class_token(torch.tensor([-1, 0, 1, 1]))]
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
    tokens, sequence_lengths = model.grammar.pack(*random_clips(5, 0))
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


def test_given_blocks_are_read_but_not_learnt():
    """Frame prediction: only the tokens behind the separator are targets."""
    grammar = SequenceGrammar(2, [1], 1, 0, num_given_blocks=1)  # codes 0 1, length 2, null class 3, separator 4, end 5
    tokens = torch.tensor([3, 2, 0, 4, 2, 1, 5])
    logits = torch.zeros(7, 6)
    logits[:3] = 50 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0))  # what predicts the given part
    logits[3, 2] = 2.0
    loss = next_token_loss(logits, tokens, [7], grammar)
    torch.testing.assert_close(loss.length_loss, -torch.log(torch.tensor(2.0).exp() / (torch.tensor(2.0).exp() + 5)))
    torch.testing.assert_close(loss.content_loss, torch.log(torch.tensor(6.0)))


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


def test_the_future_changes_nothing(model):
    tokens, sequence_lengths = model.grammar.pack(*random_clips(1, 2))
    changed = tokens.clone()
    changed[4:] = (changed[4:] + 1) % 11
    before, after = model(tokens, sequence_lengths), model(changed, sequence_lengths)
    assert torch.equal(before[:4], after[:4])
    assert not torch.equal(before[4:], after[4:])


def test_weights_survive_a_round_trip(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = VideoGenerator.from_pretrained(tmp_path)
    tokens, sequence_lengths = model.grammar.pack(*random_clips(2, 3))
    assert torch.equal(model(tokens, sequence_lengths), again(tokens, sequence_lengths))
    assert list(again.config.class_names) == ["a", "b"]
