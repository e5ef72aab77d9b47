"""A tokenizer with a memory: clips of any length, streamed as whole, and the present model where it sees all."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import LEVELS, random_clips, tiny_tokenizer

from evagen.tokenizer import CandidateSearch, TokenizedClips, TokenizerStream, brute_force_distances

STEP = 4  # frames of a block


def lengths_of(num_blocks: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(LEVELS)[torch.randint(3, (num_blocks,), generator=torch.Generator().manual_seed(seed))]


def in_parts(cuts: list[int], num_blocks: int) -> list[slice]:
    edges = sorted({0, num_blocks, *(cut % num_blocks for cut in cuts)})
    return [slice(a, b) for a, b in pairwise(edges)]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 4), st.lists(st.integers(0, 99), max_size=4), st.integers(0, 99),
    st.sampled_from(["block", "causal"]), st.sampled_from(["nearest", "first"]),
)  # fmt: skip
def test_streamed_is_whole(num_blocks, memory, cuts, seed, encoder, start):
    model = tiny_tokenizer(
        memory_blocks=memory, encoder_self_attention=encoder, decoder_start=start, encoder_depth=2, decoder_depth=2
    )
    video, lengths = random_clips(1, seed, frames=STEP * num_blocks), lengths_of(num_blocks, seed)
    whole = model.encode(video, lengths[None])
    pictures = model.decode(whole)[0]
    stream, codes, frames = TokenizerStream(model), [], []
    for part in in_parts(cuts, num_blocks):
        codes.append(stream.encode(video[0, :, part.start * STEP : part.stop * STEP], lengths[part]))
        frames.append(stream.decode(codes[-1], lengths[part]))
    assert torch.equal(torch.cat(codes), whole.codes)
    torch.testing.assert_close(torch.cat(frames, 1), pictures, atol=1e-5, rtol=0)


@pytest.mark.parametrize("encoder", ["block", "causal"])
def test_a_memory_of_the_whole_clip_sees_what_none_sees(encoder):
    """The plans are the present model's; the decoder is told no block numbers."""
    video, lengths = random_clips(2), torch.tensor([[2, 8], [4, 4]])
    every, remembers = (tiny_tokenizer(memory_blocks=w, encoder_self_attention=encoder) for w in (None, 1))
    assert torch.equal(every.encode(video, lengths).codes, remembers.encode(video, lengths).codes)
    every.decoder_position.features = remembers.decoder_position.features
    every._decoder_place = remembers._decoder_place
    tokens = every.encode(video, lengths)
    torch.testing.assert_close(every.decode(tokens), remembers.decode(tokens))


def test_what_lies_further_back_is_not_seen():
    """With one layer a block sees W back and no further; with two layers twice as far."""
    num_blocks, memory = 7, 2
    video, lengths = random_clips(1, frames=STEP * num_blocks), lengths_of(num_blocks)[None]
    changed = video.clone()
    changed[:, :, :STEP] = -video[:, :, :STEP]  # the first block
    for depth, reach in ((1, 2), (2, 4)):
        model = tiny_tokenizer(memory_blocks=memory, decoder_depth=depth)
        tokens, others = model.encode(video, lengths), model.encode(changed, lengths)
        by_block = (each.codes.split(lengths[0].tolist()) for each in (tokens, others))
        differs = [not torch.equal(*pair) for pair in zip(*by_block)]
        assert differs[0]
        assert not any(differs[memory + 1 :])  # the encoder looks at patches, which do not depend on each other
        first_only = torch.cat([others.codes[: lengths[0, 0]], tokens.codes[lengths[0, 0] :]])
        pictures = model.decode(tokens)
        again = model.decode(TokenizedClips(first_only, lengths))
        same = [(a - b).abs().max() < 1e-6 for a, b in zip(pictures.split(STEP, 2), again.split(STEP, 2))]
        assert not any(same[: memory + 1])
        assert all(same[reach + 1 :])


def test_block_1000_is_computed_as_block_10():
    model = tiny_tokenizer(memory_blocks=2, encoder_depth=2, decoder_depth=2)
    video, lengths = random_clips(1, frames=STEP * 6)[0], lengths_of(6)
    found = []
    for before in (4, 994):
        stream = TokenizerStream(model)
        stream.num_encoded = stream.num_decoded = before  # as if so many had gone by, of which nothing is kept
        codes = stream.encode(video, lengths)
        found.append((codes, stream.decode(codes, lengths)))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=0)


def test_what_follows_changes_nothing():
    model = tiny_tokenizer(memory_blocks=2)
    video, lengths = random_clips(1, frames=STEP * 6), lengths_of(6)
    some = model.encode(video[:, :, : STEP * 4], lengths[None, :4]).codes
    assert torch.equal(model.encode(video, lengths[None]).codes[: len(some)], some)


def test_no_more_is_kept_than_the_memory():
    stream = TokenizerStream(tiny_tokenizer(memory_blocks=3))
    for seed in range(8):
        lengths = torch.tensor([8])
        codes = stream.encode(random_clips(1, seed, frames=STEP)[0], lengths)
        stream.decode(codes, lengths)
    for kept, rows in ((stream._patches, 16), (stream._tokens, 8), (stream._decoded, 16)):
        assert kept.lengths.tolist() == [rows] * 3
        assert [key.untyped_storage().nbytes() for key, _ in kept.layers] == [3 * rows * 32 * 4]


def test_bad_input():
    with pytest.raises(ValueError, match=r"memory_blocks must be at least 1, or None .*; got 0"):
        tiny_tokenizer(memory_blocks=0)
    with pytest.raises(ValueError, match=r"without a memory sees clips of 8 frames, .* model\.memory_blocks to stream"):
        TokenizerStream(tiny_tokenizer())
    stream = TokenizerStream(tiny_tokenizer(memory_blocks=1))
    with pytest.raises(ValueError, match="2 blocks need as many lengths; got 1"):
        stream.encode(random_clips(1)[0], torch.tensor([4]))
    with pytest.raises(ValueError, match="multiple of the temporal patch 4; got 6"):
        stream.encode(random_clips(1, frames=6)[0], torch.tensor([4]))


@pytest.mark.parametrize("encoder", ["block", "causal"])
@pytest.mark.parametrize("memory", [1, 2, 5])
def test_search_is_brute_force(encoder, memory):
    model = tiny_tokenizer(memory_blocks=memory, num_frames=4 * STEP, encoder_self_attention=encoder, levels=[2, 4])
    video = random_clips(2, frames=4 * STEP)

    def distance(blocks: torch.Tensor, clips: torch.Tensor, t: int) -> dict[str, torch.Tensor]:
        originals = video[clips][:, :, t * STEP : (t + 1) * STEP]
        return {"mse": (blocks - originals).square().flatten(1).mean(1)}

    found = CandidateSearch(model, distance, max_segments=6).all_distances(video)["mse"]
    torch.testing.assert_close(found, brute_force_distances(model, video, distance)["mse"], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("encoder", ["block", "causal"])
@pytest.mark.parametrize(
    ("memory", "num_given", "num_future"), [(1, 2, 0), (2, 1, 0), (2, 3, 0), (5, 2, 0), (1, 1, 2), (2, 0, 3), (5, 2, 1)]
)
def test_search_between_a_past_and_a_future_is_brute_force(encoder, memory, num_given, num_future):
    """Of the assignments that begin with the one and end with the other, all blocks behind the past count."""
    num_blocks = num_given + 2 + num_future
    model = tiny_tokenizer(
        memory_blocks=memory, num_frames=num_blocks * STEP, encoder_self_attention=encoder, levels=[2, 4]
    )
    video = random_clips(2, frames=num_blocks * STEP)
    past, future = (
        torch.tensor([[2, 4, 4], [4, 2, 4]])[:, :num_given], torch.tensor([[4, 2, 2], [2, 2, 4]])[:, :num_future]
    )  # fmt: skip

    def distance(blocks: torch.Tensor, clips: torch.Tensor, t: int) -> dict[str, torch.Tensor]:
        originals = video[clips][:, :, (num_given + t) * STEP : (num_given + t + 1) * STEP]
        return {"later" if t >= 2 else "now": (blocks - originals).square().flatten(1).mean(1)}

    search = CandidateSearch(model, distance, max_segments=6)
    found = search.all_distances(video, past, future)
    assert search.block_evaluations == 2 * (2 + 4 + 4 * num_future)
    rest = torch.tensor([[2, 2], [2, 4], [4, 2], [4, 4]])
    for clip in range(2):
        assignments = torch.cat([past[clip].expand(4, -1), rest, future[clip].expand(4, -1)], 1)
        tokens = model.encode(video[[clip] * 4], assignments)
        blocks = model.decode(tokens).split(STEP, 2)[num_given:]
        expected = {"now": torch.zeros(4), "later": torch.zeros(4)}
        for t, block in enumerate(blocks):
            for name, error in distance(block, torch.full((4,), clip), t).items():
                expected[name] += error / 2  # blocks that are searched
        for name, distances in found.items():
            torch.testing.assert_close(distances[clip], expected[name].double(), atol=1e-6, rtol=1e-5)
