"""Lengths and tokens of videos that go by: live equals whole, and a rate is kept."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import random_clips, tiny_block_router, tiny_tokenizer

from evagen.tokenizer import LiveTokenizer, Rate, tiles
from evagen.tokenizer.live import LiveLengths
from evagen.tokenizer.rate_control import RateControl

STEP = 4  # frames of a block


def model(**changes) -> LiveTokenizer:
    return LiveTokenizer(tiny_tokenizer(memory_blocks=2, **changes), tiny_block_router())


def video_of(num_frames: int, seed: int = 0) -> torch.Tensor:
    return random_clips(1, seed, frames=num_frames)[0]


@pytest.mark.parametrize("num_frames", [1, 3, 4, 5, 22])
@pytest.mark.parametrize("preference", [0.8, 1.6])
def test_live_is_whole(num_frames, preference):
    """The router's lengths of the whole video at once, and the tokens of the whole video with these."""
    live, video = model(), video_of(num_frames)
    tokens = live.encode((frame for frame in video.unbind(1)), preference=preference)  # can be read once
    filled = torch.cat([video, *[video[:, -1:]] * (-num_frames % STEP)], 1)[None]
    lengths = live.router.assign(filled, preference)
    assert torch.equal(tokens.tokens.lengths, lengths)
    whole = live.tokenizer.encode(filled, lengths)
    assert torch.equal(tokens.tokens.codes, whole.codes)
    expected = live.tokenizer.decode(whole)[0, :, :num_frames]
    torch.testing.assert_close(live.decode(tokens), expected, atol=1e-5, rtol=0)


def test_routers_of_blocks_tell_videos_apart():
    lengths = {tuple(tiny_block_router().assign(random_clips(1, s, frames=16))[0].tolist()) for s in range(8)}
    assert len(lengths) > 2


def test_what_follows_changes_no_length():
    router, video = tiny_block_router(), random_clips(2, frames=STEP * 6)
    assert torch.equal(router.assign(video)[:, :4], router.assign(video[:, :, : STEP * 4]))


def test_a_video_does_not_depend_on_those_beside_it():
    router, video = tiny_block_router(), random_clips(3, frames=STEP * 5)
    assert torch.equal(router.assign(video), torch.cat([router.assign(one[None]) for one in video]))


def test_bounds_and_given_lengths():
    live, video = model(), video_of(24)
    assert int(live.encode(video, preference=1.6, max_tokens=4).tokens.lengths.max()) <= 4
    assert live.encode(video, lengths=(8, 2)).tokens.lengths.tolist() == [[8, 2, 2, 2, 2, 2]]
    assert live.router.assign(video[None], prefix=(8, 8, 2))[0, :3].tolist() == [8, 8, 2]
    alone = LiveTokenizer(live.tokenizer).encode(video, lengths=(4,))
    assert alone.tokens.lengths.tolist() == [[4] * 6]


def test_any_size_comes_back():
    live, video = model(), random_clips(1, frames=9, height=50, width=70)[0]
    tokens = live.encode(video)
    assert tokens.encoded_size == (32, 45)
    assert tokens.tokens.lengths.shape == (2, 3)
    assert live.decode(tokens).shape == video.shape


def test_each_tile_of_a_wide_video_is_a_video_of_its_own():
    live, video = model(), random_clips(1, frames=11, height=32, width=70)[0]
    wide = live.encode(video, preference=1.4)
    found = tiles.cut(video[None], 32)  # k C F s t
    alone = [live.encode(tile, preference=1.4) for tile in found]
    assert len(alone) == 3
    assert torch.equal(wide.tokens.lengths, torch.cat([tokens.tokens.lengths for tokens in alone]))
    assert torch.equal(wide.tokens.codes, torch.cat([tokens.tokens.codes for tokens in alone]))
    merged = tiles.merge(torch.stack([live.decode(tokens) for tokens in alone]), (32, 70), 32)[0]
    torch.testing.assert_close(live.decode(wide), merged, atol=1e-6, rtol=0)
    assert wide.over_time(3).tolist() == wide.tokens.lengths.sum(0).tolist()


def test_the_tiles_of_a_wide_video_keep_a_rate_together():
    live, video = model(), random_clips(1, frames=80, height=32, width=64)[0]
    lengths = live.encode(video, rate=Rate(60, 15)).tokens.lengths
    sums = lengths.sum(0).unfold(0, 15, 1).sum(1)  # of windows of four seconds
    assert int(sums.max()) <= 60 * 4
    with pytest.raises(ValueError, match="for each of 2 tiles 7 tokens a second cannot be kept"):
        live.encode(video, rate=Rate(14, 15))


rates = st.tuples(st.integers(8, 60), st.floats(1.0, 8.0), st.sampled_from([8.0, 10.0, 15.0, 23.976, 25.0, 30.0]))


@settings(max_examples=200, deadline=None)
@given(rates, st.integers(1, 120), st.integers(0, 10**6))
def test_no_window_is_above_the_rate_whatever_is_wanted(rate, num_blocks, seed):
    """Lengths are wished for at random, in moods that last: nothing, everything, anything."""
    tokens_per_block, seconds, fps = rate
    blocks_per_second = fps / STEP
    levels, random = [4, 16, 32, 64], torch.Generator().manual_seed(seed)
    control = RateControl(levels, tokens_per_block * blocks_per_second, seconds, blocks_per_second)
    lengths, mood = [], 0
    for number in range(num_blocks):
        if number % 10 == 0:
            mood = int(torch.randint(3, (), generator=random))
        possible = control.allowed()
        assert set(possible) <= set(levels)
        assert possible
        anything = int(torch.randint(len(possible), (), generator=random))
        lengths.append(possible[(0, -1, anything)[mood]])
        control.add(lengths[-1])
    n = control.window_blocks
    assert n == int(seconds * blocks_per_second + 1e-9)
    windows = [sum(lengths[i : i + n]) for i in range(max(1, num_blocks - n + 1))]
    assert max(windows) <= n * tokens_per_block + 1e-6
    assert num_blocks < n or sum(lengths) <= num_blocks * tokens_per_block + 1e-6


@pytest.mark.parametrize("tokens_per_second", [60, 100, 140])
@pytest.mark.parametrize("window", [4.0, 10.0])
def test_a_rate_is_kept_and_used(tokens_per_second, window):
    """Over a minute within 5% below the rate, whatever router."""
    router = tiny_block_router(levels=[4, 16, 32, 64])
    live = LiveTokenizer(tiny_tokenizer(memory_blocks=2, levels=[4, 16, 32, 64]), router)
    video = torch.cat([video_of(100, seed) for seed in range(9)], 1)  # nine scenes
    lengths = live.encode(video, rate=Rate(tokens_per_second, 15, window)).tokens.lengths[0].double()
    blocks = int(window * 15 / STEP)
    sums = lengths.unfold(0, blocks, 1).sum(1)
    assert float(sums.max()) <= tokens_per_second * blocks * STEP / 15 + 1e-6
    assert 0.95 <= float(lengths.sum()) / (tokens_per_second * 60) <= 1


@pytest.mark.parametrize("frames_per_second", [24000 / 1001, 30000 / 1001, 29.97, 30.0, 15.0, 11.3])
@pytest.mark.parametrize("shortest", [2, 3, 64])
def test_what_an_error_says_is_enough_is_enough(frames_per_second, shortest):
    """Also where it is rounded, and where it is computed from the frame rate."""
    levels, blocks_per_second = [shortest, 2 * shortest], frames_per_second / STEP
    told = []
    for rate, window in ((0.1, 4.0), (10**4, 0.01)):
        with pytest.raises(ValueError, match="of this video") as error:
            RateControl(levels, rate, window, blocks_per_second)
        told.append(float(re.search(r"take(?:s)? ([\d.]+) ?(?:a )?second", str(error.value))[1]))
    assert told[0] < shortest * blocks_per_second + 0.1
    assert RateControl(levels, told[0], told[1], blocks_per_second).window_blocks == 1
    for shares in (1, 3, 6):
        control = RateControl(levels, shares * (shortest * frames_per_second / STEP) / shares, 4.0, blocks_per_second)
        for _ in range(50):
            assert control.allowed() == [shortest]
            control.add(shortest)


def test_a_rate_steers_a_router_of_few_preferences_by_its_log_odds():
    control = RateControl([4, 16, 64], 30, 10, 1, preferences=(1.1, 1.2))
    for length, preference, leans_to_long in ((64, 1.1, False), (4, 1.2, True)):
        for _ in range(100):
            control.add(length)
        assert (control.preference, control.bias > 0) == (preference, leans_to_long)


def test_a_bound_on_blocks_goes_with_a_rate():
    """Where the rate would need longer blocks than the bound leaves, they are as long as that."""
    live, video = model(), video_of(80)
    lengths = live.encode(video, max_tokens=4, rate=Rate(28, 15, 1.1)).tokens.lengths[0]  # 7.5 tokens a block
    assert lengths.tolist() == [4] * 20


def test_no_frames_are_read_ahead(monkeypatch):
    """A block's length is chosen before the next one's frames are asked for."""
    read, known, choose = [], [], LiveLengths.choose

    def frames():
        for frame in video_of(12).unbind(1):
            read.append(frame)
            yield frame

    def watched(self, block):
        known.append(len(read))
        return choose(self, block)

    monkeypatch.setattr(LiveLengths, "choose", watched)
    model().encode(frames())
    assert known == [4, 8, 12]


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"preference": 1.2, "rate": Rate(50, 15)}, "preference and rate exclude each other"),
        ({"lengths": (8,), "max_tokens": 4}, r"lengths=\[8\] leave nothing to bound"),
        ({"lengths": (3,)}, r"\[3\] are no levels"),
        ({"preference": 3.0}, "preferences between 0.8"),
        ({"max_tokens": 1}, "max_tokens=1 cannot be met: a block takes at least 2 tokens"),
        ({"rate": Rate(7, 15)}, "7 tokens a second cannot be kept: the shortest lengths, 2 a block, take 7.5 a second"),
        ({"rate": Rate(50, 15, 0.2)}, "a window of 0.2 seconds is shorter than a block, which takes 0.267 seconds"),
    ],
)
def test_dials_that_cannot_be_are_explained(dials, message):
    with pytest.raises(ValueError, match=message):
        model().encode(video_of(8), **dials)


@pytest.mark.parametrize("wrong", [(100, 0), (0, 15), (50, 15, 0), (math.inf, 15), (50, math.nan)])
def test_a_rate_is_of_numbers_above_zero(wrong):
    with pytest.raises(ValueError, match=r"(_second|_seconds)=.*: a number above 0 is needed"):
        Rate(*wrong)


def test_bad_input():
    with pytest.raises(ValueError, match="the video holds no frame"):
        model().encode([])
    with pytest.raises(ValueError, match=r"after \(32, 32\) comes \(16, 32\)"):
        model().encode([torch.zeros(3, 32, 32), torch.zeros(3, 16, 32)])
    with pytest.raises(ValueError, match="without a memory sees clips of 8 frames"):
        LiveTokenizer(tiny_tokenizer(), tiny_block_router())
    with pytest.raises(ValueError, match="memory_blocks 3 of the tokenizer and 2 of the router differ"):
        LiveTokenizer(tiny_tokenizer(memory_blocks=3), tiny_block_router())
    with pytest.raises(ValueError, match="without a router lengths have to be given"):
        LiveTokenizer(tiny_tokenizer(memory_blocks=2)).encode(video_of(8))


def test_a_block_comes_as_soon_as_its_frames_have_been_read():
    read = []

    def frames():
        for frame in video_of(18).unbind(1):
            read.append(frame)
            yield frame

    seen = [(len(read), block.num_frames) for block in model().blocks(frames(), preference=1.4)]
    assert seen == [(4, 4), (8, 4), (12, 4), (16, 4), (18, 2)]
