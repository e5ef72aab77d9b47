"""One's own videos as clips: all of every video, some held out, nothing lost in silence."""

import os
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from typer.testing import CliRunner
from video_fixtures import decode_all, moving_frames, write_frames

from evagen import cli
from evagen.data.clips import ClipDataset
from evagen.data.cut import cut_videos, plan_cuttings
from evagen.data.file_memory import file_state
from evagen.data.found_files import LIST_NAME
from evagen.data.frame_times import frame_rate
from evagen.data.labelled_set import record_all
from evagen.data.skip_list import BadFile, ScanRecord, write_scan_record
from evagen.data.sources import DataConfig
from evagen.data.square_clips import read_square
from evagen.data.video_writer import write_video
from evagen.errors import UserError


def write_moving(path, frames, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, moving_frames(frames, 40, 56, seed), 20)


@pytest.fixture
def videos(tmp_path):
    """Three videos of 20, 19 and 11 clips of 4 frames, the first with two frames over; and one that is too short."""
    for name, frames in (("a", 82), ("b", 76), ("c", 44), ("short", 3)):
        write_moving(tmp_path / "mine" / f"{name}.mp4", frames, seed=ord(name[0]))
    return tmp_path / "mine"


def split(out, name):
    return ClipDataset(DataConfig(root=out, layout="ucf101", split=name, frames=4, size=32, clip="all"))


def test_all_clips_of_every_video_the_end_of_each_held_out(videos, tmp_path):
    summary = cut_videos(videos, tmp_path / "out", frames=4, size=32, workers=1)
    assert (summary.train_clips, summary.test_clips, summary.class_names) == (40, 10, ["video"])
    assert [skip.reason for skip in summary.skipped] == ["too short: 3 frames, a clip has 4"]
    assert "1 of 4 files skipped" in summary.describe()
    assert "40 training and 10 held-out clips (the end of each video)" in summary.describe()
    train, test = split(tmp_path / "out", "train"), split(tmp_path / "out", "test")
    for clip, (name, number) in [
        (train[0], ("a", 0)),
        (train[15], ("a", 15)),
        (train[16], ("b", 0)),
        (test[9], ("c", 10)),
    ]:
        wanted = read_square(str(videos / f"{name}.mp4"), 4 * number, 4, 1, 32)
        assert (clip.video - wanted).abs().mean() < 0.03  # of 2; neighbouring clips differ by more
        assert (clip.video - read_square(str(videos / "a.mp4"), 20, 4, 1, 32)).abs().mean() > 0.06


def test_of_many_videos_whole_ones_are_held_out_and_subfolders_are_classes(tmp_path):
    for number in range(32):
        write_moving(tmp_path / "mine" / "my dogs" / f"{number:02d}.mp4", 9, seed=number)
    write_moving(tmp_path / "mine" / "cats" / "one.mp4", 64)
    summary = cut_videos(tmp_path / "mine", tmp_path / "out", frames=4, size=32, workers=1)
    assert summary.class_names == ["cats", "my_dogs"]
    assert (summary.train_clips, summary.test_clips) == (64 - 8 + 14, 8 + 2)
    held_out = {path.split("_g")[1][:4] for path in split(tmp_path / "out", "test").paths if "dogs" in path}
    trained = {path.split("_g")[1][:4] for path in split(tmp_path / "out", "train").paths if "dogs" in path}
    assert held_out == {"0029", "0030", "0031", "0032"}
    assert not held_out & trained


@pytest.mark.parametrize("other", ["test", "Val"])
def test_what_its_folders_hold_out_is_held_out(tmp_path, other):
    for part, name, frames in (("train", "cats/a", 100), ("train", "dogs/a", 84), (other, "dogs/b", 40)):
        write_moving(tmp_path / "mine" / part / f"{name}.mp4", frames, seed=frames)
    summary = cut_videos(tmp_path / "mine", tmp_path / "out", frames=4, size=32, workers=1)
    assert (summary.train_clips, summary.test_clips, summary.class_names) == (46, 10, ["cats", "dogs"])
    assert "10 held-out clips (as the folders say)" in summary.describe()
    assert {path.split("/v_")[1][:10] for path in split(tmp_path / "out", "test").paths} == {"dogs_g0002"}


def test_a_held_out_folder_of_too_few_clips_is_told_before_anything_is_cut(tmp_path):
    for part, frames in (("train", 180), ("test", 12)):
        write_moving(tmp_path / "mine" / part / "a.mp4", frames)
    with pytest.raises(UserError, match=r"of 48 clips of .* 45 are to learn from and 3 can be held out"):
        cut_videos(tmp_path / "mine", tmp_path / "out", frames=4, size=32, workers=1)
    assert not (tmp_path / "out").exists()


def test_of_odd_rates_all_are_used_that_a_video_may_have(videos, tmp_path):
    for name, seconds in (("never", 5000), ("slow", 2000)):
        stamps = [1000 * seconds * number for number in range(8)]
        write_frames(videos / f"{name}.mkv", moving_frames(8, 40, 56), stamps=stamps, time_base=Fraction(1, 1000))
    summary = cut_videos(videos, tmp_path / "out", frames=4, size=32, workers=1)
    reasons = {Path(skip.path).name: skip.reason for skip in summary.skipped}
    assert reasons.keys() == {"never.mkv", "short.mp4"}
    assert "which is no rate of a video" in reasons["never.mkv"]
    assert summary.train_clips + summary.test_clips == 52
    assert frame_rate(tmp_path / "out" / "video" / "v_video_g0006_c00002.avi") == pytest.approx(8 / 14000, rel=1e-4)


@pytest.mark.parametrize("name", ["out", "train"])
def test_clips_that_lie_among_the_videos_are_not_cut_again(videos, name):
    out = videos / name
    first = cut_videos(videos, out, frames=4, size=32, workers=1)
    again = cut_videos(videos, Path(os.path.relpath(out)), frames=4, size=32, workers=1)
    assert replace(again, out=out) == first


def test_started_again_it_goes_on_and_with_other_arguments_it_is_refused(videos, tmp_path, monkeypatch):
    monkeypatch.chdir(videos.parent)
    out = tmp_path / "out"
    cut_videos(videos.name, out, frames=4, size=32, workers=1)
    files = sorted(out.glob("video/*.avi"))
    before = {path: path.read_bytes() for path in files}
    kept = files[3].stat().st_mtime_ns
    files[7].unlink()
    cut_videos(videos, out, frames=4, size=32, workers=1)
    assert {path: path.read_bytes() for path in files} == before
    assert files[3].stat().st_mtime_ns == kept
    with pytest.raises(UserError, match="made with other arguments: frames was 4, is now 3"):
        cut_videos(videos, out, frames=3, size=32, workers=1)
    for number in range(5):
        write_moving(videos / f"{number}.mp4", 8)
    with pytest.raises(UserError, match=r"g0001 was 'a.mp4', is now '0.mp4'; (.*; ){2}and 6 more\. Give"):
        cut_videos(videos, out, frames=4, size=32, workers=1)


def test_a_video_damaged_on_the_way_gives_the_clips_before(videos, tmp_path):
    write_moving(videos / "z.mp4", 400, seed=5)
    whole = (videos / "z.mp4").read_bytes()
    first, last = (round(part * whole.index(b"moov")) for part in (0.4, 0.6))  # of the pictures, the index behind them
    (videos / "z.mp4").write_bytes(whole[:first] + b"\xff" * (last - first) + whole[last:])
    summary = cut_videos(videos, tmp_path / "out", frames=4, size=32, workers=1)
    [reason] = [skip.reason for skip in summary.skipped if skip.path.endswith("z.mp4")]
    assert re.fullmatch("damaged: only [0-9]+ of 100 clips could be decoded", reason)
    listed = split(tmp_path / "out", "train").paths + split(tmp_path / "out", "test").paths
    assert len(listed) == summary.train_clips + summary.test_clips
    assert 0 < sum("_g0005_" in path for path in listed) < 100
    decode_all(next(path for path in listed if "_g0005_" in path))


def test_what_a_scan_found_bad_is_left_out_and_the_others_keep_their_names(videos, tmp_path):
    """Also where the cutting has begun: a decoder that hangs or crashes is a reason to scan."""
    before, *_ = plan_cuttings(videos, 3, 32, [])
    assert cut_videos(videos, tmp_path / "out", frames=3, size=32, workers=1).skipped == []
    bad = BadFile(path="b.mp4", reason="takes too long", state=file_state(videos / "b.mp4"))
    write_scan_record(videos / LIST_NAME, ScanRecord(root=str(videos), layout="folder", bad=[bad], summary={}))
    cuttings, skipped, _ = plan_cuttings(videos, 3, 32, [])
    assert cuttings == [each for each in before if not str(each.path).endswith("b.mp4")]
    assert [(skip.path, skip.reason) for skip in skipped] == [
        (str(videos / "b.mp4"), "on the list of bad files: takes too long")
    ]
    again = cut_videos(videos, tmp_path / "out", frames=3, size=32, workers=1)
    assert again.skipped == skipped
    assert again.train_clips + again.test_clips == sum(each.num_clips for each in cuttings)


def test_too_little_to_hold_out_is_told_before_anything_is_cut(tmp_path):
    for number in range(42):  # classes of one clip, which is to learn from
        write_moving(tmp_path / "mine" / str(number) / "a.mp4", 5, seed=number)
    with pytest.raises(UserError, match=r"of 42 clips of .* 42 are to learn from and 0 can be held out"):
        cut_videos(tmp_path / "mine", tmp_path / "out", frames=4, size=32, workers=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "arguments", "message"),
    [
        ([], {}, "no videos in"),
        (["a.mp4"], {}, "are 5 clips of 4 frames, at least 40 are needed"),
        (["a.mp4"], {"size": 31}, "size=31: expected"),
        (["a b/1.mp4", "a_b/1.mp4"], {}, "the classes 'a b' and 'a_b' would both be called a_b"),
    ],
)
def test_what_cannot_be_cut_is_said_and_nothing_is_made(names, arguments, message, tmp_path):
    (tmp_path / "mine").mkdir()
    for name in names:
        write_moving(tmp_path / "mine" / name, 20)
    with pytest.raises(UserError, match=message):
        cut_videos(tmp_path / "mine", tmp_path / "out", **{"frames": 4, "size": 32, "workers": 1} | arguments)
    assert not (tmp_path / "out").exists()


class Crashes:
    """A recording whose process ends as one does whose decoder crashes."""

    def names(self):
        return ["cat/one_c00001.avi"]

    def record(self, out):
        os._exit(1)


def test_a_process_that_ends_by_itself_is_told_in_words(tmp_path):
    with pytest.raises(UserError, match=r"has ended by itself.* worked on: cat/one_c00001\.avi, cat/one_c00001\.avi\."):
        list(record_all(tmp_path, [Crashes(), Crashes(), Crashes()], workers=2))


@pytest.mark.parametrize("command", ["cut mine", "arcade", "natural"])
def test_no_process_at_all_is_not_taken_for_one_on_each_core(tmp_path, command):
    options = ["--out", str(tmp_path / "out"), "--workers", "0"]
    done = CliRunner().invoke(cli.app, ["data", *command.split(), *options])
    assert (done.exit_code, (tmp_path / "out").exists()) == (2, False)
    assert "--workers" in done.output
