"""`evagen data scan`: real trees with bad files in them, decoders that hang or die, and loaders that heed the list."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import av
import numpy as np
import pytest
from datasets import Dataset, Features, Value, Video, load_from_disk
from video_fixtures import moving_frames, write_class_folders, write_h264, write_ucf101, write_uneven_h264

from evagen import cli
from evagen.data.check import check_all, check_video
from evagen.data.clips import ClipDataset
from evagen.data.file_memory import FileMemory, file_state
from evagen.data.found_files import LIST_NAME
from evagen.data.huggingface import TableVideo
from evagen.data.scan import describe, guess_layout, scan
from evagen.data.skip_list import read_scan_record
from evagen.data.sources import DataConfig, VideoSource
from evagen.data.video_reader import VideoError
from evagen.data.video_writer import write_video
from evagen.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EVAGEN_CACHE", str(tmp_path / "cache"))


def source(root, layout="folder"):
    return VideoSource(root=root, layout=layout)


def config(root, **changes):
    return DataConfig(**{"root": root, "layout": "folder", "frames": 4, "size": 32, **changes})


def damage_the_middle(path: Path) -> None:
    """Which neither the header nor the index shows."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][10]
        position, size = packet.pos, packet.size
    content = path.read_bytes()
    path.write_bytes(content[:position] + b"\xff" * size + content[position + size :])


# One video


def test_facts_of_xvid_and_of_h264_with_a_varying_rate(tmp_path):
    write_video(tmp_path / "even.avi", moving_frames(30, 240, 320), fps=25)
    facts = check_video(tmp_path / "even.avi")
    assert (facts.frames, facts.counted, facts.width, facts.height, facts.codec) == (30, 30, 320, 240, "mpeg4")
    assert (facts.seconds, facts.varying) == (pytest.approx(1.2), False)
    write_uneven_h264(tmp_path / "uneven.mp4", moving_frames(30, 66, 102))
    facts = check_video(tmp_path / "uneven.mp4")
    assert (facts.frames, facts.width, facts.height, facts.codec, facts.varying) == (30, 102, 66, "h264", True)
    assert facts.seconds == pytest.approx(1.2, abs=0.03)


def test_an_odd_size_and_a_single_frame(tmp_path):
    write_h264(tmp_path / "one.mp4", moving_frames(1, 75, 101), "yuv444p")
    facts = check_video(tmp_path / "one.mp4")
    assert (facts.frames, facts.width, facts.height, facts.seconds) == (1, 101, 75, pytest.approx(0.04))


def test_damage_in_the_middle_is_found(tmp_path):
    write_uneven_h264(tmp_path / "clip.mp4", moving_frames(40))
    damage_the_middle(tmp_path / "clip.mp4")
    with pytest.raises(VideoError):
        check_video(tmp_path / "clip.mp4")


# Decoders that hang and die


def write_endless(path: Path) -> None:
    """Half a million frames in a few megabytes, which take long to decode: streams of black ones end to end."""
    with av.open(str(path), "w", format="mpeg1video") as container:
        stream = container.add_stream("mpeg1video", rate=25, options={"g": "500"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        black = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for number in range(500):
            black.pts = number
            container.mux(stream.encode(black))
        container.mux(stream.encode(None))
    path.write_bytes(1000 * path.read_bytes())


TOO_LONG = "not decoded within 1 seconds; --seconds-per-file gives more"


def test_a_file_that_takes_too_long_costs_its_time_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr("evagen.data.check.SECONDS_A_MEGABYTE", 0)
    write_class_folders(tmp_path, {"ants": 6})
    for name in ("a_long.avi", "b_long.avi"):
        write_endless(tmp_path / "ants" / name)
    videos = sorted(str(path) for path in (tmp_path / "ants").iterdir())
    found = dict(check_all(videos, workers=2, seconds_per_file=1))
    assert set(found) == set(videos)
    reasons = {Path(video).name: result for video, result in found.items() if isinstance(result, str)}
    assert reasons == dict.fromkeys(("a_long.avi", "b_long.avi"), TOO_LONG)


@pytest.mark.parametrize("stored", [False, True])
def test_a_large_file_has_more_time(tmp_path, monkeypatch, stored):
    """A telephone's minute of 4K takes two."""
    write_video(tmp_path / "1.avi", moving_frames(100, 240, 320), 25)
    video = str(tmp_path / "1.avi")
    if stored:
        table = Dataset.from_dict({"video": [Path(video).read_bytes()]}, features=Features({"video": Value("binary")}))
        table.save_to_disk(tmp_path / "table")
        video = TableVideo(str(tmp_path / "table" / "data-00000-of-00001.arrow"), "video", 0)
    monkeypatch.setattr("evagen.data.check.SECONDS_A_MEGABYTE", 0)
    ((_, found),) = check_all([video], workers=1, seconds_per_file=0.001)
    assert found == "not decoded within 0.001 seconds; --seconds-per-file gives more"
    monkeypatch.setattr("evagen.data.check.SECONDS_A_MEGABYTE", 100)
    ((_, found),) = check_all([video], workers=1, seconds_per_file=0.001)
    assert found.frames == 100


def test_where_no_server_forks_checkers_are_started_anew(monkeypatch, tmp_path):
    """As on Windows."""
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    write_video(tmp_path / "1.avi", moving_frames(5), 25)
    ((video, facts),) = check_all([str(tmp_path / "1.avi")], workers=1, seconds_per_file=20)
    assert video == str(tmp_path / "1.avi")
    assert facts.frames == 5


CRASHING = """
import os, sys
from evagen.data import check
def crash(video, checked=check.check_video):
    if video.endswith("crash.avi"):
        os.kill(os.getpid(), 11)
    return checked(video)
check.check_video = crash
if __name__ == "__main__":
    import multiprocessing
    fork = multiprocessing.get_context("fork")
    fork.set_forkserver_preload = lambda names: None
    check.multiprocessing.get_context = lambda kind: fork
    for video, result in check.check_all(sys.argv[1:], 1, 20):
        print(video[-9:], result if isinstance(result, str) else result.frames)
"""


def test_a_decoder_that_crashes_takes_one_file_with_it(tmp_path):
    names = ["1.avi", "crash.avi", "2.avi"]
    for name in names:
        write_video(tmp_path / name, moving_frames(5), 25)
    done = subprocess.run(
        [sys.executable, "-c", CRASHING, *(str(tmp_path / name) for name in names)], capture_output=True, text=True
    )
    lines = [line.split(" ", 1)[1] for line in done.stdout.splitlines()]
    assert lines == ["5", "the decoder crashed (exit code -11)", "5"], done.stderr


# Data sets


@pytest.fixture
def tree(tmp_path):
    """Three good videos of 20 frames, and three bad ones, of which opening shows two."""
    root = tmp_path / "tree"
    write_class_folders(root, {"ants": 2, "bees": 1})
    (root / "ants" / "text.avi").write_text("not a video")
    (root / "bees" / "empty.mp4").write_bytes(b"")
    write_uneven_h264(root / "bees" / "damaged.mp4", moving_frames(40))
    damage_the_middle(root / "bees" / "damaged.mp4")
    return root


def test_what_a_scan_finds_is_left_out_by_the_loader(tree, caplog):
    before = ClipDataset(config(tree))
    assert (len(before), len(before.skipped)) == (4, 2)  # the damage shows in training only
    record, written = scan(source(tree), workers=2)
    assert written == tree / LIST_NAME
    assert {file.path for file in record.bad} == {"ants/text.avi", "bees/empty.mp4", "bees/damaged.mp4"}
    after = ClipDataset(config(tree))
    assert (len(after), after.num_files) == (3, 6)
    assert {Path(skip.path).name for skip in after.skipped} == {"text.avi", "empty.mp4", "damaged.mp4"}
    assert all(skip.reason.startswith("on the list of bad files: ") for skip in after.skipped)
    assert f"3 of the 6 videos in {tree} are skipped, being on the list {written}" in caplog.text
    assert record.summary | {"gigabytes": 0} == {
        "files": 6, "bad": 3, "hours": pytest.approx(3 * 0.8 / 3600, abs=1e-4), "gigabytes": 0,
        "frames": {"least": 20, "median": 20, "most": 20}, "varying_rate": 0, "fewer_frames_than_said": 0,
        "sizes": {"64x48": 3}, "frames_per_second": {"25": 3}, "codecs": {"mpeg4": 3},
        "classes": {"ants": 3, "bees": 3}, "remarks": [],
    }  # fmt: skip
    text = describe(record, shown=1)
    assert text.splitlines()[0].startswith("6 files (folder), 0.00 hours, ")
    assert text.endswith("and 2 more bad files")
    assert "64x48 (3)" in text


def test_a_file_that_was_replaced_is_used_again(tree):
    scan(source(tree), workers=1)
    write_video(tree / "ants" / "new.avi", moving_frames(20), 25)
    (tree / "ants" / "new.avi").rename(tree / "ants" / "text.avi")
    assert len(ClipDataset(config(tree))) == 4


def test_a_list_in_another_place(tree, tmp_path, monkeypatch):
    tree.chmod(0o555)
    scan(source(tree), workers=1, out=tmp_path / "bad.json")
    tree.chmod(0o755)
    assert len(ClipDataset(config(tree))) == 4
    assert len(ClipDataset(config(tree, skip_list=tmp_path / "bad.json"))) == 3
    with pytest.raises(UserError, match=r"no list of bad files at .*gone.json: `evagen data scan` writes one"):
        ClipDataset(config(tree, skip_list=tmp_path / "gone.json"))
    (tree / LIST_NAME).write_text('{"bad": 3}')
    with pytest.raises(UserError, match=r"is not what `evagen data scan` writes; scan again to replace it"):
        ClipDataset(config(tree))
    monkeypatch.setattr("evagen.data.scan.check_all", None)  # it is told before anything is decoded
    for out in (tree, tmp_path / "bad.json" / "bad.json"):
        with pytest.raises(UserError, match=r"cannot be written to .*; give another place with --out.*data.skip_list"):
            scan(source(tree), out=out)


def test_good_files_are_not_decoded_again(tree, monkeypatch):
    scan(source(tree), workers=1)
    asked = []

    def watched(videos, workers, seconds):
        asked.extend(Path(video).name for video in videos)
        return iter(())

    monkeypatch.setattr("evagen.data.scan.check_all", watched)
    record, _ = scan(source(tree), workers=1)
    assert sorted(asked) == ["damaged.mp4", "empty.mp4", "text.avi"]
    assert record.summary["frames"]["median"] == 20


def test_every_layout_and_its_guess(tmp_path):
    write_ucf101(tmp_path / "ucf")
    (tmp_path / "ucf" / "YoYo" / "v_YoYo_g02_c01.avi").unlink()
    record, _ = scan(source(tmp_path / "ucf", guess_layout(tmp_path / "ucf")), workers=1)
    assert (record.layout, record.summary["files"], record.bad) == ("ucf101", 5, [])  # of both lists
    lacks = f"1 of the 6 videos that the lists of {tmp_path / 'ucf'} name are not in this copy"
    assert record.summary["remarks"] == [lacks]
    kinetics = tmp_path / "k600"
    kinetics.mkdir()
    write_uneven_h264(kinetics / "abcdefghijk_000000_000010.mp4", moving_frames(20, 66, 102))
    rows = ["label,youtube_id,time_start,time_end,split", "yoga,abcdefghijk,0,10,train", "yoga,ABCDEFGHIJK,0,10,val"]
    (kinetics / "all.csv").write_text("\n".join(rows))
    record, _ = scan(source(kinetics, guess_layout(kinetics)), workers=1)
    assert (record.layout, record.summary["varying_rate"], record.summary["classes"]) == ("kinetics", 1, {"yoga": 1})
    assert record.summary["remarks"] == [f"1 of the 2 videos that the lists of {kinetics} name are not in this copy"]
    videos = [(kinetics / "abcdefghijk_000000_000010.mp4").read_bytes(), b"not a video"]
    table = Dataset.from_dict({"video": videos}, features=Features({"video": Video()}))
    table.save_to_disk(tmp_path / "table")
    record, _ = scan(source(tmp_path / "table", guess_layout(tmp_path / "table")), workers=1)
    assert record.layout == "huggingface"
    assert [file.path for file in record.bad] == ["data-00000-of-00001.arrow#video[1]"]
    assert len(ClipDataset(config(tmp_path / "table", layout="huggingface"))) == 1
    assert guess_layout(tmp_path) == "folder"


@pytest.mark.parametrize("kind", [Video(), Value("string")])  # the bytes are in the table, or only the files' names
def test_a_scan_holds_however_the_folder_is_written(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evagen.data.scan.check_all", lambda videos, *_: ((video, "bad") for video in videos[1:]))
    root = tmp_path / "table"
    root.mkdir()
    write_video(root / "good.avi", moving_frames(20), fps=25)
    (root / "bad.avi").write_text("not a video")
    videos = {"video": [str(root / "good.avi"), str(root / "bad.avi")]}
    Dataset.from_dict(videos, features=Features({"video": kind})).save_to_disk(root)
    table = {"layout": "huggingface", "video_column": "video"}
    for scanned, read in ((Path("table"), root), (root, Path("table")), (Path("..", tmp_path.name, "table"), root)):
        scan(VideoSource(root=scanned, **table), workers=1)
        (skipped,) = ClipDataset(config(read, **table)).skipped
        assert skipped.reason.startswith("on the list of bad files: ")


def test_a_scan_that_is_stopped_goes_on_where_it_was(tree, capsys, monkeypatch):
    monkeypatch.setattr("evagen.data.check.SECONDS_A_MEGABYTE", 0)
    write_endless(tree / "ants" / "long.avi")
    command = [sys.executable, "-c", "from evagen.cli import main; main()", "data", "scan", str(tree), "--workers", "2"]
    show_all = {**os.environ, "TQDM_MININTERVAL": "0"}
    running = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=show_all,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    )  # fmt: skip
    seen = b""
    while b" 6/7 " not in seen:  # all but the one that takes long
        seen += os.read(running.stderr.fileno(), 4096) or pytest.fail(seen.decode())
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode != 0
    assert not (tree / LIST_NAME).exists()
    capsys.readouterr()
    cli.data_scan(tree, workers=2, seconds_per_file=1, json_output=True)
    printed = capsys.readouterr()
    assert " 3/7 [00:00" in printed.err  # the good ones were remembered
    record = json.loads(printed.out)
    reasons = {file["path"]: file["reason"] for file in record["bad"]}
    assert (len(reasons), reasons["ants/long.avi"]) == (4, TOO_LONG)
    assert json.loads((tree / LIST_NAME).read_text()) == record


def test_what_was_remembered_when_frames_were_counted_otherwise_is_checked_again(tmp_path, monkeypatch):
    video = tmp_path / "ant.avi"
    write_video(video, moving_frames(8, 16, 16), fps=25)
    facts = check_video(video)
    monkeypatch.setattr("evagen.data.scan.check_all", lambda videos, *_: ((video, facts) for video in videos))
    with FileMemory("video_checks") as memory:
        memory.remember([(str(video), file_state(video), asdict(replace(facts, counted=9)))])
    record, _ = scan(source(tmp_path), workers=1)
    assert record.summary["fewer_frames_than_said"] == 0


def test_a_folder_that_is_not_there_is_what_is_told(tmp_path):
    with pytest.raises(UserError, match=r"no folder at .*nowhere: give"):
        scan(VideoSource(root=tmp_path / "nowhere", layout="folder"))


def test_a_data_set_of_the_hub_has_no_folder_and_its_list_goes_elsewhere(tmp_path, monkeypatch):
    write_video(tmp_path / "ant.avi", moving_frames(8, 16, 16), fps=25)
    features = Features({"video": Video(decode=False)})
    features |= {"label": [Value("int64")], "action": Value("string")}
    columns = {"video": [str(tmp_path / "ant.avi")], "label": [[1, 2]], "action": ["run"]}
    Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "fetched")
    hub = {"evagen-tests/nowhere": load_from_disk(tmp_path / "fetched")}
    monkeypatch.setattr("evagen.data.huggingface.load_dataset", hub.__getitem__)
    named = source("evagen-tests/nowhere", guess_layout(Path("evagen-tests/nowhere")))
    with pytest.raises(UserError, match="give label_column a column of single values"):
        scan(named, out=tmp_path / "list.json")
    cli.data_scan(named.root, label_column="action", out=tmp_path / "list.json")
    record = read_scan_record(tmp_path / "list.json")
    assert (record.bad, record.summary["files"], record.summary["classes"]) == ([], 1, {"run": 1})
    with pytest.raises(UserError, match=r"no folder at evagen-tests.nowhere: .* on the hub say with --out"):
        scan(named)


def test_an_unknown_layout_is_refused(tree):
    with pytest.raises(UserError, match=r"evagen data scan:\n.*layout.*ucf101"):
        cli.data_scan(tree, layout="ucf")
