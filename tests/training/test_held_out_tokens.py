"""Clips held out of a generator's training: their loss is that of each alone, looking changes nothing, the best weights
are kept, and a corpus that cannot tell anything is refused."""

import json
from pathlib import Path

import pytest
import torch
from tiny_corpus import write_corpus

from evagen.ar_model import VideoGenerator, next_token_loss
from evagen.commands import train_generator
from evagen.commands.train_generator import GeneratorTraining
from evagen.config import check_config
from evagen.data.corpus import Windows, read_corpus
from evagen.errors import UserError
from evagen.models.loading import load_model
from evagen.training.metrics import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def learnt(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("learnt"), num_clips=12)


@pytest.fixture(scope="module")
def unseen(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("unseen"), num_clips=7, seed=1)


def trained(corpus: Path, out: Path, held_out: dict, model: dict | None = None, **rest) -> list[dict]:
    """The log of a short training."""
    optimizer = {"steps": 6, "learning_rate": 0.01, "warmup_steps": 2, "tokens_per_batch": 70, "batch_size": None}
    values = {
        "run": {"out": str(out), "log_every": 1, "save_every": 2, "tracker": "none"},
        "corpus": str(corpus),
        "model": {"width": 32, "depth": 2, "num_heads": 2, "hidden_width": 48, **(model or {})},
        "held_out": held_out,
        **rest,
        "optimizer": optimizer | rest.get("optimizer", {}),
    }
    train_generator.main(check_config(GeneratorTraining, values, "test"))
    return read_metrics(out)


def losses_of_each_alone(model: VideoGenerator, corpus: Path, with_classes: bool) -> tuple[float, float, float]:
    """Mean loss over all predicted tokens, content tokens and length tokens, one clip at a time."""
    windows, sums, counts = Windows(read_corpus(corpus)), [0.0, 0.0], [0, 0]
    with torch.no_grad():
        for number in range(len(windows)):
            clips, labels, _, _ = windows.read([number])
            tokens, lengths = model.grammar.pack(clips, labels if with_classes else -torch.ones_like(labels))
            loss = next_token_loss(model.eval()(tokens, lengths), tokens, lengths, model.grammar)
            for i, (value, count) in enumerate(((loss.content_loss, len(clips[0].codes)), (loss.length_loss, 3))):
                sums[i] += float(value) * count
                counts[i] += count
    return sum(sums) / sum(counts), sums[0] / counts[0], sums[1] / counts[1]


@pytest.mark.parametrize("with_classes", [True, False])
def test_the_held_out_loss_is_that_of_each_clip_alone(learnt, unseen, tmp_path, with_classes):
    """Of the averaged weights, without dropout, in batches of some clips, the last of them smaller."""
    log = trained(
        learnt, tmp_path, {"corpus": str(unseen), "every": 4}, {"residual_dropout": 0.2}, use_classes=with_classes,
        optimizer={"ema_decay": 0.7},
    )  # fmt: skip
    assert [line["step"] for line in log if "held_out_loss" in line] == [4, 6]
    expected = losses_of_each_alone(VideoGenerator.from_pretrained(tmp_path), unseen, with_classes)
    names = ("held_out_loss", "held_out_content_loss", "held_out_length_loss")
    assert [log[-1][name] for name in names] == pytest.approx(expected, rel=1e-4)


def test_a_class_has_the_same_label_where_a_corpus_lacks_the_one_before_it(learnt, tmp_path):
    """All clips are bees, of which the corpus that is learnt has another label than the one that has no ants."""
    unseen = write_corpus(tmp_path / "bees", num_clips=5, seed=1, stored_labels=[1] * 5)
    expected = trained(learnt, tmp_path / "all", {"corpus": str(unseen)})[-1]
    unseen = write_corpus(tmp_path / "only_bees", num_clips=5, seed=1, stored_labels=[0] * 5, class_names=["bees"])
    assert trained(learnt, tmp_path / "run", {"corpus": str(unseen)})[-1]["held_out_loss"] == expected["held_out_loss"]


def test_a_watched_training_leaves_the_weights_of_an_unwatched_one(learnt, unseen, tmp_path):
    dropout = {"token_dropout": 0.2, "residual_dropout": 0.2}
    log = trained(learnt, tmp_path / "watched", {"corpus": str(unseen), "every": 1}, dropout)
    trained(learnt, tmp_path / "unwatched", {}, dropout)
    mine, theirs = (VideoGenerator.from_pretrained(tmp_path / name).state_dict() for name in ("watched", "unwatched"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert all("held_out_loss" in line for line in log)


def test_learning_by_heart_shows_and_the_best_weights_are_from_before(unseen, tmp_path):
    """Three clips, many times over, and a class that tells nothing: the loss of what is learnt falls to the end, that
    of what is not turns round."""
    few = write_corpus(tmp_path / "few", num_clips=3, seed=2)
    held_out = {"corpus": str(unseen), "every": 10, "best": "loss"}
    log = trained(few, tmp_path / "run", held_out, optimizer={"steps": 120})
    seen = {line["step"]: line["held_out_loss"] for line in log if "held_out_loss" in line}
    best = min(seen, key=seen.__getitem__)
    assert log[-1]["loss"] < 0.5 * log[best - 1]["loss"]
    assert seen[120] > 1.2 * seen[best]
    about = json.loads((tmp_path / "run" / "best" / "score.json").read_text())
    assert about == {"step": best, "score": "loss", "value": pytest.approx(seen[best], abs=1e-5)}
    kept = load_model(VideoGenerator, f"{tmp_path / 'run'}@best")
    assert losses_of_each_alone(kept, unseen, True)[0] == pytest.approx(seen[best], rel=1e-4)


@pytest.mark.parametrize(
    ("contents", "seed", "message"),
    [
        ({}, 0, r"held_out\.corpus=.* holds videos that are trained on, /videos/0/\d+\.avi for one; give a corpus of"),
        ({"tokenizer_fingerprint": "fedcba9876543210"}, 1, r"tokenizer 0123456789abcdef, but that of held_out\.corp"),
        ({"class_names": ["ants", "cats"]}, 1, r"its classes are \['ants', 'cats'\], those of the corpus \['ants', 'b"),
        ({"given_frames": 4}, 1, r"its given frames are 4, those of the corpus 0; give one that `evagen tokenize`"),
    ],
)
def test_a_corpus_that_can_tell_nothing_is_refused(learnt, tmp_path, contents, seed, message):
    other = write_corpus(tmp_path / "other", num_clips=5, seed=seed, **contents)
    with pytest.raises(UserError, match=message):
        trained(learnt, tmp_path / "run", {"corpus": str(other)})


def test_the_best_of_no_clips_is_refused(learnt, tmp_path):
    with pytest.raises(UserError, match=r"best=loss needs clips to score: give held_out\.corpus"):
        trained(learnt, tmp_path, {"best": "loss"})
