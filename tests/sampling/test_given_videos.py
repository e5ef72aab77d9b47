"""Videos that `evagen sample` begins from: continuation and frame prediction, on tiny models and real files."""

import os
import shutil

import pytest
import torch
from tiny_sampling import config_of, given
from video_fixtures import moving_frames

from evagen.ar_model import ClipTokens, VideoGenerator
from evagen.commands import sample, tokenize, train_generator
from evagen.config import check_config
from evagen.data import clips
from evagen.data.clips import ClipDataset
from evagen.data.corpus import read_corpus
from evagen.data.square_clips import read_square
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.models.lengths import RoutedLengths
from evagen.models.loading import load_model
from evagen.sampling import given as given_clips
from evagen.sampling.given import Given, encode_given
from evagen.sampling.rows import read_rows
from evagen.tokenizer import Router, VideoTokenizer


def test_given_videos_may_not_change_between_the_clips_of_a_run(models, tmp_path):
    shutil.copytree(models / "videos" / "bees", tmp_path / "videos")
    data = {**given(models)["data"], "root": str(tmp_path / "videos")}
    config = config_of(models, tmp_path / "out", given=given(models) | {"data": data}, clips_per_class=1)
    sample.main(config)
    write_video(tmp_path / "videos" / "a.mkv", moving_frames(8, 32, 32, seed=9), 15)
    with pytest.raises(UserError, match="made from other given_videos than there are now"):
        sample.main(config)


def test_continued_clips_begin_with_what_is_given(models, tmp_path):
    known = given(models, classes=["ants", "bees"])
    out = sample.main(config_of(models, tmp_path / "out", given=known, clips_per_class=2))
    rows = read_rows(out)
    assert [row["class"] for row in rows] == ["ants"] * 2 + ["bees"] * 2
    tokenizer, router = load_model(VideoTokenizer, models / "tokenizer"), load_model(Router, models / "router")
    for i, clip in enumerate(ClipDataset(check_config(Given, known, "test").data)):
        (before,) = encode_given(clip.video[None, :, :4], tokenizer, RoutedLengths(router, 1.2))
        for row in rows[2 * i : 2 * i + 2]:
            assert row["given"] == f"{clip.path}@0"
            assert row["lengths"][0] == before.lengths[0]
            assert row["codes"][: row["lengths"][0]] == before.codes.tolist()
        assert rows[2 * i]["codes"] != rows[2 * i + 1]["codes"]


def test_given_videos_are_read_in_batches_and_by_other_processes(models, tmp_path, monkeypatch):
    """With the same samples, of parts of a run too."""
    alone, together = (config_of(models, tmp_path / name, given=given(models, ["ants", "bees"])) for name in "ab")
    together.run.num_workers = 1
    monkeypatch.setattr(given_clips, "FRAMES_TOGETHER", 1)
    rows = read_rows(sample.main(alone))
    monkeypatch.undo()
    seen = []
    monkeypatch.setattr(given_clips, "encode_given", lambda x, *rest: seen.append(len(x)) or encode_given(x, *rest))
    assert read_rows(sample.main(together)) == rows
    assert seen == [2]


def test_of_a_given_video_no_more_is_read_than_is_given(models, tmp_path, monkeypatch):
    counts = []

    def noted(path, start, count, *rest):
        counts.append(count)
        return read_square(path, start, count, *rest)

    monkeypatch.setattr(clips, "read_square", noted)
    sample.main(config_of(models, tmp_path / "out", given=given(models, ["bees"]), clips_per_class=1))
    assert counts == [4]


def test_a_given_video_that_cannot_be_decoded_is_named(models, tmp_path):
    shutil.copytree(models / "videos", tmp_path / "videos")
    known = given(models, ["ants", "bees"])
    known["data"] |= {"root": str(tmp_path / "videos")}
    config = config_of(models, tmp_path / "out", given=known)
    ClipDataset(config.given.data)  # which remembers the files' lengths
    broken = tmp_path / "videos" / "bees" / "0.mkv"
    state = broken.stat()
    broken.write_bytes(bytes(state.st_size))  # broken since
    os.utime(broken, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(UserError, match=r"bees/0\.mkv.*take it out"):
        sample.main(config)


def test_given_videos_of_a_class_that_the_generator_does_not_know_are_refused(models, tmp_path):
    """Instead of being continued as if no class had been asked for."""
    with pytest.raises(UserError, match="classes that the generator does not know: wasps; it knows ants, bees"):
        sample.main(config_of(models, tmp_path, given=given(models)))


def test_given_videos_without_classes_are_continued_without_one(models, tmp_path):
    shutil.copytree(models / "videos" / "wasps", tmp_path / "videos")
    data = {**given(models)["data"], "root": str(tmp_path / "videos")}
    out = sample.main(config_of(models, tmp_path / "out", given=given(models) | {"data": data}, clips_per_class=1))
    assert [row["class"] for row in read_rows(out)] == [None]


def test_a_given_video_of_no_class_beside_some_of_one_is_continued_without_one(models, tmp_path):
    """-1 is its label, and not the last class."""
    data = {"root": str(models / "videos" / "wasps"), "layout": "folder"}
    source = given(models, classes=["bees"])
    source["data"] |= {"classes": None, "root": str(models / "few"), "more": [data]}
    shutil.copytree(models / "videos" / "bees", models / "few" / "bees")
    rows = read_rows(sample.main(config_of(models, tmp_path / "out", given=source, clips_per_class=1)))
    assert {row["given"].split("/")[-2]: row["class"] for row in rows} == {"bees": "bees", "wasps": None}


def test_given_frames_are_told_as_the_blocks_of_any_clip_that_begins_with_them(models):
    """And say nothing of what follows."""
    tokenizer, router = load_model(VideoTokenizer, models / "tokenizer"), load_model(Router, models / "router")
    video = torch.rand(3, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assign = RoutedLengths(router, 1.2)
    before = encode_given(video[:, :, :4], tokenizer, assign)
    for clip, alone in zip(before, (encode_given(v[None, :, :4], tokenizer, assign)[0] for v in video)):
        assert all(map(torch.equal, clip, alone))
    lengths = torch.tensor([[int(clip.lengths[0]), 4] for clip in before])
    whole = tokenizer.encode(video, lengths).split()
    for clip, tokens in zip(before, whole):
        assert torch.equal(clip.codes, tokens.codes[: len(clip.codes)])


def test_frame_prediction_from_corpus_to_samples(models, tmp_path):
    """A corpus with given frames, a generator trained on it, and clips sampled from given frames."""
    data = given(models)["data"]
    run = {"tracker": "none", "log_every": 1}
    tokens = check_config(
        tokenize.Tokenization,
        {"run": {"out": str(tmp_path / "tokens")}, "data": data, "tokenizer": str(models / "tokenizer"),
         "router": str(models / "router"), "given_frames": 3, "flips": False}, "test",
    )  # fmt: skip
    corpus = read_corpus(tokenize.main(tokens))
    assert (corpus.given_frames, corpus.num_given_blocks) == (3, 1)
    tokenizer, router = load_model(VideoTokenizer, models / "tokenizer"), load_model(Router, models / "router")
    for row, clip in zip(corpus.table, ClipDataset(tokens.data), strict=True):
        (before,) = encode_given(clip.video[None, :, :3], tokenizer, RoutedLengths(router, 1.2))
        assert all(map(torch.equal, before, ClipTokens(row["given_codes"], row["given_lengths"])))
    training = check_config(
        train_generator.GeneratorTraining,
        {"run": run | {"out": str(tmp_path / "generator")}, "corpus": str(tmp_path / "tokens"), "use_classes": False,
         "model": {"width": 32, "depth": 1, "num_heads": 2},
         "optimizer": {"steps": 3, "tokens_per_batch": 40, "batch_size": None, "learning_rate": 0.001}}, "test",
    )  # fmt: skip
    train_generator.main(training)
    generator = load_model(VideoGenerator, tmp_path / "generator")
    assert (generator.config.given_frames, generator.config.num_given_blocks) == (3, 1)
    assert list(generator.config.class_names) == []
    changes = {"generator": str(tmp_path / "generator"), "given": given(models), "options": {}, "clips_per_class": 1}
    rows = read_rows(sample.main(config_of(models, tmp_path / "out", **changes)))
    assert [row["class"] for row in rows] == [None] * 3
    assert all(len(row["lengths"]) == 2 for row in rows)


@pytest.mark.parametrize(
    ("generator", "changes", "message"),
    [
        ("generator", {"frames": 3}, "3 given frames: continuation begins from whole blocks, so give a multiple of 4"),
        ("generator", {"frames": 8}, "8 given frames leave nothing to write of a clip of 8: give fewer"),
        ("predictor", {"frames": 4}, "trained to predict what follows 3 frames, not 4"),
    ],
)
def test_bad_given_frames_are_explained(models, tmp_path, generator, changes, message):
    changes = {"generator": str(models / generator), "given": given(models, **changes), "options": {}}
    with pytest.raises(UserError, match=message):
        sample.main(config_of(models, tmp_path / "bad", **changes))
