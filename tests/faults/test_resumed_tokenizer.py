"""A tokenizer's training that was killed inside a step goes on with other workers as if nothing had been."""

import pytest
import torch
from tiny_road import tokenizer_config
from video_fixtures import write_class_folders

from evagen.commands import train_tokenizer
from evagen.tokenizer import VideoTokenizer
from evagen.training.metrics import read_metrics
from evagen.training.run import TrainingRun

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.usefixtures("narrow_patches")]


def test_weights_and_log_are_those_of_an_undisturbed_run(tmp_path, monkeypatch):
    """Lines of the log count codes since the line before, and tell a discriminator's last loss: checkpoints lie between
    lines and batches of the discriminator here. Five clips, so that steps lie across epochs."""
    write_class_folders(tmp_path / "videos", {"ants": 3, "bees": 2}, num_frames=16)

    def config(name: str, num_workers: int = 0) -> train_tokenizer.TokenizerTraining:
        run = {"log_every": 3, "save_every": 2, "tracker": "none", "num_workers": num_workers}
        return tokenizer_config(
            tmp_path, tmp_path / name, run={**run, "out": str(tmp_path / name)},
            data={"root": str(tmp_path / "videos"), "layout": "folder", "size": 32, "flip": True, "crop": "random"},
            loss={"adversarial": {"discriminator": "patch", "every": 4, "ramp_steps": 2, "lecam": 0.01}},
            optimizer={"steps": 6, "batch_size": 2, "accumulation": 2, "matrices": "muon", "learning_rate": 0.01},
        )  # fmt: skip

    train_tokenizer.main(config("straight"))
    update, calls = TrainingRun.update, []

    def killed(self, *rest):
        calls.append(1)
        if len(calls) == 2 * 5:  # the second batch of the fifth step; the checkpoint is of the fourth
            raise KeyboardInterrupt
        update(self, *rest)

    monkeypatch.setattr(TrainingRun, "update", killed)
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer.main(config("resumed"))
    monkeypatch.undo()
    train_tokenizer.main(config("resumed", num_workers=1))
    logs = [
        [{key: value for key, value in line.items() if key != "clips_per_second"} for line in read_metrics(folder)]
        for folder in (tmp_path / "resumed", tmp_path / "straight")
    ]
    assert logs[0] == logs[1]
    assert "discriminator" in logs[0][-1]
    mine, theirs = (VideoTokenizer.from_pretrained(tmp_path / name).state_dict() for name in ("resumed", "straight"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
