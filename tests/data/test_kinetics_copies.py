"""Kinetics as downloaders leave it. Listing opens no video, so all are empty here."""

from pathlib import Path

import pytest

from evagen.data.kinetics import list_kinetics
from evagen.data.layouts import Listing
from evagen.data.scan import guess_layout
from evagen.errors import UserError

HEAD = "label,youtube_id,time_start,time_end,split\n"
ONE, TWO, THREE, FOUR = "-3B32lodo2M", "bbbbbbbbbbb", "ccccccccccc", "ddddddddddd"


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def contents(root: Path, listing: Listing) -> dict[str, str]:
    return {str(Path(file.path).relative_to(root)): listing.class_names[file.label] for file in listing.files}


def test_kinetics_600_as_its_archives_unpack(tmp_path):
    """`train.txt` and `val.txt` in `annotations`, a test list without labels, replacements beside the splits."""
    put(tmp_path, f"train/{ONE}_000059_000069.mp4", f"val/{TWO}_000003_000013.mp4", f"test/{THREE}_000003_000013.mp4")
    put(tmp_path, f"replacement/replacement_for_corrupted/{FOUR}_000001_000011.mp4")
    write(tmp_path / "annotations" / "train.txt", f'{HEAD}"tap dancing",{ONE},59,69,train\nyoga,{FOUR},1,11,train\n')
    write(tmp_path / "annotations" / "val.txt", f'{HEAD}"tap dancing",{TWO},3,13,val\n')
    write(tmp_path / "annotations" / "test.csv", f"youtube_id,time_start,time_end,split\n{THREE},3,13,test\n")
    write(tmp_path / "readme.txt", "Kinetics\n")
    train, val, both = (list_kinetics(tmp_path, split) for split in ("train", "val", "all"))
    assert contents(tmp_path, train) == {
        f"train/{ONE}_000059_000069.mp4": "tap dancing",
        f"replacement/replacement_for_corrupted/{FOUR}_000001_000011.mp4": "yoga",
    }
    assert contents(tmp_path, val) == {f"val/{TWO}_000003_000013.mp4": "tap dancing"}
    assert train.class_names == val.class_names == both.class_names == ["tap dancing", "yoga"]
    assert train.remarks == val.remarks == []
    assert [Path(video.path).name[:11] for video in both.left_out] == [THREE]
    assert guess_layout(tmp_path) == "kinetics"
    with pytest.raises(UserError, match="neither in a class folder nor in a list with labels"):
        list_kinetics(tmp_path, "test")


@pytest.mark.parametrize("change", [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n\r\n"),
                                    lambda text: text.encode("utf-16")])  # fmt: skip
def test_lists_however_they_are_written(change, tmp_path):
    put(tmp_path, f"train/{ONE}.mp4")
    write(tmp_path / "train.csv", change(f"{HEAD}yoga,{ONE},59,69,train\n"))
    listing = list_kinetics(tmp_path, "train")
    assert contents(tmp_path, listing) == {f"train/{ONE}.mp4": "yoga"}


def test_a_list_in_latin_1_is_read_and_told(tmp_path):
    put(tmp_path, f"train/{ONE}_000059_000069.mp4")
    write(tmp_path / "train.csv", HEAD.encode() + f"caf\xe9,{ONE},59,69,train\n".encode("latin-1"))
    listing = list_kinetics(tmp_path, "train")
    assert contents(tmp_path, listing) == {f"train/{ONE}_000059_000069.mp4": "café"}
    assert listing.remarks == [f"{tmp_path / 'train.csv'} is not UTF-8; it is read as Latin-1"]


@pytest.mark.parametrize("line", [f"train/{ONE}.mp4 0", f"/data/k400/train/{ONE}.mp4,0"])
def test_lists_of_paths_and_numbers_are_not_taken_for_others(line, tmp_path):
    put(tmp_path, f"train/{ONE}.mp4")
    write(tmp_path / "train.csv", line + "\n")
    told = r"train.csv is not read: it lists paths and numbers, as SlowFast has them.* Put the official lists"
    with pytest.raises(UserError, match=told):
        list_kinetics(tmp_path, "train")
    with pytest.raises(UserError, match=told):
        list_kinetics(tmp_path, "train", tmp_path / "train.csv")
    put(tmp_path, f"train/yoga/{TWO}.mp4")
    listing = list_kinetics(tmp_path, "train")
    assert contents(tmp_path, listing) == {f"train/yoga/{TWO}.mp4": "yoga"}
    assert any("is not read: it lists paths" in remark for remark in listing.remarks)


def test_nothing_beside_the_splits_is_left_out_in_silence(tmp_path):
    put(tmp_path, f"train/yoga/{ONE}.mp4", f"val/yoga/{TWO}.mp4", f"spare/yoga/{THREE}.mp4", "train/yoga/x.mp4.part")
    listing = list_kinetics(tmp_path, "all")
    assert list(contents(tmp_path, listing).values()) == ["yoga", "yoga"]
    assert [video.reason for video in listing.left_out] == ["neither in a class folder nor in a list with labels"]
    assert listing.remarks == [
        f"1 file in {tmp_path / 'train'} is left out, not being named like videos: .part (1)",
        f"1 video in {tmp_path} is left out: neither folder nor list tells the class",
    ]


@pytest.mark.parametrize(
    "text", [b"label,youtube_id\nyoga\n", HEAD.encode() + b"a,b,inf,1,train\n", HEAD.encode() + b'"a,b,0,1,train',
             HEAD.encode() + b"a,b\0c,x,1,train\n"],
)  # fmt: skip
def test_broken_lists_are_refused_in_words(text, tmp_path):
    put(tmp_path, f"train/yoga/{ONE}.mp4")
    write(tmp_path / "train.csv", text)
    with pytest.raises(UserError, match=r"train.csv, line 2: expected label,youtube_id.*, found '"):
        list_kinetics(tmp_path, "train")
