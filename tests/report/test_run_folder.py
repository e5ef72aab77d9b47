"""What is read of a run folder: thinned where it is long, and how long it still takes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard import SummaryWriter
from video_fixtures import moving_frames

from evagen.data.video_writer import write_video
from evagen.report import logged_times
from evagen.report.run_folder import MOST_FRAMES, MOST_PICTURES, MOST_POINTS, curves_of, progress_of, read_run
from evagen.training.metrics import columns_of

TRAINING = {"run": {"out": "x"}, "optimizer": {"steps": 100, "batch_size": 4, "accumulation": 2}}


def test_long_logs_and_many_pictures_are_thinned(tmp_path):
    log = [{"step": step, "loss": float(step)} for step in range(1, 3001)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (tmp_path / "pictures").mkdir()
    for step in range(40):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "pictures" / f"step_{step:08d}.png")
    run = read_run(tmp_path, "train-tokenizer", TRAINING, {}, {})
    ((steps, values),) = run.curves[0].series.values()
    assert (len(steps), steps[-1]) == (MOST_POINTS, 3000)
    assert values[0] == pytest.approx(5.5)  # the mean of ten steps
    names = [path.stem for path in run.pictures]
    assert (len(names), names[0], names[-1]) == (MOST_PICTURES, "step_00000000", "step_00000039")


def test_what_belongs_together_is_in_one_drawing():
    log = [
        {"step": 1, "loss": 1.0, "l1": 0.5, "l2": 0.2, "share_4": 0.25, "share_16": 0.75, "codes_used": 0.5},
        {"step": 2, "loss": 0.9, "l1": 0.4, "l2": 0.1, "share_4": 0.5, "share_16": 0.5, "held_out_psnr": 20.0},
    ]
    curves = {curve.title: curve for curve in curves_of(columns_of(log))}
    assert {name: list(curve.series) for name, curve in curves.items()} == {
        "loss": [""], "terms of the loss": ["l1", "l2"], "held-out PSNR, dB": [""], "share": ["4", "16"],
        "share of the codes in use": [""],
    }  # fmt: skip
    assert curves["share of the codes in use"].series[""] == ([1], [50.0])
    assert curves["held-out PSNR, dB"].series[""] == ([2], [20.0])
    assert [name for name, curve in curves.items() if curve.is_first] == list(curves)[:3]


def write_times(folder, start: float, steps: range, seconds: float) -> None:
    writer = SummaryWriter(folder / "tracker", filename_suffix=str(start))
    for step in steps:
        writer.add_scalar("loss", 1.0, step, walltime=start + (step - steps.start) * seconds)
    writer.close()


def test_how_long_it_takes_follows_from_the_newest_start(tmp_path):
    write_times(tmp_path, 1000.0, range(10, 31, 10), seconds=5.0)
    write_times(tmp_path, 9000.0, range(31, 41), seconds=2.0)
    progress = progress_of(tmp_path, "train-generator", TRAINING, columns_of([{"step": 40, "loss": 1.0}]))
    assert (progress.is_finished, progress.step, progress.steps) == (False, 40, 100)
    assert progress.took == pytest.approx(30 * 5.0 + 10 * 2.0)  # with the steps before the first that is logged
    assert progress.left == pytest.approx(60 * 2.0)


def test_of_what_tensorboard_was_told_only_the_ends_are_read(tmp_path, monkeypatch):
    """A long training has told it millions of numbers."""
    read = []

    def watched(record):
        read.append(record)
        return Event.FromString(record)

    monkeypatch.setattr(logged_times, "Event", SimpleNamespace(FromString=watched))
    write_times(tmp_path, 1000.0, range(10, 5000, 10), seconds=5.0)
    (file,) = tmp_path.glob("tracker/events*")
    everything = {event.step: event.wall_time for event in EventFileLoader(str(file)).Load() if event.step}
    ends = {step: everything[step] for step in (10, 20, 30, 4990)}
    assert logged_times.logged_times(file) == ends
    assert len(read) < 10
    whole = file.read_bytes()
    for end in (b"\0" * 5, whole[-40:], b""):  # is being written
        file.write_bytes(whole + end[:20])
        assert logged_times.logged_times(file) == ends
    file.write_bytes(b"")
    assert logged_times.logged_times(file) == {}


def test_without_tensorboard_the_speed_says_it(tmp_path):
    progress = progress_of(tmp_path, "train-generator", TRAINING, columns_of([{"step": 40, "clips_per_second": 16.0}]))
    assert (progress.took, progress.left) == (None, pytest.approx(60 * 8 / 16))
    assert progress_of(tmp_path, "train-generator", TRAINING, {}).left is None


def test_of_a_long_clip_the_beginning_is_shown_with_the_lengths_of_its_blocks(tmp_path):
    num_frames, lengths = 4 * MOST_FRAMES - 2, list(range(1, MOST_FRAMES + 1))  # its last block is cut
    write_video(tmp_path / "long.mp4", moving_frames(num_frames, 32, 32), 15)
    row = {"number": 0, "class": "ants", "path": "long.mp4", "lengths": lengths, "codes": [0] * sum(lengths)}
    (tmp_path / "tokens.jsonl").write_text(json.dumps(row) + "\n")
    (clip,) = read_run(tmp_path, "sample", {}, {}, {}).clips
    assert len(clip.frames) == MOST_FRAMES
    assert clip.lengths == lengths[: MOST_FRAMES // 4]
    (tmp_path / "tokens.jsonl").write_text("{}\n")  # damaged, which other runs of a page are not to suffer from
    damaged = read_run(tmp_path, "sample", {}, {}, {})
    assert not damaged.clips
    assert "tokens.jsonl is damaged" in damaged.facts["not readable"]
