"""`evagen train-tokenizer` with every quantiser: the terms that exist are logged, and codes that cannot die are left
alone."""

from pathlib import Path

import pytest
import torch

from evagen.commands import train_tokenizer
from evagen.config import check_config
from evagen.data.arcade import build_arcade
from evagen.errors import UserError
from evagen.models.loading import load_model
from evagen.tokenizer import DeadCodeRestart, VideoTokenizer
from evagen.training.metrics import read_metrics
from evagen.training.run import TrainingRun

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SIZES = {"vq": (32, 4), "svq": (32, 4), "fsq": (81, 4), "bsq": (16, 4)}
TERMS = {
    "vq": {"codebook", "commitment", "entropy"}, "svq": {"codebook", "commitment", "entropy"}, "fsq": set(),
    "bsq": {"entropy"},
}  # fmt: skip


@pytest.fixture(scope="module")
def arcade(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("kinds") / "arcade"
    build_arcade(root, games=["boxing"], clips_per_game=4, size=32, workers=1)
    return root


def config(arcade: Path, out: Path, kind: str, **model) -> train_tokenizer.TokenizerTraining:
    size, width = SIZES[kind]
    values = {
        "run": {"out": str(out), "log_every": 1, "save_every": 2, "tracker": "none"},
        "data": {"root": str(arcade), "layout": "ucf101", "size": 32},
        "model": {
            "levels": [1, 4], "encoder_width": 32, "encoder_depth": 1, "encoder_heads": 2, "decoder_width": 32,
            "decoder_depth": 1, "decoder_heads": 2, "codebook_size": size, "code_width": width, "quantizer": kind,
            **model,
        },
        "optimizer": {"steps": 4, "batch_size": 2, "learning_rate": 0.001},
        "restart_codes_after": 1,
    }  # fmt: skip
    return check_config(train_tokenizer.TokenizerTraining, values, "test")


@pytest.mark.parametrize("kind", SIZES)
def test_training_with_each_quantiser(arcade, tmp_path, monkeypatch, kind):
    restarts = []
    step = DeadCodeRestart.step
    monkeypatch.setattr(DeadCodeRestart, "step", lambda self, *rest: restarts.append(step(self, *rest)))
    train_tokenizer.main(config(arcade, tmp_path, kind))
    log = read_metrics(tmp_path)
    assert len(log) == 4
    assert {"codebook", "commitment", "entropy"} & set(log[0]) == TERMS[kind]
    assert bool(restarts) == (kind in ("vq", "svq"))
    model = load_model(VideoTokenizer, tmp_path)
    assert (model.config.quantizer, model.quantizer.codebook_size) == (kind, SIZES[kind][0])


def test_a_resumed_training_draws_the_stochastic_codes_of_an_uninterrupted_one(arcade, tmp_path, monkeypatch):
    train_tokenizer.main(config(arcade, tmp_path / "straight", "svq", stochastic_temperature=1.0))
    update = TrainingRun.update

    def killed_at_three(self, *rest):
        if self.step == 3:
            raise KeyboardInterrupt
        update(self, *rest)

    monkeypatch.setattr(TrainingRun, "update", killed_at_three)
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer.main(config(arcade, tmp_path / "resumed", "svq", stochastic_temperature=1.0))
    monkeypatch.undo()
    train_tokenizer.main(config(arcade, tmp_path / "resumed", "svq", stochastic_temperature=1.0))
    one, other = (VideoTokenizer.from_pretrained(tmp_path / name).state_dict() for name in ("straight", "resumed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_sizes_that_do_not_go_together_are_a_user_error(arcade, tmp_path):
    with pytest.raises(UserError, match=r"no VideoTokenizer can be made.*no product of 8 such numbers"):
        train_tokenizer.main(config(arcade, tmp_path, "fsq", code_width=8))
