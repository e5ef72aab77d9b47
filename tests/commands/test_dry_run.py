"""`--dry-run`: every kind of stage runs in little from a shipped config's name alone, and leaves nothing behind."""

import subprocess
import sys

import pytest

from evagen.commands import COMMANDS, Command
from evagen.commands.dry_run import main
from evagen.config import read_header, shipped_configs
from evagen.errors import UserError
from evagen.training.shipped_models import tokenizer_of

CONFIGS = {name: read_header(path).command for name, path in shipped_configs().items() if "quickstart/" in name}
STAGES = sorted(name for name, command in CONFIGS.items() if not command.startswith("study "))
GO_ON = {"box_arcade/final_longer": "train-tokenizer", "box_arcade/generator_longer": "train-generator"}
"""Trainings from a model that an earlier one left."""


@pytest.mark.parametrize("name", [*STAGES, *GO_ON])
def test_a_stage_in_little(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = COMMANDS[(CONFIGS | GO_ON)[name]]
    found = main(command, name)
    trains = command.name.startswith("train-")
    assert (found.parameters is not None) == trains
    assert found.of_what == ("step of one clip" if trains else "clip")
    assert found.seconds > 0
    assert found.peak_gb > 0
    assert not list(tmp_path.iterdir())


def test_a_search_on_a_cpu_takes_few_blocks_at_once(monkeypatch):
    seen = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(Command, "run", lambda self, config: seen.append(config.max_segments))
    main(COMMANDS["curate"], "quickstart/curation")
    assert seen == [len(tokenizer_of("quickstart/curation").config.levels)]


def test_the_batch_is_honoured_and_what_is_made_up_is_said(capsys):
    found = main(
        COMMANDS["train-router"], "quickstart/router", ["optimizer.batch_size=3", "record=mine", "run.out=elsewhere"]
    )
    assert found.of_what == "step of 3 clips"
    assert "so they change nothing: record=mine, run.out=elsewhere\n" in capsys.readouterr().err


OF_TOKENS = ["optimizer.batch_size=null", "optimizer.tokens_per_batch=500"]


@pytest.mark.parametrize(
    ("command", "name", "overrides"),
    [
        ("train-tokenizer", "quickstart/proxy", ["held_out.best=psnr"]),
        ("train-tokenizer", "quickstart/proxy", ["held_out.clips=4", "held_out.best=psnr"]),
        ("train-generator", "quickstart/generator", ["held_out.best=loss", "held_out.corpus=mine"]),
        ("train-generator", "quickstart/generator", OF_TOKENS),
    ],
)
def test_what_a_training_may_be_told_a_dry_run_may_be_told_too(monkeypatch, command, name, overrides):
    seen = []
    monkeypatch.setattr("evagen.commands.dry_run._Inputs._corpus", lambda self: self.folder)
    monkeypatch.setattr(Command, "run", lambda self, config: seen.append(config))
    main(COMMANDS[command], name, overrides)
    assert (seen[0].optimizer.batch_size, seen[0].held_out.best) == (1, None)


def test_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "evagen", "train-generator", "quickstart/generator", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "dry run: " in done.stdout
    assert "parameters" in done.stdout
    assert "s a step of one clip" in done.stdout


def test_a_config_that_is_not_shipped(tmp_path):
    (tmp_path / "mine.yaml").write_text("run: {out: x}\n")
    with pytest.raises(UserError, match=r"takes the name of a shipped config, such as ucf101_k600/final; got .*mine"):
        main(COMMANDS["train-tokenizer"], str(tmp_path / "mine.yaml"))
