"""Videos in other ranges, types and layouts: they give the tokens of the right one, or are refused in words."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import random_clips, tiny_block_router, tiny_router, tiny_tokenizer

from evagen.errors import UserError
from evagen.kernels.levels import levels_to_floats
from evagen.sampling.pipeline import VideoPipeline
from evagen.tokenizer import AdaptiveTokenizer, LiveTokenizer, TokenizerStream

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
