"""`evagen quickstart --videos` with small models: the whole road on a folder of one's own, begun and gone on with."""

import json

import pytest
import yaml
from tiny_road import tokenizer_config
from typer.testing import CliRunner
from video_fixtures import moving_frames

from evagen import cli, config
from evagen.data.video_writer import write_video
from evagen.training.run import TrainingRun

STEPS = {"steps": 2, "batch_size": 4, "warmup_steps": 1}
SMALL = {
    "proxy": {  # long enough for more tokens to be better
        "held_out": {"clips": 2, "every": 20},
        "optimizer": {"steps": 60, "batch_size": 4, "learning_rate": 0.01, "muon_learning_rate": 0.01},
    },
    "curation": {"data": {"limit": 6}},
    "router": {"model": {"patch": 8, "width": 32, "depth": 1, "num_heads": 2, "downscale": 1}, "optimizer": STEPS},
    "final": {"optimizer": {"steps": 2}},
    "generator": {"model": {"width": 32, "depth": 1, "num_heads": 2}, "optimizer": STEPS, "samples": {"every": 2}},
    "sample": {"clips_per_class": 3},
}


@pytest.fixture
def small_configs(tmp_path, monkeypatch, road):
    """The shipped configs at 32 × 32 pixels and two steps, on a small model in place of the one in the box."""
    model = tokenizer_config(road, tmp_path / "unused").model.model_dump(mode="json")
    shipped = dict(config.shipped_configs())
    for name, path in shipped.items():
        folder, _, stage = name.partition("/")
        if folder == "quickstart_videos":
            values = yaml.safe_load(path.read_text())
            for key, changes in SMALL.get(stage, {}).items():
                values[key] = values.get(key, {}) | changes
            if "size" in values.get("data", {}):
                values["data"]["size"] = 32
            if stage == "proxy":
                values |= {"model": model, "start_from": str(road / "proxy")}
            header = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
            shipped[name] = tmp_path / "configs" / f"{stage}.yaml"
            shipped[name].parent.mkdir(exist_ok=True)
            shipped[name].write_text(f"{header}\n{yaml.safe_dump(values)}")
    monkeypatch.setattr(config, "shipped_configs", lambda: shipped)
    monkeypatch.chdir(tmp_path)


RUN = "mine: #1"
"""A folder's name that YAML would cut off."""


@pytest.fixture
def videos(tmp_path):
    """Twenty clips of a thing that moves, twenty of another."""
    for seed, name in enumerate(("cat", "dog")):
        (tmp_path / "mine" / name).mkdir(parents=True)
        write_video(tmp_path / "mine" / name / "one.mp4", moving_frames(20 * 16 + 5, seed=seed), 25)
    return tmp_path / "mine"


def test_the_whole_road_on_a_folder_of_videos(small_configs, videos, tmp_path, monkeypatch):
    done = CliRunner().invoke(cli.app, ["quickstart", "--videos", str(videos), "--out", RUN], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "2 videos, 40 clips of 16 frames" in done.stdout.splitlines()[0]
    assert "about" in done.stdout.splitlines()[0]
    assert "32 training and 8 held-out clips (the end of each video)" in done.stdout
    summary = json.loads((tmp_path / RUN / "summary.json").read_text())
    assert len(summary["stages"]) == 9
    page = (tmp_path / RUN / "report.html").read_text()
    assert all(
        words in page for words in ("evagen quickstart: mine", "<h3>cat</h3>", "<h3>dog</h3>", "evagen data cut")
    )
    (tmp_path / RUN / "report.html").unlink()

    def train(*_):
        raise AssertionError("trained twice")

    monkeypatch.setattr(TrainingRun, "update", train)
    again = CliRunner().invoke(cli.app, ["quickstart", "--videos", str(videos), "--out", RUN], catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert (tmp_path / RUN / "report.html").exists()
    assert json.loads((tmp_path / RUN / "summary.json").read_text())["reconstruction"] == summary["reconstruction"]
