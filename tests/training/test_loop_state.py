"""Loop states on disk: nothing in them is a pickle, damage is seen, and the one before is gone on from."""

import errno
import json
import os
import pickle
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_training import Linear, batches, linear, start, train
from torch import nn

from evagen.errors import UserError
from evagen.training import checkpoints, metrics
from evagen.training.best import BestWeights, read_best
from evagen.training.metrics import MetricsLog, columns_of, iterate_metrics, read_metrics

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
OFTEN = {"save_every": 1}


@pytest.fixture
def stopped(tmp_path) -> Path:
    """A run folder with the states after four and five of six steps."""
    with pytest.raises(KeyboardInterrupt):
        train(start(tmp_path / "run", linear(), OFTEN, ema_decay=0.5), batches(), stop_at=5)
    assert names_in(tmp_path / "run") == ["step_00000004", "step_00000005"]
    return tmp_path / "run"


def names_in(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def newest(out: Path) -> Path:
    return out / "checkpoints" / names_in(out)[-1]


def resumed_at(out: Path) -> int:
    return start(out, linear(), OFTEN, ema_decay=0.5).first_step


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_a_state_comes_back_as_it_was(tmp_path, matrices):
    """Models, both optimisers, schedules, the average, and the random numbers of Python, NumPy and torch."""

    class Layered(Linear):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(3, 3)])

        def forward(self, x):
            return super().forward(self.layers[0](x))

    run = start(tmp_path, Layered(), {"save_every": 3}, ema_decay=0.5, matrices=matrices, warmup_steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(run, batches(), stop_at=3)

    def numbers():
        return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002

    expected, saved = numbers(), states(run)
    numbers()
    again = start(tmp_path, Layered(), {"save_every": 3}, ema_decay=0.5, matrices=matrices, warmup_steps=2)
    assert numbers() == expected
    torch.testing.assert_close(states(again), saved, rtol=0, atol=0)
    assert again.first_step == 3


def states(run) -> list[dict]:
    of_optimizers = [each.state_dict()["state"] for each in run.optimizers]
    rates = [each.get_last_lr() for each in run.schedulers]
    return [run.model.state_dict(), *of_optimizers, {"rates": rates, "average": run.average.shadow_params}]


class Marks:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


PICKLES = (
    "custom_checkpoint_0.pkl", "random_states_0.pkl", "optimizer.bin", "optimizer_0.bin", "scheduler.bin", "scaler.pt",
    "pytorch_model.bin", "model_0.bin", "model_0.pt", "state.pkl", "sampler.bin", ".metadata",
)  # fmt: skip


def test_no_pickle_is_written_and_none_is_opened(stopped, tmp_path):
    files = [path for path in (stopped / "checkpoints").rglob("*") if path.is_file()]
    assert {path.name if path.suffix != ".safetensors" else "" for path in files} == {"", "state.json", "complete"}
    mark = tmp_path / "mark"
    bad = pickle.dumps(Marks(mark))
    for folder in (stopped, stopped / "checkpoints", newest(stopped)):
        for name in PICKLES:
            (folder / name).write_bytes(bad)
    assert resumed_at(stopped) == 5
    for path in newest(stopped).iterdir():
        if path.name != "complete":
            path.write_bytes(bad)
    assert resumed_at(stopped) == 4
    for path in (stopped / "checkpoints").rglob("complete"):
        path.write_bytes(bad)
    with pytest.raises(UserError, match=r"no checkpoint of .* is whole"):
        resumed_at(stopped)
    assert not mark.exists()
    pickle.loads(bad)
    assert mark.exists()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["model_0.safetensors", "optimizer_0.safetensors", "state.json"])
def test_a_damaged_state_is_left_aside_and_the_one_before_it_taken(stopped, tmp_path, capsys, damage, name):
    damage(newest(stopped) / name)
    model, straight = linear(), linear()
    run = start(stopped, model, OFTEN, ema_decay=0.5)
    assert run.first_step == 4
    assert f"step_00000005 is damaged and left aside: its file {name}" in capsys.readouterr().out
    train(run, batches())
    train(start(tmp_path / "straight", straight, OFTEN, ema_decay=0.5), batches())
    assert torch.equal(model.weight, straight.weight)
    assert [line["step"] for line in read_metrics(stopped)] == [1, 2, 3, 4, 5, 6]


def test_a_state_that_was_cut_short_is_said_and_the_one_before_it_taken(stopped, capsys):
    (newest(stopped) / "complete").unlink()
    assert resumed_at(stopped) == 4
    assert "step_00000005 is damaged and left aside: its list of files" in capsys.readouterr().out


def test_where_all_are_damaged_nothing_is_trained_anew_in_silence(stopped):
    for folder in (stopped / "checkpoints").iterdir():
        flip(folder / "state.json")
    with pytest.raises(UserError, match=r"(?s)no checkpoint of .* is whole:.*step_00000005.*checksum.*start_from="):
        resumed_at(stopped)


def test_what_does_not_belong_there_is_left_alone(stopped):
    (stopped / "checkpoints" / "notes.txt").write_text("mine")
    for name in ("step_best", "old", "step_00000009.copy"):
        (stopped / "checkpoints" / name).mkdir()
        (stopped / "checkpoints" / name / "complete").write_text("yes")
    (stopped / "checkpoints" / ".step_00000006.12-ab").mkdir()  # of a process that was killed as it wrote
    run = start(stopped, linear(), OFTEN, ema_decay=0.5)
    assert run.first_step == 5
    train(run, batches())
    assert names_in(stopped) == [
        "notes.txt",
        "old",
        "step_00000004",
        "step_00000005",
        "step_00000009.copy",
        "step_best",
    ]


def test_states_of_an_earlier_version_are_refused_in_words(stopped):
    (newest(stopped) / "complete").write_text(json.dumps({"planned_steps": 6}))
    with pytest.raises(UserError, match=r"step_00000005 was written by an earlier version .* pickles.*start_from="):
        resumed_at(stopped)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_as_many_states_are_kept_as_asked_for(tmp_path, number):
    train(start(tmp_path, linear(), {"save_every": 1, "checkpoints": number}), batches())
    assert names_in(tmp_path) == [f"step_{step:08d}" for step in range(6 - number, 6)]


def test_on_a_full_disk_training_goes_on_and_nothing_half_written_stays(tmp_path, monkeypatch, capsys):
    full = OSError(errno.ENOSPC, "No space left on device")
    write_through, model = checkpoints.write_through, linear()
    run = start(tmp_path, model, {"save_every": 2})

    def full_at_four(folder):
        if run.step == 3:
            raise full
        write_through(folder)

    monkeypatch.setattr(checkpoints, "write_through", full_at_four)
    train(run, batches())
    assert names_in(tmp_path) == ["step_00000002"]
    assert "no room for the checkpoint of step 4 " in capsys.readouterr().err
    straight = linear()
    train(start(tmp_path / "straight", straight), batches())
    assert torch.equal(model.weight, straight.weight)
    monkeypatch.setattr(checkpoints, "write_through", lambda folder: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space left"):
        run.finish()
    assert names_in(tmp_path) == ["step_00000002"]
    assert not (tmp_path / checkpoints.WEIGHTS).exists()


def test_on_a_full_disk_a_tracker_is_told_no_more(tmp_path, capsys):
    def full(*values, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = start(tmp_path, linear())
    failing, told = SimpleNamespace(name="failing", log=full, finish=full), []
    ending = SimpleNamespace(name="ending", log=lambda values, step: told.append(step), finish=full)
    run.accelerator.trackers += [failing, ending]
    train(run, batches())
    run.finish()
    assert run.accelerator.trackers == [ending]
    assert told == [1, 2, 3, 4, 5, 6]
    said = capsys.readouterr().err
    assert said.count("no room for step 1 in failing ") == said.count("no room for ") - 1 == 1
    assert "no room for what ending has not written yet " in said


def test_on_a_full_disk_the_best_weights_so_far_stay(tmp_path, monkeypatch, capsys):
    run, model = start(tmp_path, linear()), Linear.save_pretrained
    best = BestWeights(run, "psnr")
    best.look({"held_out_psnr": 20.0}, 1)

    def full(self, folder, **settings):
        (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Linear, "save_pretrained", full)
    best.look({"held_out_psnr": 21.0}, 2)
    assert "no room for the best weights, of step 2 " in capsys.readouterr().err
    assert (read_best(tmp_path), names_beginning(tmp_path, ".best")) == ({"step": 1, "score": "psnr", "value": 20}, [])
    monkeypatch.setattr(Linear, "save_pretrained", model)
    (tmp_path / ".best.123-abcd").mkdir()  # of a process that was killed
    best = BestWeights(run, "psnr")
    best.look({"held_out_psnr": 21.0}, 3)
    assert (read_best(tmp_path)["step"], names_beginning(tmp_path, ".best")) == (3, [])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_not_the_best(tmp_path, value):
    """Of weights that have just broken: the run ends with its next line."""
    best = BestWeights(start(tmp_path, linear()), "loss")
    best.look({"held_out_loss": value}, 1)
    assert read_best(tmp_path) is None
    best.look({"held_out_loss": 2.0}, 2)
    best.look({"held_out_loss": value}, 3)
    assert read_best(tmp_path) == {"step": 2, "score": "loss", "value": 2.0}


def names_beginning(folder: Path, start: str) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(start)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_lines_of_the_log_wait_for_room(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(1, {"loss": 0.5})
    (tmp_path / "metrics.jsonl").unlink()
    log.write(2, {"loss": 0.25})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]


def test_a_run_without_a_checkpoint_yet_begins_its_log_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(start(tmp_path, linear()), batches(), stop_at=2)
    train(start(tmp_path, linear()), batches())
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_of_a_long_log_only_the_lines_that_go_are_looked_at(tmp_path, monkeypatch):
    path, looked_at = tmp_path / "metrics.jsonl", []
    log = MetricsLog(path)
    for step in range(1, 101):
        log.write(step, {"loss": 0.5})
    whole = path.read_text()
    path.write_text(whole + '{"step": 101, "lo')  # killed in it

    def watched(line):
        looked_at.append(line)
        return json.loads(line)

    monkeypatch.setattr(metrics, "json", SimpleNamespace(loads=watched))
    log.drop_after(97)
    monkeypatch.undo()
    assert len(looked_at) <= 5
    assert path.read_text() == "".join(whole.splitlines(keepends=True)[:97])
    before = path.stat()
    log.drop_after(97)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)  # nothing is written
    log.drop_after(0)
    assert path.read_text() == ""


def test_a_log_by_names_tells_what_its_lines_do(tmp_path):
    lines = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "held_out_loss": 0.75}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"st\n3\n')
    assert list(iterate_metrics(tmp_path)) == lines
    columns = {name: tuple(map(list, column)) for name, column in columns_of(iterate_metrics(tmp_path)).items()}
    assert columns == {"step": ([1, 2], [1, 2]), "loss": ([1, 2], [0.5, 0.25]), "held_out_loss": ([2], [0.75])}


def test_a_run_that_ended_early_leaves_no_weights(tmp_path):
    run = start(tmp_path, linear())
    for number in run.batches():
        run.update(run.model(batches()[number]).square().mean(), {}, 4)
        if number == 2:
            break
    with pytest.raises(UserError, match="only 3 of 6 steps were trained, so no weights are written"):
        run.finish()
    assert not (tmp_path / checkpoints.WEIGHTS).exists()
