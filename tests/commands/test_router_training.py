"""The router's training on a record: wherever clips come from, resumed, for one preference, refused."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from tiny_curation import curated_with, made_up_record, routing, same, weights, write_inputs

from evagen.commands import train_router
from evagen.data import clips as clips_module
from evagen.data.curation_record import read_record
from evagen.data.video_reader import VideoError
from evagen.errors import UserError
from evagen.tokenizer import Router
from evagen.tokenizer.router import router_features
from evagen.training.metrics import read_metrics
from evagen.training.run import TrainingRun

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("router")
    write_inputs(root)
    return root


@pytest.fixture(scope="module")
def record(root) -> Path:
    return made_up_record(root)


@pytest.fixture(scope="module")
def routed(root, record) -> Path:
    return train_router.main(routing(record, root / "routed"))


@pytest.mark.parametrize(("cache_bytes", "num_workers"), [(0, 0), (60_000, 0), (2**30, 2)])
def test_where_clips_come_from_does_not_change_the_router(
    record, routed, tmp_path, monkeypatch, cache_bytes, num_workers
):
    monkeypatch.setattr(train_router, "CACHE_BYTES", cache_bytes)
    config = routing(record, tmp_path)
    config.run.num_workers = num_workers
    train_router.main(config)
    assert same(weights(tmp_path), weights(routed))


def test_each_process_and_batch_draws_rows_of_its_own(record, tmp_path):
    config, train = routing(record, tmp_path), torch.arange(1000)
    drawn = {place: train_router._draw(config, train, *place)[0].tolist() for place in ((0, 0), (0, 1), (1, 0), (1, 1))}
    assert len({tuple(rows) for rows in drawn.values()}) == 4
    assert train_router._draw(config, train, 1, 0)[0].tolist() == drawn[1, 0]


def test_kept_features_are_those_of_the_data_sets_clips_and_within_bounds(record):
    dataset = read_record(record).open_clips()
    one = router_features(dataset[0].video[None], 4, 4)[0]
    cached = train_router.CachedFeatures(
        dataset, lambda clip: router_features(clip.video[None], 4, 4)[0], max_bytes=3 * one.nbytes + 5
    )
    for key in (7, 2, 7, 0, 5, 2, 9):
        assert torch.equal(cached[key], router_features(dataset[key].video[None], 4, 4)[0])
    assert list(cached.kept) == [7, 2, 0]


def test_a_resumed_router_equals_an_uninterrupted_one(record, routed, tmp_path, monkeypatch):
    update, calls = TrainingRun.update, []

    def killed_at_the_fifth(self, *arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        update(self, *arguments)

    monkeypatch.setattr(TrainingRun, "update", killed_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        train_router.main(routing(record, tmp_path))
    monkeypatch.undo()
    train_router.main(routing(record, tmp_path))
    assert same(weights(tmp_path), weights(routed))
    rewards = [[line["held_out_reward"] for line in read_metrics(folder)] for folder in (tmp_path, routed)]
    assert rewards[0] == rewards[1]


def test_a_router_for_one_preference_is_trained_on_that_alone(record, tmp_path, monkeypatch):
    seen = []
    forward = Router.forward

    def watched(self, video, preference):
        seen.append(preference)
        return forward(self, video, preference)

    monkeypatch.setattr(Router, "forward", watched)
    train_router.main(routing(record, tmp_path, preference_range=[1.2, 1.2]))
    assert torch.equal(torch.cat(seen), torch.full((5 * (4 + 3),), 1.2))  # 4 trained on and 3 held out in each step
    assert Router.from_pretrained(tmp_path).preference_range == (1.2, 1.2)


def test_what_is_logged_of_held_out_clips_is_what_the_averaged_weights_reach(record, tmp_path, monkeypatch):
    """Which the run leaves; they are far behind those trained."""
    reached, asked = train_router._reached, []

    def watched(model, *settings):
        asked.append(settings)
        return reached(model, *settings)

    monkeypatch.setattr(train_router, "_reached", watched)
    optimizer = {"steps": 15, "batch_size": 4, "learning_rate": 0.05, "schedule": "constant", "ema_decay": 0.999}
    model = {"patch": 8, "width": 32, "depth": 1, "num_heads": 2, "drop_rate": 0.0}
    train_router.main(routing(record, tmp_path, optimizer=optimizer, model=model))
    logged = read_metrics(tmp_path)[-1]
    for name, value in reached(Router.from_pretrained(tmp_path), *asked[-1]).items():
        assert logged[name] == pytest.approx(value, abs=1e-6)


def test_processes_draw_other_numbers_for_dropout(record, tmp_path, monkeypatch):
    """The first one goes on with those that the weights were made of."""
    for process in range(2):
        monkeypatch.setattr(Accelerator, "process_index", process)
        config = routing(record, tmp_path / f"{process}", optimizer={"steps": 1, "batch_size": 4, "learning_rate": 0.1})
        train_router.main(config)
        assert (torch.initial_seed() == config.run.seed) == (process == 0)


@pytest.mark.parametrize("bounds", [[1.6, 0.8], [-0.1, 1], [1, 2.1]])
def test_bad_preference_ranges_are_explained(record, tmp_path, bounds):
    with pytest.raises(UserError, match=r"'preference_range' is .*: .*0 <= low <= high <= 2"):
        routing(record, tmp_path, preference_range=bounds)


def test_heads_that_do_not_divide_the_width_are_explained(record, tmp_path):
    with pytest.raises(UserError, match="no Router can be made with these settings: width 32 is not divisible by 3"):
        train_router.main(routing(record, tmp_path, model={"width": 32, "num_heads": 3, "patch": 8, "depth": 1}))


def test_records_that_cannot_be_trained_on_are_explained(root, record, tmp_path, monkeypatch):
    useless = curated_with(lambda video: -torch.ones(len(video)), root, tmp_path / "useless")
    with pytest.raises(UserError, match="cannot be trained on: the mean distance at the longest assignment"):
        train_router.main(routing(useless, tmp_path / "a"))

    def fails(path, *_):
        raise VideoError(path, "gone")

    monkeypatch.setattr(clips_module, "read_square", fails)
    for held_out in (0, 0.25):
        with pytest.raises(UserError, match=r"101 clips in a row cannot be read, the last .*avi: gone"):
            train_router.main(routing(record, tmp_path / f"{held_out}", held_out=held_out))


def test_clips_that_cannot_be_read_any_more_are_replaced_and_listed(record, routed, tmp_path, monkeypatch, capsys):
    """Of three classes all ants are gone, held out ones among them; workers change nothing."""
    read = clips_module.read_square

    def fails_for_ants(path, *rest):
        if "ants" in str(path):
            raise VideoError(path, "gone")
        return read(path, *rest)

    monkeypatch.setattr(clips_module, "read_square", fails_for_ants)
    for num_workers in (0, 1):
        config = routing(record, tmp_path / f"{num_workers}")
        config.run.num_workers = num_workers
        train_router.main(config)
        assert "of 13 files skipped" in capsys.readouterr().out
        assert [line["step"] for line in read_metrics(config.run.out)] == [1, 2, 3, 4, 5]
    assert same(weights(tmp_path / "0"), weights(tmp_path / "1"))
    assert not same(weights(tmp_path / "0"), weights(routed))
