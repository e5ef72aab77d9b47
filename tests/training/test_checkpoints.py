"""What a training keeps of itself: snapshots that load, and loop states from which a finished run goes on."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from test_training import Further, Linear, batches, linear, start, train

from evagen.config import load_config
from evagen.errors import UserError
from evagen.kernels.sources import locate
from evagen.training.metrics import read_metrics
from evagen.training.resuming import is_finished
from evagen.training.run import TrainingRun

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
WSD = {"schedule": "wsd", "decay_share": 0.5}


def finished(out: Path, steps: int, run: dict | None = None, **optimizer) -> Linear:
    model = linear()
    training = start(out, model, {"save_every": 2, **(run or {})}, steps=steps, **optimizer)
    train(training, batches())
    training.finish()
    return Linear.from_pretrained(out)


def weights_at(folder: str | Path) -> torch.Tensor:
    return Linear.from_pretrained(folder).weight


def rates(out: Path) -> list[float]:
    return [line["learning_rate"] for line in read_metrics(out)]


def test_the_newest_snapshots_are_kept_and_are_the_model_of_their_step(tmp_path):
    finished(tmp_path / "run", 7, {"snapshots": 2})
    assert sorted(path.name for path in (tmp_path / "run" / "snapshots").iterdir()) == [
        "step_00000004",
        "step_00000006",
    ]
    finished(tmp_path / "short", 4, schedule="constant")
    finished(tmp_path / "long", 7, {"snapshots": 2}, schedule="constant")
    where = locate(f"{tmp_path / 'long'}@4", "tokenizer")
    assert torch.equal(weights_at(where.source), weights_at(tmp_path / "short"))


def test_a_snapshot_holds_the_averaged_weights_and_training_goes_on_with_its_own(tmp_path):
    with_snapshots = finished(
        tmp_path / "often", 6, {"save_every": 1, "snapshots": 9}, ema_decay=0.9, schedule="constant"
    )
    without = finished(tmp_path / "never", 6, {"save_every": 9}, ema_decay=0.9, schedule="constant")
    assert torch.equal(with_snapshots.weight, without.weight)
    short = finished(tmp_path / "short", 3, {"save_every": 9}, ema_decay=0.9, schedule="constant")
    assert torch.equal(weights_at(tmp_path / "often" / "snapshots" / "step_00000003"), short.weight)


@pytest.mark.parametrize("schedule", [WSD, {"schedule": "constant"}, WSD | {"ema_decay": 0.5}])
def test_a_finished_run_that_is_given_more_steps_ends_as_if_it_had_had_them_from_the_beginning(tmp_path, schedule):
    short = finished(tmp_path / "run", 6, **schedule)
    longer = finished(tmp_path / "run", 12, {"snapshots": 9}, **schedule)
    straight = finished(tmp_path / "straight", 12, **schedule)
    assert torch.equal(longer.weight, straight.weight)
    assert rates(tmp_path / "run") == rates(tmp_path / "straight")
    assert torch.equal(weights_at(locate(f"{tmp_path / 'run'}@6.finished", "tokenizer").source), short.weight)
    assert not torch.equal(short.weight, longer.weight)


def test_what_a_plateau_that_ended_sooner_left_is_called_by_where_it_ended(tmp_path):
    """Not by the plan that one of its states was written under."""
    with pytest.raises(KeyboardInterrupt):
        train(start(tmp_path, linear(), {"save_every": 1}, steps=8, **WSD), batches(), stop_at=3)
    sooner = finished(tmp_path, 5, schedule="wsd", decay_share=0.4)
    start(tmp_path, linear(), {"save_every": 2}, steps=12, schedule="wsd", decay_share=0.4)
    assert torch.equal(weights_at(locate(f"{tmp_path}@5.finished", "tokenizer").source), sooner.weight)


def test_a_run_that_dies_as_it_puts_the_finished_model_aside_does_so_again(tmp_path, monkeypatch):
    short, replace, moved = finished(tmp_path, 6, **WSD), Path.replace, []

    def dies_in_between(self, target):
        if self.parent == tmp_path and self.name.startswith(("config.json", "diffusion")):
            if moved:
                raise KeyboardInterrupt
            moved.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dies_in_between)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, linear(), {"save_every": 2}, steps=12, **WSD)
    monkeypatch.undo()
    assert locate(tmp_path, "tokenizer").source.endswith("step_00000004")  # what an unfinished run is
    start(tmp_path, linear(), {"save_every": 2}, steps=12, **WSD)
    assert torch.equal(weights_at(locate(f"{tmp_path}@6.finished", "tokenizer").source), short.weight)


def test_snapshots_of_an_earlier_plan_make_room_for_those_of_the_new_one(tmp_path):
    """The short training has left one after 5 steps, and the long one goes on from 3."""
    finished(tmp_path / "run", 6, {"save_every": 5}, **WSD)
    with pytest.raises(KeyboardInterrupt):
        train(start(tmp_path / "run", linear(), {"save_every": 4}, steps=12, **WSD), batches(), stop_at=4)
    finished(tmp_path / "straight", 12, {"save_every": 4, "snapshots": 9}, **WSD)
    newest = locate(tmp_path / "run", "tokenizer").source
    assert newest.endswith("step_00000004")
    assert torch.equal(weights_at(newest), weights_at(f"{tmp_path / 'straight'}/snapshots/step_00000004"))


def test_where_the_rate_had_fallen_it_rises_again_and_that_is_said(tmp_path, capsys):
    finished(tmp_path, 6, schedule="cosine")
    finished(tmp_path, 12, {"snapshots": 9}, schedule="cosine")
    assert "was to end after 6: the learning rate, which has fallen, rises again" in capsys.readouterr().out
    assert len(rates(tmp_path)) == 12
    assert rates(tmp_path)[6] > rates(tmp_path)[5]
    assert (tmp_path / "snapshots" / "step_00000006.finished").exists()


def test_an_extension_that_is_stopped_is_not_taken_for_finished(tmp_path):
    finished(tmp_path, 6, **WSD)
    with pytest.raises(KeyboardInterrupt):
        train(start(tmp_path, linear(), {"save_every": 2}, steps=12, **WSD), batches(), stop_at=3)
    longer = start(tmp_path, linear(), {"save_every": 2}, steps=12, **WSD)
    assert not is_finished(longer.config, tmp_path)
    assert longer.first_step == 3  # where the short one's rate began to fall


@pytest.mark.parametrize("stopped_at", [3, 5])
def test_a_plateau_may_end_sooner_than_planned_and_a_rate_that_has_begun_to_fall_may_not(tmp_path, stopped_at):
    with pytest.raises(KeyboardInterrupt):
        train(start(tmp_path / "run", linear(), {"save_every": 1}, steps=8, **WSD), batches(), stop_at=stopped_at)
    sooner = {"steps": 5, "schedule": "wsd", "decay_share": 0.4}
    if stopped_at == 3:
        again = finished(tmp_path / "run", **sooner)
        straight = finished(tmp_path / "straight", **sooner)
        assert torch.equal(again.weight, straight.weight)
        assert rates(tmp_path / "run") == rates(tmp_path / "straight")
    else:
        with pytest.raises(UserError, match=r"optimizer.steps is 8 there and 6 here"):
            start(tmp_path / "run", linear(), **{**sooner, "steps": 6})


def test_the_plan_that_a_state_was_written_under_is_its_own(tmp_path):
    """Under that of now the rate of a training of 8 steps would fall behind step 3."""
    with pytest.raises(KeyboardInterrupt):
        train(start(tmp_path, linear(), {"save_every": 1}, steps=8, schedule="wsd", decay_share=0.25), batches(), 4)
    longer = {"steps": 12, "schedule": "wsd", "decay_share": 0.6}
    assert start(tmp_path, linear(), **longer).first_step == 4
    (manifest,) = (tmp_path / "checkpoints" / "step_00000004").glob("complete")
    told = json.loads(manifest.read_text())
    assert told.pop("decay_share") == 0.25
    manifest.write_text(json.dumps(told))  # as an earlier version wrote it
    assert start(tmp_path, linear(), **longer).first_step == 3


@pytest.mark.parametrize(("stop_at", "goes_on_at"), [(5, 4), (None, 6)])
def test_a_finished_run_too_goes_on_with_other_processes(tmp_path, stop_at, goes_on_at):
    """As two processes with a batch of 1 would have left it."""
    with suppress(KeyboardInterrupt):
        run = start(tmp_path, linear(), {"save_every": 2}, schedule="constant")
        train(run, batches(), stop_at)
        run.finish()
    for manifest in (tmp_path / "checkpoints").rglob("complete"):
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"processes": 2, "batch": 2}))
    changes = {"steps": 12, "batch_size": 2}
    config = run.config.model_copy(update={"optimizer": run.optimizer_config.model_copy(update=changes)})
    assert not is_finished(config, tmp_path)
    assert start(tmp_path, linear(), {"save_every": 2}, schedule="constant", **changes).first_step == goes_on_at


def test_a_finished_run_without_its_loop_state_says_how_to_train_it_further(tmp_path):
    finished(tmp_path, 6)
    for path in (tmp_path / "checkpoints").rglob("complete"):
        path.unlink()
    training = start(tmp_path / "other", linear(), steps=8)
    config = training.config.model_copy(deep=True)
    config.run.out = tmp_path
    with pytest.raises(UserError, match=r"a training of 6 steps.*go on to 8: train anew with another run.out"):
        is_finished(config, tmp_path)  # of a command that can begin from no weights, as train-router
    with pytest.raises(UserError, match=r"a training of 6 steps.*go on to 8: train further with start_from=.* and an"):
        is_finished(Further(**config.model_dump()), tmp_path)
    assert load_config(type(config), tmp_path / "config.yaml").optimizer.steps == 6


def test_a_try_that_failed_before_its_first_step_does_not_claim_the_folder(tmp_path):
    start(tmp_path, linear(), learning_rate=0.5)
    again = start(tmp_path, linear(), learning_rate=0.25)
    train(again, batches())
    with pytest.raises(UserError, match=r"optimizer.learning_rate is 0.25 there and 0.125 here"):
        start(tmp_path, linear(), learning_rate=0.125)


def test_trackers_are_told_the_project_the_runs_name_and_the_config(tmp_path, monkeypatch):
    told = {}
    monkeypatch.setattr("accelerate.Accelerator.init_trackers", lambda self, *given: told.update(given=given))
    monkeypatch.setattr("accelerate.accelerator.filter_trackers", lambda *given: [])
    monkeypatch.setattr("evagen.run.get_available_trackers", lambda: [LoggerNamed("wandb")])
    start(tmp_path / "mine", linear(), {"tracker": "wandb", "project": "games"})
    project, config, settings = told["given"]
    assert project == "games"
    assert config["optimizer"]["learning_rate"] == 0.1
    assert json.dumps(config)
    assert settings == {"wandb": {"name": "mine", "dir": str(tmp_path / "mine")}}
    with pytest.raises(UserError, match=r"run.tracker=mlflow is not installed: pip install mlflow"):
        start(tmp_path / "other", linear(), {"tracker": "mlflow"})


class LoggerNamed:
    def __init__(self, value: str):
        self.value = value


def test_a_run_that_dies_while_it_saves_leaves_the_snapshot_before(tmp_path, monkeypatch):
    training = start(tmp_path, linear(), {"save_every": 2, "snapshots": 3})
    save = Linear.save_pretrained

    def breaks_at_four(self, folder, **options):
        save(self, folder, **options)
        if training.step == 3:
            raise OSError("the disk is full")

    monkeypatch.setattr(Linear, "save_pretrained", breaks_at_four)
    with pytest.raises(OSError, match="disk is full"):
        train(training, batches())
    assert locate(tmp_path, "tokenizer").source.endswith("step_00000002")
    monkeypatch.undo()
    resumed: TrainingRun = start(tmp_path, linear(), {"save_every": 2, "snapshots": 3})
    assert resumed.first_step == 4
    train(resumed, batches())


def test_what_a_run_left_that_was_killed_as_it_wrote_its_weights_goes(tmp_path):
    for name in ("..unfinished.123-abcd", ".unfinished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "diffusion_pytorch_model.safetensors").write_bytes(b"half")
    finished(tmp_path, 4)
    assert not [path.name for path in tmp_path.iterdir() if "unfinished" in path.name]
