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
