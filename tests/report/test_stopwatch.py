"""The figures of a run's stages, kept across interruptions."""

import json

import pytest

from evagen.report.stopwatch import StageClock


def test_a_stage_that_is_done_keeps_its_time(tmp_path):
    with StageClock(tmp_path / "new", 1) as clock:
        assert clock.run("data", lambda: 7) == 7
    kept = json.loads((tmp_path / "new" / "stages.json").read_text()) | {"later": {"seconds": 5.0, "peak_rss_mb": 1e6}}
    (tmp_path / "new" / "stages.json").write_text(json.dumps(kept))
    with StageClock(tmp_path / "new", 2) as clock:
        clock.run("later", lambda: None, done=True)
    assert clock.stages == kept
    assert clock.peak_rss_mb == 1e6


@pytest.mark.parametrize("stopped_by", [KeyboardInterrupt, SystemExit, ValueError])
def test_a_stage_that_was_stopped_takes_its_time_over_all_starts(stopped_by, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("evagen.report.stopwatch.time.monotonic", lambda: now[0])

    def work(seconds: float, stopped: bool = False) -> None:
        now[0] += seconds
        if stopped:
            raise stopped_by

    def stop_after(seconds: float) -> None:
        with StageClock(tmp_path, 2) as clock:
            clock.run("proxy", lambda: work(5), done="proxy" in clock.stages)
            clock.run("final", lambda: work(seconds, stopped=True))

    for seconds in (40.0, 30.0):
        with pytest.raises(stopped_by):
            stop_after(seconds)
    with StageClock(tmp_path, 2) as clock:
        clock.run("proxy", lambda: work(5), done=True)
        clock.run("final", lambda: work(20))
        clock.run("scores", lambda: work(7))
    with StageClock(tmp_path, 2) as clock:  # what is done again replaces what was noted
        clock.run("scores", lambda: work(6))
    assert {name: stage["seconds"] for name, stage in clock.stages.items()} == {"proxy": 5, "final": 90, "scores": 6}
    assert clock.total_seconds == 101
    assert all(set(stage) == {"seconds", "peak_rss_mb"} for stage in clock.stages.values())


@pytest.mark.parametrize(
    "damaged",
    ["", '{"data": {"seconds": 1', "[]", '{"data": 3}', '{"data": {"seconds": 1}}', '{"a": {"seconds": "", "b": 1}}'],
)
def test_a_damaged_file_stops_no_run(damaged, tmp_path):
    (tmp_path / "stages.json").write_text(damaged)
    with StageClock(tmp_path, 1) as clock:
        clock.run("data", lambda: None, done=True)
    assert list(json.loads((tmp_path / "stages.json").read_text())) == ["data"]
    assert [each.name for each in tmp_path.iterdir()] == ["stages.json"]
