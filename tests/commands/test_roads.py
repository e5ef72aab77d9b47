"""What a quickstart on one's own videos goes along."""

import pytest
from video_fixtures import config, moving_frames

from evagen.commands.roads import road_of
from evagen.data.clips import ClipDataset
from evagen.data.video_writer import write_video


@pytest.mark.parametrize(("fps", "clips"), [(0.01, 1), (0.5, 2)])
def test_the_minute_has_a_clip_at_least(tmp_path, fps, clips):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for number in range(3):
            write_video(tmp_path / part / f"{number}.avi", moving_frames(16), fps)
    minute = road_of(tmp_path).minute(tmp_path / "out", config(tmp_path, frames=16))
    assert len(ClipDataset(minute)) == clips


def test_a_run_folder_among_the_videos_is_no_part_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr("evagen.data.labelled_set.num_cores", lambda: 1)
    for number in range(4):
        write_video(tmp_path / f"{number}.avi", moving_frames(160, 32, 32), 20)
    road, out = road_of(tmp_path), tmp_path / "run"
    road.prepare(out / road.data)
    cut = (out / road.data / "cut.json").read_bytes()
    (out / "samples" / "video").mkdir(parents=True)
    write_video(out / "samples" / "video" / "000000.mp4", moving_frames(16), 20)
    road.prepare(out / road.data)  # as when a run goes on
    assert (out / road.data / "cut.json").read_bytes() == cut
