"""Kinetics as copies of it really are, and what all layouts promise. Listing opens no file, so most are empty here."""

import csv
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_fixtures import moving_frames, write_h264, write_ucf101, write_uneven_h264

from evagen.data.clips import ClipDataset
from evagen.data.kinetics import list_kinetics
from evagen.data.layouts import Listing, VideoFile, join, list_folder
from evagen.data.sources import DataConfig
from evagen.data.square_clips import fit_square
from evagen.data.video_reader import read_frames
from evagen.data.video_writer import write_video
from evagen.errors import UserError

IDS = [f"{letter}_{letter * 3}-{letter * 5}" for letter in "abcdefghij"]  # eleven characters, as YouTube's


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write_list(path: Path, *rows: tuple, header: str = "label,youtube_id,time_start,time_end,split") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])


def contents(root: Path, listing: Listing) -> dict[str, str]:
    """Class name of each video, by its path in the tree."""
    return {str(Path(file.path).relative_to(root)): listing.class_names[file.label] for file in listing.files}


def lost(listing: Listing) -> dict[str, str]:
    return {Path(video.path).name: video.reason for video in listing.left_out}


# Class folders


def test_class_folders_in_splits(tmp_path):
    put(tmp_path, f"train/abseiling/{IDS[0]}_000001_000011.mp4", f"train/yoga/{IDS[1]}_000001_000011.mp4")
    put(tmp_path, f"val/yoga/{IDS[2]}_000001_000011.mp4", f"val/yoga/._{IDS[2]}_000001_000011.mp4")
    train, val, both = (list_kinetics(tmp_path, split) for split in ("train", "val", "all"))
    assert contents(tmp_path, train) == {
        f"train/abseiling/{IDS[0]}_000001_000011.mp4": "abseiling",
        f"train/yoga/{IDS[1]}_000001_000011.mp4": "yoga",
    }
    assert contents(tmp_path, val) == {f"val/yoga/{IDS[2]}_000001_000011.mp4": "yoga"}
    assert train.class_names == val.class_names == ["abseiling", "yoga"]  # a label means the same in both
    assert both.files == train.files + val.files
    assert not train.left_out
    assert not train.remarks


def test_test_is_val_only_where_there_is_no_test_split(tmp_path):
    put(tmp_path, f"train/yoga/{IDS[0]}.mp4", f"validate/yoga/{IDS[1]}.mp4")
    listing = list_kinetics(tmp_path, "test")
    assert listing.files == list_kinetics(tmp_path, "val").files
    assert listing.remarks == [f"{tmp_path} has no test split, its validation split is taken"]
    put(tmp_path, f"test/yoga/{IDS[2]}.mp4")
    assert list(contents(tmp_path, list_kinetics(tmp_path, "test"))) == [f"test/yoga/{IDS[2]}.mp4"]


def test_a_class_spelt_differently_is_the_same_class(tmp_path):
    names = ["mountain climber (exercise)", "mountain_climber_(exercise)", "Mountain_climber__exercise_"]
    put(tmp_path, f"train/{names[0]}/{IDS[0]}.mp4", f"val/{names[1]}/{IDS[1]}.mp4", f"test/{names[2]}/{IDS[2]}.mp4")
    put(tmp_path, f"train/yoga/{IDS[3]}.mp4")
    listing = list_kinetics(tmp_path, "all")
    assert len(listing.class_names) == 2
    assert [file.label for file in listing.files] == [0, 1, 0, 0]
    write_list(tmp_path / "train.csv", (names[0], IDS[0], 1, 11, "train"), ("yoga", IDS[3], 1, 11, "train"))
    assert list_kinetics(tmp_path, "all").class_names == [names[0], "yoga"]  # the list's own spelling


def test_class_folders_without_split_folders_are_all_training(tmp_path):
    put(tmp_path, f"yoga/{IDS[0]}.mp4", f"abseiling/{IDS[1]}.webm")
    for split in ("train", "all"):
        assert list(contents(tmp_path, list_kinetics(tmp_path, split)).values()) == ["abseiling", "yoga"]
    with pytest.raises(UserError, match=r"has no val split; data.split=all.*ROOT/train/CLASS/ID_START_END.mp4"):
        list_kinetics(tmp_path, "val")


def test_folders_count_for_more_than_incomplete_lists(tmp_path):
    """The lists that come with the archived copy lack half of its validation videos."""
    put(tmp_path, f"val/yoga/{IDS[0]}_000001_000011.mp4", f"val/yoga/{IDS[1]}_000001_000011.mp4")
    put(tmp_path, f"train/abseiling/{IDS[2]}_000001_000011.mp4")
    write_list(tmp_path / "val.csv", ("yoga", IDS[0], 1, 11, "val"), ("abseiling", IDS[3], 1, 11, "val"))
    listing = list_kinetics(tmp_path, "val")
    assert list(contents(tmp_path, listing).values()) == ["yoga", "yoga"]
    assert lost(listing) == {f"{IDS[3]}_000001_000011.mp4": "not in this copy"}
    assert listing.remarks == [f"1 of the 2 videos that the lists of {tmp_path} name are not in this copy"]


# Loose files with lists


def test_loose_files_take_class_and_split_from_the_lists(tmp_path):
    put(tmp_path, f"{IDS[0]}_000017_000027.mp4", f"{IDS[1]}.mkv", f"{IDS[2]}_5_15.mp4", f"deep/{IDS[3]}-trimmed.mp4")
    put(tmp_path, "stranger.mp4")
    rows = [("yoga", IDS[0], 17, 27, "train"), ("abseiling", IDS[1], 3, 13, "train"), ("yoga", IDS[4], 0, 10, "train")]
    write_list(tmp_path / "annotations" / "train.csv", *rows)
    write_list(
        tmp_path / "annotations" / "validate.csv",
        ("abseiling", IDS[2], 5, 15), ("yoga", IDS[3], 9, 19), header="label,youtube_id,time_start,time_end",
    )  # fmt: skip
    train, val = list_kinetics(tmp_path, "train"), list_kinetics(tmp_path, "val")
    assert contents(tmp_path, train) == {f"{IDS[0]}_000017_000027.mp4": "yoga", f"{IDS[1]}.mkv": "abseiling"}
    assert contents(tmp_path, val) == {f"{IDS[2]}_5_15.mp4": "abseiling", f"deep/{IDS[3]}-trimmed.mp4": "yoga"}
    assert lost(train) == {f"{IDS[4]}_000000_000010.mp4": "not in this copy", "stranger.mp4": lost(val)["stranger.mp4"]}
    assert lost(val) == {"stranger.mp4": "in no list, so of no split"}


def test_split_folders_of_loose_files_with_one_class_folder_among_them(tmp_path):
    """How the archives of Kinetics-600 unpack: one of them holds a folder, the others loose files."""
    put(tmp_path, f"val/{IDS[0]}_000001_000011.mp4", f"val/mountain climber (exercise)/{IDS[1]}_000001_000011.mp4")
    rows = [("yoga", IDS[0], 1, 11, "val"), ("mountain climber (exercise)", IDS[2], 1, 11, "val")]
    write_list(tmp_path / "lists" / "val.csv", *rows)
    listing = list_kinetics(tmp_path, "val", tmp_path / "lists" / "val.csv")
    assert list(contents(tmp_path, listing).values()) == ["yoga", "mountain climber (exercise)"]
    assert contents(tmp_path, list_kinetics(tmp_path, "val", tmp_path / "lists")) == contents(tmp_path, listing)


def test_a_folder_that_is_no_class_is_told_by_its_videos(tmp_path):
    put(tmp_path, f"part_1/{IDS[0]}.mp4", f"part_1/{IDS[1]}.mp4", f"yoga/{IDS[2]}.mp4", f"zumba/{IDS[3]}.mp4")
    rows = [("yoga", IDS[0], 1, 11, "train"), ("abseiling", IDS[4], 1, 11, "train")]
    write_list(tmp_path / "train.csv", *rows, header="label,youtube_id,time_start,time_end")
    listing = list_kinetics(tmp_path, "all")
    assert listing.class_names == ["abseiling", "yoga", "zumba"]  # zumba is in no list, but nothing says otherwise
    assert list(contents(tmp_path, listing).values()) == ["yoga", "yoga", "zumba"]
    assert lost(listing)[f"{IDS[1]}.mp4"] == "neither in a class folder nor in a list with labels"


def test_two_parts_of_one_video_are_told_apart_by_their_start(tmp_path):
    put(tmp_path, f"{IDS[0]}_000001_000011.mp4", f"{IDS[0]}_000050_000060.mp4")
    write_list(tmp_path / "all.csv", ("yoga", IDS[0], 50, 60, "train"), ("abseiling", IDS[0], 1, 11, "train"))
    assert list(contents(tmp_path, list_kinetics(tmp_path, "train")).values()) == ["abseiling", "yoga"]


def test_a_list_without_labels_says_so(tmp_path):
    put(tmp_path, f"train/{IDS[0]}.mp4", f"test/{IDS[1]}.mp4")
    write_list(tmp_path / "train.csv", ("yoga", IDS[0], 1, 11, "train"))
    write_list(tmp_path / "test.csv", (IDS[1], 1, 11, "test"), header="youtube_id,time_start,time_end,split")
    with pytest.raises(UserError, match=rf"{IDS[1]}.mp4 is neither in a class folder nor in a list with labels"):
        list_kinetics(tmp_path, "test")
    assert len(list_kinetics(tmp_path, "all").files) == 1


SPELLINGS = ("{}", "{}_000007_000017", "{}_7_17")
CLASSES = ("bee keeping", "massaging person's head", "mountain climber (exercise)", "yoga")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(("train", "val")), st.sampled_from(CLASSES), st.sampled_from(SPELLINGS)),
        min_size=1, max_size=len(IDS),
    ),
    st.sampled_from(("folders", "spelt folders", "split folders and lists", "lists")),
)  # fmt: skip
def test_every_way_of_storing_gives_the_same_classes_and_splits(videos, way):
    with tempfile.TemporaryDirectory() as folder:
        root, expected = Path(folder), {}
        for youtube_id, (split, name, spelling) in zip(IDS, videos):
            path = f"{spelling.format(youtube_id)}.mp4"
            if way != "lists":
                spelt = "".join(c if c.isalnum() else "_" for c in name) if way.startswith("spelt") else name
                path = f"{split}/{spelt}/{path}" if way.endswith("folders") else f"{split}/{path}"
            put(root, path)
            expected[path] = (split, name)
        rows = [(name, youtube_id, 7, 17, split) for youtube_id, (split, name, _) in zip(IDS, videos)]
        if way.endswith("lists"):
            write_list(root / "kinetics.csv", *rows)
        found = {}
        for split in {split for split, _ in expected.values()}:
            listing = list_kinetics(root, split)
            assert not listing.left_out
            assert listing.class_names == list_kinetics(root, "all").class_names
            found |= {path: (split, name) for path, name in contents(root, listing).items()}
        if way == "spelt folders":
            expected = {p: (s, "".join(c if c.isalnum() else "_" for c in name)) for p, (s, name) in expected.items()}
        assert found == expected


# What is told and refused


def test_one_video_in_two_splits_is_reported(tmp_path):
    put(tmp_path / "a", f"train/yoga/{IDS[0]}_000001_000011.mp4", f"val/yoga/{IDS[0]}_000050_000060.mp4")
    remark = "1 YouTube id is both in train and val of {}, for instance " + IDS[0]
    for split in ("train", "val"):
        assert list_kinetics(tmp_path / "a", split).remarks == [remark.format(tmp_path / "a")]
    put(tmp_path / "b", f"{IDS[0]}_000001_000011.mp4", f"{IDS[1]}.mp4")
    write_list(tmp_path / "b" / "train.csv", ("yoga", IDS[0], 1, 11, "train"), ("yoga", IDS[1], 1, 11, "train"))
    write_list(tmp_path / "b" / "val.csv", ("yoga", IDS[0], 1, 11, "val"), ("yoga", IDS[2], 1, 11, "val"))
    train, val = list_kinetics(tmp_path / "b", "train"), list_kinetics(tmp_path / "b", "val")
    renamed = f"1 video in {tmp_path / 'b'} has another name than the lists say; videos are known by their ids"
    assert train.remarks == [renamed, remark.format(tmp_path / "b")]
    assert list(contents(tmp_path / "b", train)) == [f"{IDS[1]}.mp4"]  # what is validated on is not trained on
    assert list(contents(tmp_path / "b", val)) == [f"{IDS[0]}_000001_000011.mp4"]


def test_other_tables_in_the_root_are_left_aside_and_refused_if_given(tmp_path):
    put(tmp_path, f"train/yoga/{IDS[0]}.mp4")
    write_list(tmp_path / "notes.csv", ("a", "b"), header="who,what")
    assert list_kinetics(tmp_path, "train").remarks == [
        f"{tmp_path / 'notes.csv'} is no Kinetics list: it has the columns who, what, and such a list begins with the "
        "line label,youtube_id,time_start,time_end,split"
    ]
    with pytest.raises(UserError, match="has the columns who, what, and such a list begins with the line label,youtub"):
        list_kinetics(tmp_path, "train", tmp_path / "notes.csv")
    with pytest.raises(UserError, match=r"no list at .*gone.csv: `csv` should be a Kinetics list such as train.csv"):
        list_kinetics(tmp_path, "train", tmp_path / "gone.csv")
    write_list(tmp_path / "train.csv", ("yoga", IDS[0], "start", 11, "train"))
    with pytest.raises(UserError, match=rf"train.csv, line 2: expected label,youtube_id.*found 'yoga,{IDS[0]},start"):
        list_kinetics(tmp_path, "train")


def test_nothing_to_be_found_is_explained(tmp_path):
    with pytest.raises(UserError, match="no folder at"):
        list_kinetics(tmp_path / "absent", "train")
    with pytest.raises(UserError, match=r"no videos in .*looked for .* .avi .*ROOT/train/CLASS"):
        list_kinetics(tmp_path, "train")
    put(tmp_path, f"train/{IDS[0]}.mp4")
    with pytest.raises(UserError, match=r"neither in a class folder nor in a list.*train.csv and val.csv, in ROOT"):
        list_kinetics(tmp_path, "train")


def test_real_videos_of_a_copy_with_holes(tmp_path):
    write_video(tmp_path / "one.mp4", moving_frames(8, 32, 32), 25)
    for number, folder in enumerate(("train/yoga", "train/bee keeping", "val/yoga")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{IDS[number]}_000001_000011.mp4").write_bytes((tmp_path / "one.mp4").read_bytes())
    (tmp_path / "one.mp4").unlink()
    (tmp_path / "train" / "yoga" / f"{IDS[5]}_000001_000011.mp4").write_text("not a video")
    write_list(tmp_path / "train.csv", *[("yoga", youtube_id, 1, 11, "train") for youtube_id in IDS[6:9]])
    write_list(tmp_path / "val.csv", ("bee keeping", IDS[9], 1, 11, "val"))
    dataset = ClipDataset(DataConfig(root=tmp_path, layout="kinetics", frames=4, size=32))
    assert [dataset.class_names[clip.label] for clip in dataset] == ["bee keeping", "yoga"]
    assert [skip.reason for skip in dataset.skipped[1:]] == ["not in this copy"] * 3
    assert "cannot" in dataset.skipped[0].reason
    assert dataset.num_files == 6
    chosen = ClipDataset(DataConfig(root=tmp_path, layout="kinetics", frames=4, size=32, classes=["bee keeping"]))
    assert (len(chosen), chosen.skipped) == (1, [])


def test_kinetics_as_it_is_downloaded(tmp_path):
    """H.264 of odd sizes and uneven times, one file renamed, one gone, one video in both splits."""
    name = "{}_{:06d}_{:06d}.mp4".format
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    write_uneven_h264(tmp_path / "train" / name(IDS[0], 1, 11), moving_frames(30, 66, 118))
    write_uneven_h264(tmp_path / "train" / f"{IDS[1]} (1).mp4", moving_frames(20, 90, 50), index_in_front=True)
    write_h264(tmp_path / "val" / name(IDS[2], 5, 15), moving_frames(12, 75, 101), "yuv444p")
    write_h264(tmp_path / "val" / name(IDS[0], 50, 60), moving_frames(12, 48, 64))
    rows = [("yoga", IDS[0], 1, 11, "train"), ("abseiling", IDS[1], 3, 13, "train"), ("yoga", IDS[3], 7, 17, "train")]
    write_list(tmp_path / "train.csv", *rows)
    write_list(tmp_path / "val.csv", ("abseiling", IDS[2], 5, 15, "val"), ("yoga", IDS[0], 50, 60, "val"))
    found = {split: ClipDataset(kinetics_of(tmp_path, split)) for split in ("train", "val")}
    names = {split: [dataset.class_names[clip.label] for clip in dataset] for split, dataset in found.items()}
    assert names == {"train": ["yoga", "abseiling"], "val": ["yoga", "abseiling"]}
    assert all(clip.video.shape == (3, 8, 32, 32) for dataset in found.values() for clip in dataset)
    assert [skip.path for skip in found["train"].skipped] == [str(tmp_path / "train" / "yoga" / name(IDS[3], 7, 17))]
    assert list_kinetics(tmp_path, "train").remarks == [
        f"1 of the 3 videos that the lists of {tmp_path} name are not in this copy",
        f"1 video in {tmp_path} has another name than the lists say; videos are known by their ids",
        f"1 YouTube id is both in train and val of {tmp_path}, for instance {IDS[0]}",
    ]


def kinetics_of(root: Path, split: str) -> DataConfig:
    return DataConfig(root=root, layout="kinetics", split=split, frames=8, size=32)


# The other layouts


def test_ucf101_as_it_is_downloaded(tmp_path):
    """XviD in AVI, 320x240, lists with Windows line ends."""
    write_ucf101(tmp_path, num_frames=30, height=240, width=320)
    dataset = ClipDataset(DataConfig(root=tmp_path, layout="ucf101", frames=16, size=128))
    assert (len(dataset), dataset.class_names, dataset.skipped) == (4, ["YoYo", "Archery"], [])
    for clip in dataset:
        exact = fit_square(read_frames(clip.path, clip.start, 16), 128)
        assert (clip.video - exact).abs().mean() < 1 / 127.5
        assert clip.video.shape == (3, 16, 128, 128)


def test_a_folders_labels_mean_the_same_in_every_split(tmp_path):
    put(tmp_path, "train/ants/1.avi", "train/bees/2.avi", "val/bees/3.avi", "val/cats/4.avi")
    train, val = list_folder(tmp_path, "train"), list_folder(tmp_path, "val")
    assert train.class_names == val.class_names == ["ants", "bees", "cats"]
    assert contents(tmp_path, val) == {"val/bees/3.avi": "bees", "val/cats/4.avi": "cats"}
    test = list_folder(tmp_path, "test")
    assert (test.files, test.class_names) == (val.files, val.class_names)
    assert test.remarks == [f"{tmp_path} has no test split, its validation split is taken"]
    put(tmp_path, "test/ants/5.avi")
    assert contents(tmp_path, list_folder(tmp_path, "test")) == {"test/ants/5.avi": "ants"}
    assert len(list_folder(tmp_path, "all").files) == 5


def test_a_folder_without_a_split_says_so(tmp_path):
    put(tmp_path, "train/ants/1.avi", "test/ants/2.avi")
    with pytest.raises(UserError, match=r"has no val split: make folders .*train and .*val; data.split=all"):
        list_folder(tmp_path, "val")
    put(tmp_path / "tested", "test/ants/2.avi")
    with pytest.raises(UserError, match=r"has no train split: make the folder .*tested/train; data.split=all"):
        list_folder(tmp_path / "tested", "train")


@given(st.lists(st.lists(st.sampled_from("abcdef"), unique=True, max_size=4), min_size=1, max_size=3))
def test_joined_listings_keep_every_class_and_share_equal_ones(class_lists):
    listings = [
        Listing([VideoFile(name, label) for label, name in enumerate(names)] + [VideoFile("none", -1)], names)
        for names in class_lists
    ]
    joined = join(listings)
    assert len(set(joined.class_names)) == len(joined.class_names)
    assert set(joined.class_names) == set().union(*class_lists)
    assert joined.class_names[: len(class_lists[0])] == class_lists[0]  # the first source's labels stay
    for file in joined.files:
        assert (joined.class_names[file.label] if file.label >= 0 else "none") == file.path
