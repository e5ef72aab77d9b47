"""A training that is told to end: after its step, with a checkpoint, a status and a line of its own."""

import os
import signal
import time

import pytest
import torch
from test_training import batches, linear, start, train

from evagen.commands.train_generator import GeneratorOptimizer
from evagen.config import Section
from evagen.errors import UserError
from evagen.training import stopping
from evagen.training.metrics import read_metrics
from evagen.training.run import TrainingRun
from evagen.training.settings import TrainingSettings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def train_and_signal(run, at: int, number: int, times: int = 1) -> None:
    data = batches()
    for batch in run.batches():
        if batch == at:
            for _ in range(times):
                os.kill(os.getpid(), number)
        loss = run.model(data[batch]).square().mean()
        run.update(loss, {"output": run.model(data[batch]).mean()}, num_clips=4)
        if run.log_is_due:
            run.log({"loss": loss, "output": run.model(data[batch]).mean()})


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_signal_ends_a_run_after_its_step_and_the_run_goes_on_as_if_nothing_had_been(
    tmp_path, capfd, number, status, accumulation
):
    before = signal.getsignal(number)
    settings = {"accumulation": accumulation, "ema_decay": 0.5}
    with pytest.raises(SystemExit) as ended:
        train_and_signal(start(tmp_path / "run", linear(), **settings), 3 * accumulation, number)
    assert ended.value.code == status
    assert signal.getsignal(number) == before
    said = capfd.readouterr().err
    assert f"{number.name}: a checkpoint is written after this step; once more ends at once" in said
    assert f"{number.name}: stopped after step 4 of 6; the same command goes on there" in said
    assert not list((tmp_path / "run").glob("*.safetensors"))
    model, straight = linear(), linear()
    resumed = start(tmp_path / "run", model, **settings)
    assert resumed.first_step == 4
    train(resumed, batches())
    train(start(tmp_path / "straight", straight, **settings), batches())
    assert torch.equal(model.weight, straight.weight)
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_a_second_signal_ends_at_once_and_what_a_launcher_passes_on_is_no_second(tmp_path, monkeypatch):
    request, passed_on = stopping.StopRequest(), []
    with request.watched():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert request.asked() == signal.SIGINT
        monkeypatch.setattr(stopping.os, "kill", lambda *given: passed_on.append(given))
        monkeypatch.setattr(stopping, "SAME_SECONDS", 0.0)
        time.sleep(0.001)
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert passed_on == [(os.getpid(), signal.SIGINT)]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_signal_in_the_last_step_lets_the_run_finish(tmp_path):
    model = linear()
    run = start(tmp_path, model)
    train_and_signal(run, 5, signal.SIGTERM)
    run.finish()
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()


def test_a_folder_that_vanished_under_way_stops_the_run(tmp_path):
    run = start(tmp_path / "run", linear(), {"save_every": 2})

    def train_without() -> None:
        for batch in run.batches():
            run.update(run.model(batches()[batch]).square().mean(), {}, 4)
            (tmp_path / "run" / "config.yaml").unlink(missing_ok=True)

    with pytest.raises(FileNotFoundError):
        train_without()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_step_of_another_size_by_other_processes_is_refused_and_one_of_the_same_taken(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train(start(tmp_path, linear(), {"save_every": 2}, accumulation=2), batches(), stop_at=8)
    for complete in (tmp_path / "checkpoints").rglob("complete"):  # as if by two processes of four clips
        text = (
            complete.read_text().replace('"processes":1', '"processes":2').replace('"processes": 1', '"processes": 2')
        )
        complete.write_text(text)
    with pytest.raises(UserError, match=r"optimizer.batch_size is 1 there and 4 here"):
        start(tmp_path, linear(), batch_size=4, accumulation=1)
    assert start(tmp_path, linear(), batch_size=2, accumulation=1).first_step == 4
    for complete in (tmp_path / "checkpoints").rglob("complete"):
        complete.write_text(complete.read_text().replace('"batch":2', '"batch":4').replace('"batch": 2', '"batch": 4'))
    with pytest.raises(
        UserError, match=r"trained by 2 processes, with 4 clips .* and 1 would have 2: go on with 2, or"
    ):
        start(tmp_path, linear(), batch_size=2, accumulation=1)


def test_a_step_may_be_shared_out_otherwise_as_where_memory_ran_out(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(start(tmp_path, linear(), {"save_every": 2}, batch_size=4), batches(), stop_at=3)
    again = start(tmp_path, linear(), batch_size=2, accumulation=2)
    assert (again.first_step, again.first_batch) == (2, 4)
    assert start(tmp_path, linear(), batch_size=4).first_step == 2  # and back, though no state came of that
    with pytest.raises(UserError, match=r"optimizer.batch_size is 4 there and 2 here"):
        start(tmp_path, linear(), batch_size=2)


def test_tokens_do_not_count_as_clips(tmp_path):
    class Config(Section):
        run: TrainingSettings
        optimizer: GeneratorOptimizer

    def begun(**sizes: int) -> TrainingRun:
        run = {"out": tmp_path, "tracker": "none", "save_every": 2}
        config = Config(run=run, optimizer={"steps": 6, "learning_rate": 0.1, **sizes})
        training = TrainingRun(config, config.run, config.optimizer, linear())
        training.resume()
        return training

    with pytest.raises(KeyboardInterrupt):
        train(begun(batch_size=512), batches(), stop_at=3)
    with pytest.raises(UserError, match=r"optimizer.batch_size is 512 there and None here"):
        begun(tokens_per_batch=512)
