"""Folders as people have them: links, suffixes, spellings, what lies beside. Listing opens no video: all are empty."""

import contextlib
import os
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_fixtures import config, moving_frames

from evagen.data.clips import ClipDataset
from evagen.data.cut import cut_videos
from evagen.data.found_files import LIST_NAME, VIDEO_SUFFIXES, find_videos
from evagen.data.layouts import Listing, list_folder
from evagen.data.scan import describe, scan
from evagen.data.skip_list import ScanRecord, read_scan_record
from evagen.data.sources import VideoSource
from evagen.data.video_writer import write_video
from evagen.errors import UserError


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def contents(root: Path, listing: Listing) -> dict[str, str | None]:
    """Class of each video, by its path in the tree."""
    names = [*listing.class_names, None]
    return {os.path.relpath(str(file.path), root): names[file.label] for file in listing.files}


# What is a video, and where


def test_common_suffixes_in_any_case_and_the_others_are_told(tmp_path):
    names = [f"{number}{suffix}" for number, suffix in enumerate(sorted(VIDEO_SUFFIXES))]
    put(
        tmp_path,
        *(f"run/{name}" for name in names),
        "run/A.FLV",
        "run/b.Mts",
        "run/notes.txt",
        "run/c.part",
        "run/d.part",
    )
    put(tmp_path, LIST_NAME, "run/.hidden.mp4", ".trash/e.mp4", "run/README")
    listing = list_folder(tmp_path, "all")
    assert {os.path.basename(path) for path in contents(tmp_path, listing)} == {*names, "A.FLV", "b.Mts"}
    (remark,) = listing.remarks
    told = f"4 files in {tmp_path} are left out, not being named like videos: .part (2), .txt (1), no suffix (1)"
    assert sorted(remark) == sorted(told)
    assert {".flv", ".3gp", ".mts", ".m2ts", ".ogv", ".wmv", ".mpg", ".ts", ".mkv", ".webm", ".m4v"} <= VIDEO_SUFFIXES


def test_links_to_class_folders_are_followed_and_nothing_is_listed_twice(tmp_path):
    put(tmp_path, "real/run/a.mp4", "real/run/deep/b.mp4", "real/jump/c.mp4", "set/walk/d.mp4")
    for name in ("run", "jump"):
        (tmp_path / "set" / name).symlink_to(f"../real/{name}")
    (tmp_path / "set" / "walk" / "up").symlink_to("../..")
    (tmp_path / "set" / "walk" / "self").symlink_to(".")
    (tmp_path / "set" / "jumping").symlink_to("jump")
    (tmp_path / "set" / "nowhere").symlink_to("nothing")
    listing = list_folder(tmp_path / "set", "all")
    assert contents(tmp_path / "set", listing) == {
        "jump/c.mp4": "jump", "run/a.mp4": "run", "run/deep/b.mp4": "run", "walk/d.mp4": "walk",
    }  # fmt: skip
    told = " ".join(listing.remarks)
    for part in ("walk/up leads to a folder that it lies in", "walk/self is left out", "jumping is left out"):
        assert part in told


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    put(tmp_path, "run/a.mp4", "secret/b.mp4")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list_folder(tmp_path, "all").remarks == [
        f"the folder {tmp_path / 'secret'} cannot be read (Permission denied): its videos are left out"
    ]
    with pytest.raises(UserError, match=r"secret cannot be read \(Permission denied\)"):
        list_folder(tmp_path / "secret", "all")
    with pytest.raises(UserError, match=r"a.mp4 is a file: give .in a config: data.root. the folder"):
        list_folder(tmp_path / "run" / "a.mp4", "all")


# Classes and splits


def test_one_loose_file_drops_the_classes_but_not_in_silence(tmp_path):
    put(tmp_path, "run/a.mp4", "jump/b.mp4", "preview.mp4")
    listing = list_folder(tmp_path, "all")
    assert set(contents(tmp_path, listing).values()) == {None}
    assert listing.remarks == [
        f"2 subfolders in {tmp_path} are not taken for classes, since 1 video lies beside them, for instance "
        f"{tmp_path / 'preview.mp4'}: put each into a folder to have classes, or take it out"
    ]


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "Test"), ("TRAIN", "TEST"), ("training", "testing"), ("train", "Val")]
)
def test_split_folders_in_any_spelling(train, test, tmp_path):
    put(tmp_path, f"{train}/run/a.mp4", f"{train}/jump/b.mp4", f"{test}/run/c.mp4")
    assert contents(tmp_path, list_folder(tmp_path, "train")) == {
        f"{train}/jump/b.mp4": "jump",
        f"{train}/run/a.mp4": "run",
    }
    assert contents(tmp_path, list_folder(tmp_path, "test")) == {f"{test}/run/c.mp4": "run"}
    assert len(list_folder(tmp_path, "all").files) == 3


def test_what_lies_beside_split_folders_is_told(tmp_path):
    put(tmp_path, "train/run/a.mp4", "test/run/b.mp4", "extra/run/c.mp4", "d.mp4")
    listing = list_folder(tmp_path, "all")
    assert sorted(contents(tmp_path, listing)) == ["test/run/b.mp4", "train/run/a.mp4"]
    assert listing.remarks == [
        f"2 videos in {tmp_path} are left out, being in none of train, test; for instance {tmp_path / 'd.mp4'}"
    ]
    put(tmp_path / "classes", "train/a.mp4", "plane/b.mp4")
    listing = list_folder(tmp_path / "classes", "all")
    assert contents(tmp_path / "classes", listing) == {"plane/b.mp4": "plane", "train/a.mp4": "train"}
    assert "train in" in listing.remarks[0]
    assert "is taken for a class, not for a split" in listing.remarks[0]


def test_a_lone_split_folder_and_two_of_one_split(tmp_path):
    put(tmp_path, "train/run/a.mp4", "train/jump/b.mp4")
    assert set(contents(tmp_path, list_folder(tmp_path, "train")).values()) == {"run", "jump"}
    put(tmp_path, "val/run/c.mp4", "validation/jump/d.mp4")
    assert len(list_folder(tmp_path, "val").files) == 2
    assert len(list_folder(tmp_path, "all").files) == 4


PARTS = ("", "train/", "Test/", "val/")
CLASSES = ("run", "jump", "été", "a b", "-dash", "2024-05-01T10:30", "skip #1")
STEMS = ("a", "b", "-x", "c d", "10:30:00", "é")


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.sampled_from(PARTS), st.sampled_from(CLASSES), st.sampled_from(STEMS)), min_size=1))
def test_any_tree_gives_every_video_once_and_labels_that_mean_the_same_in_every_split(videos):
    with tempfile.TemporaryDirectory() as folder:
        root = put(Path(folder), *(f"{part}{name}/{stem}.mp4" for part, name, stem in videos))
        listings = {}
        for split in ("train", "val", "test", "all"):
            with contextlib.suppress(UserError):  # there is no such split
                listings[split] = list_folder(root, split)
        listing = listings["all"]
        found = contents(root, listing)
        assert len(found) == len(listing.files)
        told = " ".join(listing.remarks)
        left_out = {f"{name}/{stem}.mp4" for part, name, stem in videos if not part} - set(found)
        assert not left_out or re.search(rf"\b{len(left_out)} videos? in {root} (is|are) left out", told)
        assert set(found) | left_out == {f"{part}{name}/{stem}.mp4" for part, name, stem in videos}
        for split, other in listings.items():
            assert other.class_names == listing.class_names
            assert contents(root, other).items() <= found.items()
            assert (
                split != "train"
                or not {path for path in contents(root, other) if path[:4] in ("Test", "val/")}
                or ("is taken for a class" in told)
            )


# Names that are not text


def test_names_that_are_not_utf8_go_all_the_way(tmp_path, capsys):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/set\xe9"))
    folder = os.fsencode(root) + b"/jump\xca"
    os.makedirs(folder)
    write_video(tmp_path / "one.mkv", moving_frames(8), 25)
    data = (tmp_path / "one.mkv").read_bytes()
    for name, content in ((b"\xca\xd3.mkv", data), (b"-a: b.mkv", data), (b"bad\xff.mkv", b"junk"), (b"bad.\xff", b"")):
        with open(folder + b"/" + name, "wb") as file:
            file.write(content)
    record, out = scan(VideoSource(root=root, layout="folder"), workers=1)
    assert record.root == f"{tmp_path}/set\\xe9"
    assert ScanRecord.model_validate_json(record.model_dump_json()) == record
    assert [(file.path, record.summary["classes"]) for file in record.bad] == [
        ("jump\\xca/bad\\xff.mkv", {"jump\\xca": 3})
    ]
    assert read_scan_record(out) == record
    assert "bad\\xff.mkv" in describe(record)
    dataset = ClipDataset(config(root))
    assert dataset.class_names == ["jump\\xca"]
    assert len(list(dataset)) == len(dataset.paths) == 2
    assert [(skip.path[-9:], skip.reason[:4]) for skip in dataset.skipped] == [("bad\\xff.mkv"[-9:], "on t")]
    assert ClipDataset(config(root)).fingerprint() == dataset.fingerprint()


def test_cutting_says_what_it_leaves_out(tmp_path, caplog):
    put(tmp_path, "mine/run/notes.doc", "mine/run/a.mp4")
    with pytest.raises(UserError, match="at least 40 are needed"):
        cut_videos(tmp_path / "mine", tmp_path / "out", workers=1)
    assert "1 file in" in caplog.text
    assert ".doc (1)" in caplog.text


def test_a_videos_folder_keeps_its_order(tmp_path):
    put(tmp_path, "a/1.mp4", "a.b/1.mp4", "a/b/1.mp4", "b.mp4")
    found = [os.path.relpath(video.path, tmp_path) for video in find_videos(tmp_path).videos]
    assert found == sorted(found, key=lambda path: path.split("/"))
