"""A generator without an end: windows that move on over its own tokens."""

import pytest
import torch
from tiny_models import tiny_generator

from evagen.ar_model import (
    ClipRequest,
    ClipTokens,
    LengthConstraints,
    SamplingOptions,
    SequenceGrammar,
    VideoGenerator,
    sample,
    sample_in_order,
)
from evagen.ar_model.drawing import clip_noise

WINDOW = 3  # blocks of the tiny generator
GREEDY = SamplingOptions(temperature=0)


def endless(**changes) -> VideoGenerator:
    return tiny_generator(endless=True, class_dropout=0.1, **changes)


def by_hand(model: VideoGenerator, label: int, num_blocks: int, given: ClipTokens | None = None) -> ClipTokens:
    """Greedily, every token from a whole pass over its window, which is moved on as the text says."""
    grammar, blocks = model.grammar, []
    if given is not None:
        blocks = list(zip(given.lengths.tolist(), given.codes.split(given.lengths.tolist())))
    begun_later = len(blocks) >= WINDOW
    window = blocks[-(WINDOW // 2) :] if begun_later else list(blocks)
    while len(blocks) < num_blocks:
        if len(window) == WINDOW:
            window, begun_later = window[-(WINDOW // 2) :], True
        prompt = [grammar.first_class + label, *([grammar.separator] if begun_later else [])]
        for length, codes in window:
            prompt += [grammar.first_length + grammar.levels.index(length), *codes.tolist()]

        def likeliest(among: range, prompt: list[int] = prompt) -> int:
            logits = model(torch.tensor(prompt), [len(prompt)])[-1]
            return among[int(logits[among.start : among.stop].argmax())]

        length_token = likeliest(range(grammar.first_length, grammar.first_class))
        prompt.append(length_token)
        length = grammar.levels[length_token - grammar.first_length]
        for _ in range(length):
            prompt.append(likeliest(range(grammar.codebook_size)))
        block = (length, torch.tensor(prompt[-length:]))
        window.append(block)
        blocks.append(block)
    return ClipTokens(torch.cat([codes for _, codes in blocks]), torch.tensor([length for length, _ in blocks]))


def same(a: ClipTokens, b: ClipTokens) -> bool:
    return torch.equal(a.codes, b.codes) and torch.equal(a.lengths, b.lengths)


def beginning(num_blocks: int) -> ClipTokens:
    lengths = torch.tensor([1, 3, 5, 1, 3])[:num_blocks]
    return ClipTokens(torch.arange(int(lengths.sum())) % 11, lengths)


@pytest.mark.parametrize("num_blocks", [1, 3, 4, 9])
def test_a_video_of_any_length_is_written_window_by_window(num_blocks):
    model = endless()
    (clip,) = sample_in_order(model, [ClipRequest(0, 1, num_blocks=num_blocks)], GREEDY)
    assert len(clip.lengths) == num_blocks
    assert same(clip, by_hand(model, 1, num_blocks))


@pytest.mark.parametrize("num_given", [1, 2, 3, 5])
def test_a_beginning_of_any_length_is_continued(num_given):
    model, given = endless(), beginning(num_given)
    (clip,) = sample_in_order(model, [ClipRequest(0, 0, given, num_blocks=8)], GREEDY)
    assert torch.equal(clip.codes[: len(given.codes)], given.codes)
    assert same(clip, by_hand(model, 0, 8, given))


def test_a_video_does_not_depend_on_those_beside_it():
    model = endless()
    lengths, labels = [7, 2, 3, 12, 1, 5], [0, 1, -1, 0, 1, 1]
    requests = [ClipRequest(s, label, num_blocks=n) for s, (n, label) in enumerate(zip(lengths, labels))]
    requests[3] = ClipRequest(3, 0, beginning(4), num_blocks=12)
    for options in (SamplingOptions(), SamplingOptions(guidance=2.0, top_p=0.9)):
        alone = [sample_in_order(model, [request], options)[0] for request in requests]
        assert [len(clip.lengths) for clip in alone] == lengths
        for slots in (2, 6):
            assert all(map(same, sample_in_order(model, requests, options, slots), alone))


def test_short_videos_leave_their_slots_to_others():
    requests = [ClipRequest(0, num_blocks=30), *(ClipRequest(s, num_blocks=3) for s in range(1, 6))]
    order = [number for number, _ in sample(endless(), requests, num_slots=2)]
    assert order[-1] == 0
    assert sorted(order) == list(range(6))


def test_windows_of_a_video_differ():
    """Each has random numbers of its own, so that a long video never goes round in a circle."""
    noise = torch.stack([clip_noise(seed, 40, window) for seed in (0, 5, 10**9) for window in range(4)])
    assert len(noise.unique(dim=0)) == len(noise)
    assert clip_noise(5, 40).equal(torch.rand(40, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    (clip,) = sample_in_order(endless(), [ClipRequest(0, num_blocks=80)])
    later = [tuple(codes.tolist()) for codes in clip.codes.split(clip.lengths.tolist())][20:]
    assert not [period for period in range(1, 30) if later[period:] == later[:-period]]


def test_bounds_on_lengths_hold_for_ever():
    constraints = LengthConstraints(max_length=3)
    (clip,) = sample_in_order(endless(), [ClipRequest(0, constraints=constraints, num_blocks=20)])
    assert int(clip.lengths.max()) <= 3


def test_the_mark_of_a_window_is_read_and_written():
    grammar = SequenceGrammar(11, [1, 3, 5], WINDOW, 2, endless=True)
    clips = [beginning(3), beginning(3)]
    tokens, lengths = grammar.pack(clips, torch.tensor([0, -1]), begins_later=[False, True])
    first, second = tokens.split(lengths)
    assert (grammar.separator in first.tolist(), second[:2].tolist()) == (
        False,
        [grammar.null_class, grammar.separator],
    )
    assert all(same(grammar.unpack(sequence), beginning(3)) for sequence in (first, second))
    assert max(lengths) <= grammar.max_sequence_length


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ClipRequest(0, given=beginning(5)), "of a clip of 3 blocks 5 are given: ask for more blocks"),
        (ClipRequest(0, given=beginning(4), num_blocks=4), "of a clip of 4 blocks 4 are given"),
        (  # though the last blocks, with which a window begins, have their codes
            ClipRequest(0, given=ClipTokens(torch.arange(11), beginning(5).lengths), num_blocks=9),
            r"blocks of lengths \[1, 3, 5, 1, 3\] for 11 codes",
        ),
        (
            ClipRequest(0, constraints=LengthConstraints([1, 1, 1]), num_blocks=5),
            "forced lengths and max_tokens are for",
        ),
        (
            ClipRequest(0, constraints=LengthConstraints(max_tokens=9), num_blocks=5),
            "bound a longer or shorter video by",
        ),
    ],
)
def test_what_cannot_be_is_explained(request_, message):
    with pytest.raises(ValueError, match=message):
        sample(endless(), [request_])


@pytest.mark.parametrize("schedule", ["linear", "interval"])
def test_guidance_that_follows_a_clips_time_is_for_clips_of_one_window(schedule):
    options = SamplingOptions(guidance=3.0, guidance_schedule=schedule)
    assert len(sample_in_order(endless(), [ClipRequest(0, 0)], options)[0].lengths) == WINDOW
    with pytest.raises(ValueError, match=f"{schedule} follows the time of clips of 3 blocks, .* not of 7: take"):
        sample(endless(), [ClipRequest(0, 0, num_blocks=7)], options)


def test_generators_of_clips_have_an_end():
    with pytest.raises(ValueError, match="writes clips of 3 blocks, not 9; for videos of any length train one with"):
        sample(tiny_generator(), [ClipRequest(0, num_blocks=9)])
    with pytest.raises(ValueError, match="writes clips, which begin where they begin"):
        tiny_generator().grammar.prompt(0, begins_later=True)
    with pytest.raises(ValueError, match="cannot be one for frame prediction"):
        SequenceGrammar(11, [1], 3, 0, num_given_blocks=1, endless=True)
    with pytest.raises(ValueError, match="a window of 1 block has no half to go on from"):
        SequenceGrammar(11, [1], 1, 0, endless=True)
