"""Videos in other ranges, types and layouts: they give the tokens of the right one, or are refused in words."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import random_clips, tiny_block_router, tiny_router, tiny_tokenizer

from evagen.errors import UserError
from evagen.kernels.levels import levels_to_floats
from evagen.sampling.pipeline import VideoPipeline
from evagen.tokenizer import AdaptiveTokenizer, BlockRouter, LiveTokenizer, Router, TokenizedClips, TokenizerStream

LENGTHS = torch.tensor([[2, 8]])


@pytest.fixture(scope="module")
def levels() -> torch.Tensor:
    """uint8 (3, 8, 32, 32)."""
    return ((random_clips(1, seed=3)[0] + 1) * 127.5).round().to(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats_give_tokens(levels, dtype):
    model, video = tiny_tokenizer(), levels_to_floats(levels)[None]
    tokens = model.encode(video.to(dtype), LENGTHS)
    assert torch.equal(tokens.codes, model.encode(video.to(dtype).float(), LENGTHS).codes)
    chosen = AdaptiveTokenizer(model, tiny_router()).encode(video[0].to(dtype))
    assert chosen.num_frames == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda levels: levels, r"in \[-1, 1\]"),
        (lambda levels: levels.float(), r"values in \[-1, 1\], got 0 to 255: levels / 127.5 - 1 gives that"),
        (lambda levels: levels_to_floats(levels).where(levels > 9, torch.nan), "got nan to nan"),
        (lambda levels: levels_to_floats(levels).transpose(0, 1), r"3, F, H, W|3 F H W|3 H W"),
    ],
)
def test_videos_of_another_range_or_layout_are_refused(levels, change, message):
    video = change(levels)
    for encode in (
        lambda: tiny_tokenizer().encode(video[None], LENGTHS),
        lambda: AdaptiveTokenizer(tiny_tokenizer(), tiny_router()).encode(video),
        lambda: LiveTokenizer(tiny_tokenizer(memory_blocks=2), tiny_block_router()).encode(video),
    ):
        with pytest.raises(ValueError, match=message):
            encode()


def test_a_training_pass_and_a_router_refuse_whole_numbers_and_an_empty_batch(levels):
    model, video = tiny_tokenizer(), levels_to_floats(levels)[None]
    with pytest.raises(ValueError, match=r"not torch\.uint8"):
        model(levels[None], LENGTHS)
    for empty in (
        lambda: model(video[:0], LENGTHS[:0]),
        lambda: model.encode(video[:0], LENGTHS[:0]),
        lambda: model.decode(TokenizedClips(LENGTHS[0, :0], LENGTHS[:0])),
        lambda: model.decode(TokenizedClips(LENGTHS[0, :0], LENGTHS[:, :0])),
    ):
        with pytest.raises(ValueError, match="at least one"):
            empty()
    for router in (tiny_router(), tiny_block_router()):
        with pytest.raises(ValueError, match=r"a router takes what its features\(…\) are"):
            router(video, torch.ones(1))
        with pytest.raises(ValueError, match=r"in \[-1, 1\], not torch\.uint8"):
            router.assign(levels[None])
        with pytest.raises(ValueError, match=r"values in \[-1, 1\], got 0 to 255"):
            router.assign(levels[None].float())
    with pytest.raises(ValueError, match=r"values in \[-1, 1\], got 0 to 255"):
        tiny_router().assign_video([levels[None].float()], 100)


def test_models_that_do_not_go_together_are_told_by_their_kinds():
    clips, remembers = tiny_tokenizer(), tiny_tokenizer(memory_blocks=2)
    for make, message in (
        (lambda: AdaptiveTokenizer(tiny_router(), clips), "got a Router and a VideoTokenizer"),
        (lambda: AdaptiveTokenizer(clips, None), "and a NoneType"),
        (lambda: AdaptiveTokenizer(remembers, tiny_router()), "LiveTokenizer takes a BlockRouter"),
        (lambda: AdaptiveTokenizer(clips, tiny_block_router()), "and a BlockRouter"),
        (lambda: LiveTokenizer(remembers, tiny_router()), "goes with a BlockRouter, got a Router"),
        (lambda: AdaptiveTokenizer(clips, tiny_router(), clips_per_chunk=0), "clips_per_chunk=0"),
        (lambda: AdaptiveTokenizer(clips, tiny_router(), short_side=-8), "short_side=-8"),
        (lambda: LiveTokenizer(remembers, tiny_block_router(), short_side=0), "short_side=0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_levels_may_be_a_tuple_as_well_as_a_list():
    sizes = {"levels": (2, 4, 8), "num_frames": 8, "resolution": 32, "temporal_patch": 4}
    small = {"patch": 4, "downscale": 2, "width": 32, "depth": 1, "num_heads": 2}
    AdaptiveTokenizer(tiny_tokenizer(), Router(**sizes, **small))
    del sizes["num_frames"]
    LiveTokenizer(tiny_tokenizer(memory_blocks=2), BlockRouter(memory_blocks=2, **sizes, **small))


def test_lengths_of_a_tensor_are_those_of_a_list(levels):
    live, video = LiveTokenizer(tiny_tokenizer(memory_blocks=2)), levels_to_floats(levels)
    wanted = live.encode(video, lengths=[2, 8])
    assert torch.equal(live.encode(video, lengths=LENGTHS[0]).tokens.codes, wanted.tokens.codes)
    with pytest.raises(ValueError, match="rate=60: give Rate"):
        LiveTokenizer(live.tokenizer, tiny_block_router()).encode(video, rate=60)
    with pytest.raises(ValueError, match="got a str in place of a frame"):
        live.encode("holiday.mp4", lengths=[2])


def test_a_stream_refuses_tokens_and_sizes_that_are_not_its_own(levels):
    stream, video = TokenizerStream(tiny_tokenizer(memory_blocks=2)), levels_to_floats(levels)
    codes = stream.encode(video, LENGTHS[0])
    for wrong, message in ((codes[1:], "add up to 10 tokens"), (codes - 10**4, "another tokenizer")):
        with pytest.raises(ValueError, match=message):
            stream.decode(wrong, LENGTHS[0])
    assert stream.decode(codes, LENGTHS[0]).shape == video.shape
    for other in (
        lambda: stream.encode(video[..., :16], LENGTHS[0]),
        lambda: stream.decode(codes, LENGTHS[0], (32, 16)),
    ):
        with pytest.raises(ValueError, match=r"one size; after \(H, W\) \(32, 32\) comes \(32, 16\)"):
            other()


def test_a_stream_refuses_another_range(levels):
    with pytest.raises(ValueError, match=r"values in \[-1, 1\], got 0 to 255"):
        TokenizerStream(tiny_tokenizer(memory_blocks=2)).encode(levels.float(), LENGTHS[0])


def test_arrays_as_people_have_them(levels):
    pipeline = VideoPipeline(tiny_tokenizer(), router=tiny_router())
    frames = levels.permute(1, 2, 3, 0).numpy()  # F H W C
    wanted = pipeline.encode(frames).tokens.codes
    assert torch.equal(pipeline.encode(frames[..., ::-1][..., ::-1]).tokens.codes, wanted)
    assert torch.equal(pipeline.encode(frames.astype(np.float64) / 255).tokens.codes, wanted)
    mirrored = np.ascontiguousarray(frames[:, :, ::-1])
    assert torch.equal(pipeline.encode(frames[:, :, ::-1]).tokens.codes, pipeline.encode(mirrored).tokens.codes)
    for wrong, message in (
        (frames.astype(np.float32), r"values from 0 to 255"),
        (frames.astype(np.int64), r"values from 0 to 255"),
        (np.where(frames > 9, frames / 255, np.nan), "values from nan to nan"),
        (frames.astype(object), "an array of object is no video"),
        (frames.transpose(3, 0, 1, 2), "of shape"),
        ([Image.new("RGB", (32, 32)), Image.new("RGB", (32, 48))], "have one size, these have 2"),
    ):
        with pytest.raises(UserError, match=message):
            pipeline.encode(wrong)
