"""The grammar, of any sizes: every sequence that it allows is read back as what was written, every other is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evagen.ar_model.grammar import ClipTokens, SequenceGrammar

grammars = st.builds(
    SequenceGrammar,
    st.integers(1, 20),
    st.sets(st.integers(1, 9), min_size=1, max_size=4).map(sorted),
    st.integers(1, 4),
    st.integers(0, 3),
)


@st.composite
def clips(draw, grammar: SequenceGrammar) -> ClipTokens:
    blocks = grammar.num_blocks
    lengths = draw(st.lists(st.sampled_from(grammar.levels), min_size=blocks, max_size=blocks))
    codes = draw(st.lists(st.integers(0, grammar.codebook_size - 1), min_size=sum(lengths), max_size=sum(lengths)))
    return ClipTokens(torch.tensor(codes), torch.tensor(lengths))


@st.composite
def sequences(draw) -> tuple[SequenceGrammar, ClipTokens, torch.Tensor]:
    grammar = draw(grammars)
    clip, label = draw(clips(grammar)), draw(st.integers(-1, grammar.num_classes - 1))
    return grammar, clip, grammar.pack([clip], torch.tensor([label]))[0]


@given(sequences())
def test_what_is_packed_is_unpacked_and_allowed_at_every_step(case):
    grammar, clip, sequence = case
    assert all(map(torch.equal, grammar.unpack(sequence), clip))
    assert len(sequence) <= grammar.max_sequence_length
    state = grammar.start(1)
    for token in sequence[1:]:
        assert grammar.allowed(state)[0, token]
        state = grammar.advance(state, token[None]) if token != grammar.end else state
    assert grammar.finished(state)


@settings(max_examples=50)
@given(grammars, st.integers(0, 2**32 - 1))
def test_whatever_the_automaton_allows_decodes(grammar, seed):
    generator = torch.Generator().manual_seed(seed)
    state, written = grammar.start(1), [grammar.null_class]
    while written[-1] != grammar.end:
        allowed = grammar.allowed(state)[0].float()
        assert allowed.any()
        token = torch.multinomial(allowed, 1, generator=generator)
        written.append(int(token))
        state = grammar.advance(state, token)
    clip = grammar.unpack(torch.tensor(written))
    assert torch.equal(grammar.pack([clip], torch.tensor([-1]))[0], torch.tensor(written))


@settings(max_examples=50)
@given(sequences(), st.data())
def test_whatever_the_automaton_forbids_is_refused(case, data):
    """A token is put in place of another that may not stand there."""
    grammar, _, sequence = case
    place = data.draw(st.integers(1, len(sequence) - 1))
    state = grammar.start(1)
    for token in sequence[1:place]:
        state = grammar.advance(state, token[None])
    allowed = grammar.allowed(state)[0]
    wrong = data.draw(st.integers(-3, grammar.vocabulary_size + 3))
    if 0 <= wrong < grammar.vocabulary_size and allowed[wrong]:
        return
    changed = sequence.clone()
    changed[place] = wrong
    with pytest.raises(ValueError, match=r"position|should hold|end token"):
        grammar.unpack(changed)


@given(sequences(), st.data())
def test_a_sequence_that_is_cut_or_goes_on_is_refused(case, data):
    grammar, _, sequence = case
    with pytest.raises(ValueError, match=r"position|should hold|class token"):
        grammar.unpack(sequence[: data.draw(st.integers(0, len(sequence) - 2))])
    with pytest.raises(ValueError, match="only the end token may follow"):
        grammar.unpack(torch.cat([sequence, sequence[-1:]]))
    with pytest.raises(ValueError, match="begins with a class token"):
        grammar.unpack(sequence[1:])


@pytest.mark.parametrize(
    "sizes", [(0, [1], 1, 0), (4, [], 1, 0), (4, [0, 2], 1, 0), (4, [2, 2], 1, 0), (4, [3, 1], 1, 0), (4, [1], 0, 0)]
)
def test_sizes_of_which_there_is_no_clip_are_refused(sizes):
    with pytest.raises(ValueError, match=r"levels|has blocks"):
        SequenceGrammar(*sizes)
