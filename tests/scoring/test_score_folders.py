"""`evagen fvd`: two folders of real files against each other, and what it warns of and refuses."""

# isort: split
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stub_i3d import StubI3D
from video_fixtures import moving_frames, write_sound

from evagen.commands import fvd
from evagen.commands.fvd import FolderScoring, describe
from evagen.commands.fvd import main as score_folders
from evagen.config import check_config
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.eval import GaussianStatistics, frechet_distance_between, get_protocol
from evagen.scoring.record import Record

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def stub(tmp_path_factory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("i3d") / "i3d.pt"
    torch.jit.script(StubI3D()).save(str(path))
    return {"detector_weights": str(path), "detector_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def write_folder(folder: Path, count: int, frames: int = 16, suffix: str = "mkv", first: int = 0) -> list[np.ndarray]:
    """In subfolders of unequal depth; returns the frames in the order of paths."""
    videos = [moving_frames(frames, 32, 32, seed=first + i) for i in range(count)]
    for i, video in enumerate(videos):
        path = folder / ("a" if i % 2 else "a/b") / f"{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, video, fps=15)
    paths = sorted(folder.rglob("*.*"), key=lambda path: path.relative_to(folder).as_posix())
    return [videos[int(path.stem)] for path in paths]


def score(real: Path, fake: Path, stub: dict, **changes) -> Record:
    values = {"real": str(real), "fake": str(fake), "protocol": "larp-ucf101-class2video", "size": 32}
    values |= {"certainty": {"resamples": 2}, "batch_size": 2, **stub, **changes}
    return score_folders(check_config(FolderScoring, values, "test"))


def test_it_is_the_distance_of_the_prepared_first_clips(tmp_path, stub):
    sides = write_folder(tmp_path / "real", 5), write_folder(tmp_path / "fake", 5, first=50)
    record = score(tmp_path / "real", tmp_path / "fake", stub)
    protocol = get_protocol("larp-ucf101-class2video").changed(size=32)
    features = [
        StubI3D()(torch.stack([protocol.prepare(torch.from_numpy(v)) for v in side]), False, True, True)
        for side in sides
    ]
    expected = frechet_distance_between(*(GaussianStatistics.of(each) for each in features)).item()
    assert record.score.value == pytest.approx(expected, rel=1e-6)
    assert record.protocol["name"] == "larp-ucf101-class2video [size=32] [folders]"
    assert (record.real_clips, record.generated_clips) == (5, 5)
    assert [remark for remark in record.remarks if "full rank" not in remark] == []
    text = describe(record)
    assert "5 real and 5 generated videos" in text
    assert "95% interval" in text
    assert record.detector.name in text


def test_a_folder_with_itself_is_at_distance_zero(tmp_path, stub):
    folder = tmp_path / os.fsdecode(b"real\xe9")  # no UTF-8
    write_folder(folder, 3)
    record = score(folder, folder, stub)
    assert record.score.value == 0
    assert Record.model_validate_json(record.model_dump_json()) == record


def test_unlike_folders_are_warned_of(tmp_path, stub):
    write_folder(tmp_path / "real", 4, frames=20)
    write_folder(tmp_path / "fake", 3, frames=16, suffix="mp4")
    remarks = "\n".join(score(tmp_path / "real", tmp_path / "fake", stub, size=64).remarks)
    assert "the generated videos are compressed with loss (h264) and the others are not" in remarks
    assert "real videos have 20 frames, generated ones 16; the first 16 of each are scored" in remarks
    assert "4 real and 3 generated videos" in remarks
    assert "short side of 32 pixels are enlarged to 64" in remarks


def cut_short(folder: Path) -> None:
    write_video(folder / "a" / "1.mkv", moving_frames(9, 32, 32), fps=15)


def no_video(folder: Path) -> None:
    write_sound(folder / "a" / "1.mkv")


def damaged(folder: Path) -> None:
    content = bytearray((folder / "a" / "1.mkv").read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes(third)
    (folder / "a" / "1.mkv").write_bytes(content)


def without_a_first_frame(folder: Path) -> None:
    """It opens and has all its frames, none of which can be decoded."""
    (folder / "a" / "1.mkv").unlink()
    video = folder / "a" / "1.avi"
    write_video(video, np.random.default_rng(0).integers(0, 255, (16, 32, 32, 3), dtype=np.uint8), fps=15)
    content = bytearray(video.read_bytes())
    start = content.index(b"movi") + 12
    for place in range(start, start + 2500):
        content[place] = (content[place] * 7 + 13) % 256
    video.write_bytes(bytes(content))


def in_a_second_format(folder: Path) -> None:
    write_video(folder / "a" / "1.gif", moving_frames(16, 32, 32), fps=15)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (in_a_second_format, r"2 videos in .* have the name of another one .* as .*1.gif: .* would count twice"),
        (without_a_first_frame, r"is not scored: 1 of 3 videos cannot be used.\n.*1.avi: .*\n.*Replace or remove"),
        (cut_short, r"1 of 3 videos in .* cannot be scored; .* needs 16 frames:\n.*1.mkv: 9 frames"),
        (no_video, r"1 of 3 videos in .*\n.*1.mkv: holds no video stream"),
        (damaged, r"1.mkv"),
    ],
)
def test_a_bad_file_means_no_score(tmp_path, stub, harm, message):
    write_folder(tmp_path / "real", 3)
    write_folder(tmp_path / "fake", 3)
    harm(tmp_path / "fake")
    with pytest.raises(UserError, match=message):
        score(tmp_path / "real", tmp_path / "fake", stub)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "cdfdv"}, "did you mean 'cdfvd'"),
        ({"protocol": "larp-k600-frame-prediction:paste-given"}, "which real clip each prediction continues"),
        ({"protocol": "evatok-webvid-recon"}, "resamples videos in time, and folders are compared as they are"),
        ({"real": "nowhere"}, "no folder at nowhere"),
        ({"detector_sha256": "1" * 64}, "was not loaded: its SHA-256 is"),
        ({"fake": "{empty}"}, "no videos in .*empty"),
    ],
)
def test_bad_input_is_explained(tmp_path, stub, changes, message):
    write_folder(tmp_path / "real", 2)
    (tmp_path / "empty").mkdir()
    changes = {key: value.replace("{empty}", str(tmp_path / "empty")) for key, value in changes.items()}
    values = {"real": tmp_path / "real", "fake": tmp_path / "real", **stub, **changes}
    with pytest.raises(UserError, match=message):
        score(**{key: value for key, value in values.items() if key in ("real", "fake")}, stub={
            key: value for key, value in values.items() if key not in ("real", "fake")
        })  # fmt: skip


def test_one_video_is_too_few(tmp_path, stub):
    write_folder(tmp_path / "real", 1)
    with pytest.raises(UserError, match="at least 2 real and 2 generated videos"):
        score(tmp_path / "real", tmp_path / "real", stub)


def test_too_few_videos_for_an_extrapolation_are_told_before_one_is_looked_at(tmp_path, stub, monkeypatch):
    write_folder(tmp_path / "real", 3)
    monkeypatch.setattr(fvd, "columns_of_all", None)
    with pytest.raises(UserError, match=r"at least 1600 videos .* got 3 videos .*; leave extrapolate out"):
        score(tmp_path / "real", tmp_path / "real", stub, certainty={"extrapolate": True})


def test_the_command_prints_one_record(tmp_path, stub):
    write_folder(tmp_path / "real", 3)
    arguments = ["fvd", str(tmp_path / "real"), str(tmp_path / "real"), "--size", "32", "--resamples", "2", "--json"]
    arguments += ["--detector-weights", stub["detector_weights"], "--detector-sha256", stub["detector_sha256"]]
    done = subprocess.run(
        [sys.executable, "-c", "from evagen.cli import main; main()", *arguments],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Record.model_validate(json.loads(done.stdout)).score.value == 0
