"""Tokens of whole videos: any length, any size, in pieces, within budgets."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_models import FRAMES, LEVELS, random_clips, tiny_router, tiny_tokenizer
from torch import Tensor

from evagen.tokenizer import AdaptiveTokenizer, TokenizedClips, TokenizedVideo, decode_in_chunks

LEAST, MOST = 2 * LEVELS[0], 2 * LEVELS[-1]
few = settings(max_examples=20, deadline=None)


@pytest.fixture(scope="module")
def model() -> AdaptiveTokenizer:
    return AdaptiveTokenizer(tiny_tokenizer(), tiny_router(2))


def a_video(num_frames: int, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    """C F H W: its clips differ, so that the router tells them apart."""
    clips = random_clips(-(-num_frames // FRAMES), seed, FRAMES, height, width)
    return torch.cat(list(clips), dim=1)[:, :num_frames]


def same_tokens(a: TokenizedVideo, b: TokenizedVideo) -> bool:
    return torch.equal(a.tokens.codes, b.tokens.codes) and torch.equal(a.tokens.lengths, b.tokens.lengths)


def test_a_videos_tokens_are_those_of_its_clips_with_the_routers_lengths(model):
    video = a_video(40)
    tokens = model.encode(video, preference=1.0)
    assert (tokens.num_frames, tokens.num_clips, tokens.size, tokens.encoded_size) == (40, 5, (32, 32), (32, 32))
    assert len(tokens.tokens.lengths.unique(dim=0)) > 1
    for clip, found in zip(video.split(FRAMES, dim=1), tokens.tokens.split()):
        lengths = model.router.assign(clip[None], 1.0)
        assert torch.equal(found.lengths, lengths)
        assert torch.equal(found.codes, model.tokenizer.encode(clip[None], lengths).codes)
    decoded = torch.cat([model.tokenizer.decode(clip)[0] for clip in tokens.tokens.split()], dim=1)
    torch.testing.assert_close(model.decode(tokens), decoded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dials", [{}, {"preference": 0.8}, {"max_tokens": 9}, {"mean_tokens": 8.5}])
def test_chunks_of_one_clip_equal_chunks_of_five(dials):
    tokenizer, router, video = tiny_tokenizer(), tiny_router(2), a_video(8 * 11 + 3, 40, 24)
    small, large = (AdaptiveTokenizer(tokenizer, router, clips_per_chunk=n) for n in (1, 5))
    tokens = small.encode(video, **dials)
    assert same_tokens(tokens, large.encode(video, **dials))
    torch.testing.assert_close(small.decode(tokens), large.decode(tokens), atol=1e-5, rtol=0)


def test_frames_one_by_one_equal_the_whole_video(model):
    video = a_video(21, 24, 40)
    one_by_one = (video[:, i] for i in range(21))
    assert same_tokens(model.encode(one_by_one), model.encode(video))
    assert same_tokens(model.encode(list(video.unbind(1)), mean_tokens=9), model.encode(video, mean_tokens=9))


def test_only_a_few_clips_are_in_memory_at_once(model):
    """The stream is asked for the next clips only when the last are encoded, and so is the decoder."""
    taken, encoded_after = [], []

    def frames():
        for frame in a_video(100).unbind(1):
            taken.append(frame)
            yield frame

    class Watched(AdaptiveTokenizer):
        def _for_router(self, clips):
            encoded_after.append(len(taken))
            return super()._for_router(clips)

    tokens = Watched(model.tokenizer, model.router, clips_per_chunk=2).encode(frames())
    assert encoded_after == [16, 32, 48, 64, 80, 96, 100]
    pieces = [piece.shape[1] for piece in decode_in_chunks(model.tokenizer, tokens, clips_per_chunk=5)]
    assert pieces == [40, 40, 20]


@few
@example(num_frames=1, height=1, width=1)
@given(num_frames=st.integers(1, 40), height=st.integers(1, 90), width=st.integers(1, 90))
def test_any_length_and_size_comes_back(model, num_frames, height, width):
    tokens = model.encode(torch.zeros(3, num_frames, height, width))
    assert min(tokens.encoded_size) == 32
    decoded = model.decode(tokens)
    assert decoded.shape == (3, num_frames, height, width)
    assert decoded.abs().max() <= 1


def test_the_last_clip_is_filled_up_with_the_last_frame(model):
    video = a_video(FRAMES + 3)
    filled = torch.cat([video, video[:, -1:].expand(-1, FRAMES - 3, -1, -1)], dim=1)
    tokens = model.encode(video)
    assert same_tokens(tokens, model.encode(filled))
    torch.testing.assert_close(model.decode(tokens), model.decode(model.encode(filled))[:, : FRAMES + 3])


def test_a_wide_picture_is_encoded_as_tiles_of_the_trained_shape(model):
    video = a_video(FRAMES, 45, 70)
    tokens = model.encode(video)
    assert tokens.encoded_size == (32, 50)  # 70 * 32 / 45 = 49.8
    fitted = F.interpolate(video.transpose(0, 1), (32, 50), mode="bilinear", antialias=True).transpose(0, 1)  # C F h w
    tiles = torch.stack([fitted[..., :32], fitted[..., 18:]])
    lengths = model.router.assign(tiles)
    assert torch.equal(tokens.tokens.lengths, lengths)
    assert torch.equal(tokens.tokens.codes, model.tokenizer.encode(tiles, lengths).codes)


def test_where_the_video_is_smaller_than_the_trained_shape_it_is_one_tile_and_the_router_sees_it_as_a_square(model):
    small = AdaptiveTokenizer(model.tokenizer, model.router, short_side=16)
    tokens = small.encode(a_video(FRAMES, 30, 52))
    assert tokens.encoded_size == (16, 24)  # 52 * 16 / 30 = 27.7, and the nearest multiple of 8
    fitted = F.interpolate(a_video(FRAMES, 30, 52).transpose(0, 1), (16, 24), mode="bilinear", antialias=True)
    square = F.interpolate(fitted, (32, 32), mode="bilinear", antialias=True)
    lengths = model.router.assign(square.transpose(0, 1)[None])
    assert torch.equal(tokens.tokens.lengths, lengths)
    assert torch.equal(tokens.tokens.codes, model.tokenizer.encode(fitted.transpose(0, 1)[None], lengths).codes)


@few
@given(
    seed=st.integers(0, 99), num_frames=st.integers(1, 70), mean=st.none() | st.floats(LEAST, MOST),
    bound=st.none() | st.integers(LEAST, MOST),
)  # fmt: skip
def test_budgets_are_kept_by_any_router(seed, num_frames, mean, bound):
    model = AdaptiveTokenizer(tiny_tokenizer(), tiny_router(seed))
    tokens = model.encode(a_video(num_frames, seed=seed), max_tokens=bound, mean_tokens=mean)
    assert tokens.num_tokens == tokens.tokens.lengths.sum()
    assert mean is None or tokens.num_tokens / tokens.num_clips <= mean
    assert bound is None or bool((tokens.tokens.lengths.sum(1) <= bound).all())


def test_the_dials_that_were_found_give_the_same_tokens_again(model):
    video = a_video(100)
    found = model.encode(video, mean_tokens=8)
    assert same_tokens(model.encode(video, preference=found.preference, max_tokens=found.max_tokens), found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": [2, 4]}, r"tokenizer has levels \[2, 4, 8\].*the router \[2, 4\]"),
        ({"num_frames": 16}, "blocks of 4 frames in clips of 8, the router .* blocks of 4 frames in clips of 16"),
        ({"temporal_patch": 2}, "blocks of 4 frames in clips of 8, the router .* blocks of 2 frames in clips of 8"),
    ],
)
def test_a_router_for_another_tokenizer_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveTokenizer(tiny_tokenizer(), tiny_router(**changes))


def test_a_router_may_look_at_another_resolution():
    video, tokenizer = a_video(20), tiny_tokenizer()
    assert AdaptiveTokenizer(tokenizer, tiny_router(resolution=16)).encode(video).num_clips == 3


@pytest.mark.parametrize(
    ("video", "dials", "message"),
    [
        (torch.zeros(3, 9, 32, 32), {"preference": 1.0, "mean_tokens": 9}, "preference=1.0 and mean_tokens=9 exclude"),
        (torch.zeros(3, 9, 32, 32), {"preference": 3.0}, r"between 0.8 .* and 1.6 .*; got 3.0"),
        (torch.zeros(3, 9, 32, 32), {"max_tokens": 3}, "max_tokens=3 cannot be met: a clip takes at least 4"),
        (torch.zeros(3, 9, 32, 32), {"mean_tokens": 3.5}, "mean_tokens=3.5 cannot be met: a clip takes at least 4"),
        (iter(torch.zeros(9, 3, 32, 32)), {"mean_tokens": 9}, "an iterator can be read only once"),
        (torch.zeros(3, 0, 32, 32), {}, "holds no frame"),
        (torch.zeros(1, 3, 9, 32, 32), {}, r"as a frame"),
        (torch.zeros(3, 9, 32, 32, dtype=torch.uint8), {}, r"floating point 3 F H W.*got torch.uint8 \(3, 32, 32\)"),
        ([torch.zeros(3, 32, 32), torch.zeros(3, 32, 40)], {}, r"one size; after \(32, 32\) comes \(32, 40\)"),
    ],
)
def test_bad_input_is_explained(model, video, dials, message):
    with pytest.raises(ValueError, match=message):
        model.encode(video, **dials)


def test_tokens_that_do_not_go_with_the_frames_are_refused(model):
    tokens = model.encode(a_video(20))
    first = TokenizedVideo(TokenizedClips.join(tokens.tokens.split()[:2]), 20, (32, 32), (32, 32), 1.2, None)
    with pytest.raises(
        ValueError, match="20 frames in clips of 8 and 1 tile of 32x32 are 3 clips, but there are tokens of 2"
    ):
        model.decode(first)
