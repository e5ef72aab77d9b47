"""The diffusers pipeline on tiny models: saved, loaded by diffusers, and the clips of `evagen sample`."""

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from scored_models import make_models

from evagen.commands import sample
from evagen.config import check_config
from evagen.data.video_reader import read_frames
from evagen.errors import UserError
from evagen.sampling.pipeline import VideoPipeline
from evagen.sampling.rows import read_rows


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("pipeline"))


def test_saved_and_loaded_it_writes_what_sample_writes(root, tmp_path):
    VideoPipeline.of(root / "generator", root / "tokenizer").save_pretrained(tmp_path / "pipeline")
    loaded = VideoPipeline.from_pretrained(tmp_path / "pipeline")
    assert isinstance(loaded, DiffusionPipeline)
    output = loaded(["Boxing", "Boxing", "Skiing", "Skiing"], seed=3, top_p=0.9)
    config = {
        "run": {"out": str(tmp_path / "run"), "seed": 3},
        "generator": str(root / "generator"), "tokenizer": str(root / "tokenizer"), "clips_per_class": 2,
        "options": {"top_p": 0.9}, "formats": ["mkv"],
    }  # fmt: skip
    rows = read_rows(sample.main(check_config(sample.Sampling, config, "test")))
    assert [row["codes"] for row in rows] == [clip.codes.tolist() for clip in output.tokens]
    assert output.frames.shape == (4, 16, 32, 32, 3)
    for row, frames in zip(rows, output.frames):
        (path,) = (tmp_path / "run").glob(f"{row['class']}/*{row['number']}.mkv")
        assert np.abs(read_frames(path, 0, 16, 1).astype(int) - frames).max() <= 1  # decoded in other batches


def test_lengths_and_what_cannot_be_done(root):
    pipeline = VideoPipeline.of(root / "generator", root / "tokenizer")
    (clip,) = pipeline([None], lengths=[8, None, 2, 2]).tokens
    assert clip.lengths[[0, 2, 3]].tolist() == [8, 2, 2]
    with pytest.raises(UserError, match="knows no class 'Boxin'; the nearest are Boxing"):
        pipeline(["Boxin"])
    with pytest.raises(UserError, match="top_p must lie in"):
        pipeline(["Boxing"], top_p=0.0)
    with pytest.raises(UserError, match="cannot write these clips"):
        pipeline(["Boxing"], lengths=[3, 3, 3, 3])
    with torch.no_grad():
        pipeline.tokenizer.to_pixels.bias.add_(1)
    with pytest.raises(UserError, match="trained on the tokens of tokenizer"):
        VideoPipeline(pipeline.tokenizer, pipeline.generator)
