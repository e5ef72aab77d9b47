"""Several processes train together: broken files, a signal to one of them, the death of one of them."""

import os
import signal
from pathlib import Path

import pytest
import torch
from tiny_corpus import write_corpus
from tiny_road import tokenizer_config
from video_fixtures import write_class_folders
from warm import run_ranks

from evagen.ar_model import VideoGenerator
from evagen.commands import train_generator
from evagen.commands.train_generator import GeneratorTraining
from evagen.config import Section, check_config, save_config
from evagen.data.clips import ClipDataset
from evagen.training.checkpoints import newest_state
from evagen.training.metrics import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

TRAIN = """
import os, signal, sys
from evagen.commands import COMMANDS
from evagen.cli import explained_errors
from evagen.run import part_processes
from evagen.training.run import TrainingRun

command, config, number, step = sys.argv[1:]
update = TrainingRun.update

def struck(self, *rest):
    if int(number) and self.step == int(step) and os.environ["RANK"] == "1":
        os.kill(os.getpid(), int(number))
    update(self, *rest)

TrainingRun.update = struck
try:
    with explained_errors():
        COMMANDS[command].from_command_line(config, [], False)
    part_processes()
except SystemExit as ended:
    part_processes(ended.code)
    raise
"""


def by_several(
    tmp_path: Path, command: str, config: Section, number: int = 0, step: int = 0, processes: int = 2
) -> list[tuple[int, str]]:
    """Statuses of some processes and what they said; the second gets a signal in a step."""
    (tmp_path / "train.py").write_text(TRAIN)
    path = save_config(config, tmp_path / "given")
    program = (str(tmp_path / "train.py"), command, str(path), str(number), str(step))
    return run_ranks(processes, program, os.environ)


def generating(tmp_path: Path, name: str, batch_size: int) -> GeneratorTraining:
    if not (tmp_path / "corpus").exists():
        write_corpus(tmp_path / "corpus", num_clips=30)
    values = {
        "run": {"out": str(tmp_path / name), "log_every": 1, "tracker": "none"},
        "corpus": str(tmp_path / "corpus"),
        "model": {"width": 32, "depth": 2, "num_heads": 2, "hidden_width": 48},
        "optimizer": {"steps": 6, "learning_rate": 0.01, "batch_size": batch_size, "ema_decay": 0.5},
    }
    return check_config(GeneratorTraining, values, "test")


def is_close(run: Path, other: Path) -> None:
    """Two generators' weights are one another's but for the order in which gradients were added."""
    mine, theirs = (VideoGenerator.from_pretrained(each).state_dict() for each in (run, other))
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, atol=3e-5, rtol=1e-4)


def test_with_one_broken_file_among_a_few_all_steps_are_trained_and_it_is_listed(tmp_path):
    """One clip is a batch, so that now and then all clips of one process' batch are lost."""
    write_class_folders(tmp_path / "videos", {"ants": 2, "bees": 1}, num_frames=16)
    good = sorted((tmp_path / "videos").rglob("*.avi"))
    data = {"root": str(tmp_path / "videos"), "layout": "folder", "size": 32}
    optimizer = {"steps": 6, "batch_size": 1, "learning_rate": 0.01}
    config = tokenizer_config(tmp_path, tmp_path / "run", data=data, optimizer=optimizer)
    ClipDataset(config.data)  # which remembers the files' lengths
    content, state = good[0].read_bytes(), good[0].stat()
    good[0].write_bytes(b"\0" * len(content))  # broken since
    os.utime(good[0], ns=(state.st_atime_ns, state.st_mtime_ns))
    (first, said), (second, _) = by_several(tmp_path, "train-tokenizer", config)
    assert (first, second) == (0, 0), said
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [2, 4, 6]
    assert "1 of 3 files skipped" in said
    assert good[0].name in said


def test_four_processes_train_what_one_trains_with_the_whole_batch(tmp_path):
    straight = generating(tmp_path, "straight", 8)
    train_generator.main(straight)
    ended = by_several(tmp_path, "train-generator", generating(tmp_path, "run", 2), processes=4)
    assert [status for status, _ in ended] == [0] * 4, ended[0][1]
    is_close(tmp_path / "run", tmp_path / "straight")


def test_a_signal_to_one_saves_in_both_and_one_process_with_the_whole_batch_goes_on(tmp_path):
    straight = generating(tmp_path, "straight", 6)
    train_generator.main(straight)
    (first, said), (second, _) = by_several(
        tmp_path, "train-generator", generating(tmp_path, "run", 3), signal.SIGTERM, 2
    )
    assert (first, second) == (143, 143), said
    assert "SIGTERM: stopped after step 3 of 6; the same command goes on there" in said
    state = newest_state(tmp_path / "run")
    assert (state.step, state.manifest.processes) == (3, 2)
    train_generator.main(generating(tmp_path, "run", 6))
    is_close(tmp_path / "run", tmp_path / "straight")


def test_when_one_dies_the_other_stops_and_says_why(tmp_path):
    (first, said), (second, _) = by_several(
        tmp_path, "train-generator", generating(tmp_path, "run", 3), signal.SIGKILL, 2
    )
    assert (first, second) == (2, -signal.SIGKILL), said
    assert "error: another process of this training has died or hangs, so this one stops" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "diffusion_pytorch_model.safetensors").exists()
