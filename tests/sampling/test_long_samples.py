"""`evagen sample` on a generator without an end: videos of any length, written as a stream."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import LEVELS, tiny_block_router, tiny_tokenizer
from tiny_sampling import CLASSES, config_of
from video_fixtures import moving_frames

from evagen.ar_model import VideoGenerator
from evagen.commands import sample
from evagen.data.video_reader import read_frames
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.levels import frames_to_video, video_to_frames
from evagen.models.loading import fingerprint, load_model
from evagen.sampling.rows import read_rows
from evagen.tokenizer import BlockRouter, TokenizedClips, VideoTokenizer


@pytest.fixture(scope="module")
def long_models(tmp_path_factory) -> Path:
    """A tokenizer with a memory, the router of its blocks, and a generator of two blocks without an end."""
    root = tmp_path_factory.mktemp("long")
    tokenizer = tiny_tokenizer(memory_blocks=2)
    tokenizer.save_pretrained(root / "tokenizer")
    tiny_block_router().save_pretrained(root / "router")
    generator = VideoGenerator(
        64, LEVELS, 2, CLASSES, width=32, depth=1, num_heads=2, class_dropout=0.1,
        tokenizer_fingerprint=fingerprint(tokenizer), endless=True,
    )  # fmt: skip
    generator.save_pretrained(root / "generator")
    write_video(root / "given" / "bees" / "a.mkv", moving_frames(24, 32, 32), 15)
    return root


def test_seconds_of_video_are_written_as_a_stream(long_models, tmp_path):
    changes = {"seconds": 1.5, "clips_per_class": 2, "formats": ["mkv", "png"]}
    out = sample.main(config_of(long_models, tmp_path / "out", **changes))
    tokenizer = load_model(VideoTokenizer, long_models / "tokenizer")
    for row in read_rows(out):
        frames = read_frames(out / row["path"])
        assert (len(frames), len(row["lengths"])) == (22, 6)  # 22.5 frames at 15 a second, in six blocks of four
        tokens = TokenizedClips(torch.tensor(row["codes"]), torch.tensor([row["lengths"]]))
        assert np.array_equal(frames, video_to_frames(tokenizer.decode(tokens)[0, :, :22]))
        assert (out / row["path"]).with_suffix(".png").exists()
    same = sample.main(config_of(long_models, tmp_path / "same", slots=3, **changes))
    assert read_rows(same) == read_rows(out)


def test_more_given_frames_than_a_clip_has_are_refused(long_models, tmp_path):
    data = {"root": str(long_models / "given"), "layout": "folder", "frames": 8, "size": 32, "clip": "first"}
    beginnings = {"data": data, "router": str(long_models / "router"), "frames": 20}
    with pytest.raises(UserError, match="20 frames are to be given, but the clips have 8: give given"):
        sample.main(config_of(long_models, tmp_path, blocks=8, given=beginnings))


def test_a_given_video_of_any_length_goes_on(long_models, tmp_path):
    data = {"root": str(long_models / "given"), "layout": "folder", "frames": 24, "size": 32, "clip": "first"}
    for frames in (4, 20):
        beginnings = {"data": data, "router": str(long_models / "router"), "frames": frames}
        out = tmp_path / f"{frames}"
        sample.main(config_of(long_models, out, blocks=8, given=beginnings, classes=None, clips_per_class=1))
        (row,) = read_rows(out)
        tokenizer, router = load_model(VideoTokenizer, long_models / "tokenizer"), long_models / "router"
        video = frames_to_video(moving_frames(24, 32, 32))[None, :, :frames]
        lengths = load_model(BlockRouter, router).assign(video)
        assert row["lengths"][: frames // 4] == lengths[0].tolist()
        assert row["codes"][: int(lengths.sum())] == tokenizer.encode(video, lengths).codes.tolist()
        assert (len(row["lengths"]), len(read_frames(out / row["path"]))) == (8, 32)
