"""Samples that a generator's training draws: what they show, and that nothing else notices them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from PIL import Image
from tiny_corpus import write_corpus
from tiny_models import LEVELS, tiny_tokenizer

from evagen.ar_model import ClipRequest, SamplingOptions, VideoGenerator, sample_in_order
from evagen.commands.train_generator import GeneratorTraining, main
from evagen.config import check_config
from evagen.data.pictures import LINE
from evagen.data.video_reader import iterate_frames
from evagen.errors import UserError
from evagen.kernels.levels import video_to_frames
from evagen.models.loading import fingerprint
from evagen.sampling.clips import clip_seed, decode_clips
from evagen.training.run import TrainingRun

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def corpus_of(tokenizer, folder: Path, blocks: int = 2, **contents) -> Path:
    tokenizer.save_pretrained(folder / "tokenizer")
    about = {"tokenizer_fingerprint": fingerprint(tokenizer), "tokenizer_source": str(folder / "tokenizer")}
    return write_corpus(folder / "corpus", 20, LEVELS, blocks=blocks, **about | {"codebook_size": 64} | contents)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return corpus_of(tiny_tokenizer(), tmp_path_factory.mktemp("corpus"))


def training(corpus: Path, out: Path, samples: dict | None = None, **changes) -> GeneratorTraining:
    """With dropout, whose random numbers samples must leave alone."""
    values = {
        "run": {"out": str(out), "log_every": 2, "save_every": 2, "tracker": "none"}, "corpus": str(corpus),
        "model": {"width": 32, "depth": 1, "num_heads": 2, "residual_dropout": 0.2},
        "optimizer": {"steps": 5, "batch_size": 4, "learning_rate": 0.01, "ema_decay": 0.5},
        "samples": {"every": 2, "clips": 3, "options": {"guidance": 1.5}, **(samples or {})},
        **changes,
    }  # fmt: skip
    return check_config(GeneratorTraining, values, "test")


def weights(folder: Path) -> list[torch.Tensor]:
    return list(VideoGenerator.from_pretrained(folder).state_dict().values())


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted((folder / "pictures").glob("*.png"))}


@pytest.fixture(scope="module")
def watched(corpus, tmp_path_factory) -> Path:
    return main(training(corpus, tmp_path_factory.mktemp("watched")))


def test_training_is_not_disturbed_bit_for_bit(corpus, watched, tmp_path):
    main(training(corpus, tmp_path / "unwatched", {"every": 0}))
    assert all(torch.equal(a, b) for a, b in zip(weights(watched), weights(tmp_path / "unwatched"), strict=True))
    assert not (tmp_path / "unwatched" / "pictures").exists()


def test_resumed_equals_uninterrupted(corpus, watched, tmp_path, monkeypatch):
    update = TrainingRun.update

    def killed(self, *rest):
        if self.step == 3:
            raise KeyboardInterrupt
        update(self, *rest)

    monkeypatch.setattr(TrainingRun, "update", killed)
    with pytest.raises(KeyboardInterrupt):
        main(training(corpus, tmp_path))
    monkeypatch.setattr(TrainingRun, "update", update)
    main(training(corpus, tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(weights(watched), weights(tmp_path), strict=True))
    mine, theirs = pictures(tmp_path), pictures(watched)
    assert mine.keys() == theirs.keys() == {"step_00000002", "step_00000004", "step_00000005"}
    assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)


def test_the_last_picture_shows_what_the_run_leaves(corpus, watched):
    """The averaged weights' clips, of both classes, in one row of eight frames each."""
    generator = VideoGenerator.from_pretrained(watched)
    requests = [ClipRequest(clip_seed(0, i), label) for i, label in enumerate((0, 0, 1))]
    tokens = sample_in_order(generator, requests, SamplingOptions(guidance=1.5), 3)
    picture = pictures(watched)["step_00000005"]
    of_clip = (len(picture) - LINE) // 3  # beneath a line of text
    for number, clip in enumerate(tokens):
        frames = video_to_frames(decode_clips(tiny_tokenizer(), [clip])[0])
        shown = picture[LINE + number * of_clip + LINE :][:32]
        for i, frame in enumerate(frames):
            assert np.abs(shown[:, i * 33 :][:, :32].astype(int) - frame).max() <= 1
    video = list(iterate_frames(watched / "pictures" / "step_00000005.mp4"))
    assert len(video) == 8


def test_frame_prediction_begins_from_clips_of_the_corpus(corpus, tmp_path):
    folder = corpus_of(tiny_tokenizer(), tmp_path, given_frames=4, num_given_blocks=1)
    table = load_from_disk(folder / "table")
    first = [(codes[: lengths[0]], lengths[:1]) for codes, lengths in zip(table["codes"], table["lengths"])]
    about = (folder / "table" / "about.json").read_text()
    table = table.add_column("given_codes", [codes for codes, _ in first])
    table.add_column("given_lengths", [lengths for _, lengths in first]).save_to_disk(tmp_path / "given" / "table")
    (tmp_path / "given" / "table" / "about.json").write_text(about)
    main(training(tmp_path / "given", tmp_path / "run"))
    assert len(pictures(tmp_path / "run")) == 3
    with pytest.raises(UserError, match=r"samples\.classes=.*leave classes out"):
        main(training(tmp_path / "given", tmp_path / "other", {"classes": ["ants"]}))


def test_a_generator_without_an_end_shows_a_window(tmp_path):
    folder = corpus_of(tiny_tokenizer(memory_blocks=1), tmp_path, blocks=6, memory_blocks=1)
    main(training(folder, tmp_path / "run", blocks=3))
    assert len(list(iterate_frames(tmp_path / "run" / "pictures" / "step_00000002.mp4"))) == 12


def test_a_tokenizer_that_is_gone_is_said_and_another_is_refused(corpus, tmp_path, capfd):
    gone = corpus_of(tiny_tokenizer(), tmp_path, tokenizer_source="/gone")
    main(training(gone, tmp_path / "run"))
    assert "goes without samples" in capfd.readouterr().out
    assert not (tmp_path / "run" / "pictures").exists()
    tiny_tokenizer(seed=1).save_pretrained(tmp_path / "other")
    for named, message in (
        (tmp_path / "other", "the corpus holds tokens of tokenizer"),
        ("/gone", "no VideoTokenizer"),
    ):
        with pytest.raises(UserError, match=message):
            main(training(gone, tmp_path / "refused", {"tokenizer": str(named)}))


def test_what_the_generator_cannot_follow_is_refused_before_training(corpus, tmp_path):
    with pytest.raises(UserError, match="knows no class 'ant'; the nearest are ants"):
        main(training(corpus, tmp_path / "a", {"classes": ["ant"]}))
    with pytest.raises(UserError, match=r"samples\.options: guidance needs class_dropout above 0"):
        main(training(corpus, tmp_path / "b", class_dropout=0.0))
    with pytest.raises(UserError, match=r"samples\.options: top_p must lie"):
        main(training(corpus, tmp_path / "c", {"options": {"top_p": 2.0}}))
