"""UCF-101 as copies of it really are. Listing opens no video, so all are empty here."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evagen.data.scan import guess_layout
from evagen.data.ucf101 import list_ucf101
from evagen.errors import UserError

CLASSES = ["ApplyEyeMakeup", "HandstandPushups", "YoYo"]
STEMS = ["v_ApplyEyeMakeup", "v_HandStandPushups", "v_YoYo"]  # the second is spelt as in the original
TRAIN = [f"{name}/{stem}_g0{group}_c01.avi" for name, stem in zip(CLASSES, STEMS) for group in (2, 3)]
TEST = [f"{name}/{stem}_g01_c01.avi" for name, stem in zip(CLASSES, STEMS)]
CLASS_IND = "".join(f"{number} {name}\n" for number, name in enumerate(CLASSES, 1))
TRAIN_LIST = "".join(f"{name} {CLASSES.index(name.split('/')[0]) + 1}\n" for name in TRAIN)
TEST_LIST = "".join(f"{name}\n" for name in TEST)


def write(root: Path, place: str = "UCF-101/{}", lists: str = "ucfTrainTestlist", change=lambda text: text) -> Path:
    for name in (*TRAIN, *TEST):
        path = root / place.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / lists).mkdir(parents=True, exist_ok=True)
    for name, text in (("classInd", CLASS_IND), ("trainlist01", TRAIN_LIST), ("testlist01", TEST_LIST)):
        data = change(text)
        (root / lists / f"{name}.txt").write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


def found(root: Path, split: str) -> list[tuple[str, str]]:
    listing = list_ucf101(root, split, 1)
    assert listing.class_names == CLASSES
    assert listing.left_out == []
    assert all(Path(file.path).is_file() for file in listing.files)
    return [(Path(file.path).stem, CLASSES[file.label]) for file in listing.files]


def expected(names: list[str]) -> list[tuple[str, str]]:
    return [(Path(name).stem, name.split("/")[0]) for name in names]


@pytest.mark.parametrize(
    "change",
    [
        str,
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(" ", "\t"),
        lambda text: text.replace(" ", "   ").replace("\n", " \n\n"),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("/", "\\"),
    ],
    ids=["original", "mark", "windows lines", "tabs", "spaces", "utf-16", "backslashes"],
)
def test_lists_however_they_are_written(change, tmp_path):
    write(tmp_path, change=change)
    assert (found(tmp_path, "train"), found(tmp_path, "test")) == (expected(TRAIN), expected(TEST))
    assert list_ucf101(tmp_path, "all", 1).remarks == []


@pytest.mark.parametrize(
    ("place", "lists"),
    [
        ("{}", "ucfTrainTestlist"), ("UCF101/videos/{}", "ucfTrainTestlist"),
        ("UCF-101/UCF-101/{}", "ucfTrainTestlist"),
        ("UCF-101/{}", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist"), ("{}", "."),
    ],
)  # fmt: skip
def test_folders_wherever_they_lie(place, lists, tmp_path):
    write(tmp_path, place, lists)
    assert (found(tmp_path, "train"), found(tmp_path, "test")) == (expected(TRAIN), expected(TEST))
    assert guess_layout(tmp_path) == ("folder" if "/" in lists else "ucf101")  # there may be several data sets
    moved = not place.startswith("{") and place != "UCF-101/{}"
    assert ("lie elsewhere" in " ".join(list_ucf101(tmp_path, "train", 1).remarks)) == moved


def test_flat_files_other_spellings_and_other_suffixes_are_known_by_their_names(tmp_path):
    write(tmp_path / "flat")
    for path in (tmp_path / "flat").rglob("*.avi"):
        path.rename(tmp_path / "flat" / "UCF-101" / path.name)
    write(tmp_path / "case")
    (tmp_path / "case" / "UCF-101" / CLASSES[1]).rename(tmp_path / "case" / "UCF-101" / "HandStandPushups")
    write(tmp_path / "suffix")
    for path in (tmp_path / "suffix").rglob("*.avi"):
        path.rename(path.with_suffix(".MP4"))
    for name, count in (("flat", 9), ("case", 3), ("suffix", 9)):
        assert found(tmp_path / name, "all") == expected(TRAIN + TEST)
        (remark,) = list_ucf101(tmp_path / name, "all", 1).remarks
        assert f"{count} videos in {tmp_path / name} lie elsewhere or are spelt otherwise than the lists say" in remark


def test_of_two_files_of_a_name_that_in_the_class_folder_counts(tmp_path):
    write(tmp_path, "a/{}")
    shutil.copytree(tmp_path / "a" / "YoYo", tmp_path / "a" / "AAA")
    assert {Path(file.path).parent.name for file in list_ucf101(tmp_path, "train", 1).files} == set(CLASSES)


def test_lists_in_latin_1_are_read_and_told(tmp_path):
    write(tmp_path, change=lambda text: text.replace("YoYo", "Café").encode("latin-1"))
    for path in (tmp_path / "UCF-101" / "YoYo").iterdir():
        (tmp_path / "UCF-101" / "Café").mkdir(exist_ok=True)
        path.rename(tmp_path / "UCF-101" / "Café" / path.name.replace("YoYo", "Café"))
    listing = list_ucf101(tmp_path, "train", 1)
    assert listing.class_names[2] == "Café"
    assert len(listing.files) == 6
    assert "classInd.txt is not UTF-8; it is read as Latin-1" in listing.remarks[0]


def test_what_a_copy_lacks_is_told_and_a_line_that_comes_twice_counts_once(tmp_path):
    write(tmp_path)
    (tmp_path / "UCF-101" / TRAIN[0]).unlink()
    (tmp_path / "ucfTrainTestlist" / "trainlist01.txt").write_text(TRAIN_LIST + TRAIN_LIST.splitlines()[1] + "\n")
    listing = list_ucf101(tmp_path, "train", 1)
    assert [Path(file.path).name for file in listing.files] == [Path(name).name for name in TRAIN[1:]]
    assert [(Path(video.path).name, video.reason) for video in listing.left_out] == [
        (Path(TRAIN[0]).name, "not in this copy")
    ]
    assert [remark.split(" ", 1)[1][:14] for remark in listing.remarks] == ["line of the li", "of the 6 video"]
    shutil.rmtree(tmp_path / "UCF-101")
    with pytest.raises(UserError, match=r"none of the 6 videos that the lists in .* name is in .*, for instance .*avi"):
        list_ucf101(tmp_path, "train", 1)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("../../x.avi 1", "leads out of"), ("/etc/x.avi", "leads out of"), ("YoYo/../../../x.avi 3", "leads out of"),
        ("YoYo/v_YoYo_g01_c01.avi 1", "the number 1, which classInd.txt says is ApplyEyeMakeup"),
        ("YoYo/v_YoYo_g01_c01.avi 4", "classInd.txt has 3 classes"), ("No/v_No_g01_c01.avi", "has no class No"),
        ("v_No_g01_c01.avi", "has no class"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_is_refused(line, told, tmp_path):
    write(tmp_path)
    (tmp_path / "ucfTrainTestlist" / "testlist01.txt").write_text(TEST_LIST + line)
    with pytest.raises(UserError, match=told):
        list_ucf101(tmp_path, "test", 1)


def test_lists_that_say_nothing_are_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "ucfTrainTestlist" / "testlist01.txt").write_text("\n \n")
    with pytest.raises(UserError, match=r"testlist01.txt is empty: put the original in its place"):
        list_ucf101(tmp_path, "test", 1)
    (tmp_path / "ucfTrainTestlist" / "classInd.txt").write_text("1 YoYo\n2 YoYo\n")
    with pytest.raises(UserError, match=r"line 2: expected '2 ClassName', each class once, found '2 YoYo'"):
        list_ucf101(tmp_path, "test", 1)
    with pytest.raises(UserError, match=r"UCF-101 has no validation split.*split=test"):
        list_ucf101(tmp_path, "val", 1)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_mixture_of_places_and_spellings_gives_every_video_once(data):
    """Each video lies in some folder, in some case, with some suffix."""
    with tempfile.TemporaryDirectory() as folder:
        root = write(Path(folder))
        for name in (*TRAIN, *TEST):
            moved = data.draw(st.sampled_from(("UCF-101/{}", "{}", "videos/{}", "UCF-101/{}/more"))).format(
                os.path.dirname(name)
            )
            stem = data.draw(st.sampled_from((str, str.lower)))(Path(name).stem)
            suffix = data.draw(st.sampled_from((".avi", ".AVI", ".mp4")))
            (root / moved).mkdir(parents=True, exist_ok=True)
            (root / "UCF-101" / name).rename(root / moved / f"{stem}{suffix}")
        listings = {split: list_ucf101(root, split, 1) for split in ("train", "test", "all")}
        for split, names in (("train", TRAIN), ("test", TEST), ("all", TRAIN + TEST)):
            seen = [(Path(f.path).stem.lower(), CLASSES[f.label]) for f in listings[split].files]
            assert seen == [(stem.lower(), name) for stem, name in expected(names)]
        assert listings["all"].files == listings["train"].files + listings["test"].files
