"""Which videos the config of a data set means: layouts, splits, classes, several sources."""

import pytest
from video_fixtures import config, moving_frames, write_class_folders, write_ucf101

from evagen.config import check_config, load_config, save_config
from evagen.data.clips import ClipDataset
from evagen.data.sources import DataConfig
from evagen.data.video_writer import write_video
from evagen.errors import UserError


@pytest.fixture(scope="module")
def ucf101(tmp_path_factory):
    root = tmp_path_factory.mktemp("ucf")
    write_ucf101(root)
    return root


# Layouts


def test_ucf101_labels_and_splits(ucf101):
    parts = {split: ClipDataset(config(ucf101, layout="ucf101", split=split)) for split in ("train", "test", "all")}
    assert parts["train"].class_names == ["YoYo", "Archery"]
    assert {split: len(part) for split, part in parts.items()} == {"train": 4, "test": 2, "all": 6}
    assert not set(parts["train"].paths) & set(parts["test"].paths)
    for clip in parts["all"]:
        assert parts["all"].class_names[clip.label] in clip.path.split("/")[-2:][0]
    assert parts["test"].labels == [0, 1]


def test_ucf101_as_the_two_archives_unpack(tmp_path):
    write_ucf101(tmp_path)
    (tmp_path / "UCF-101").mkdir()
    for name in ("YoYo", "Archery"):
        (tmp_path / name).rename(tmp_path / "UCF-101" / name)
    assert len(ClipDataset(config(tmp_path, layout="ucf101"))) == 4


def test_missing_files_and_lists_of_ucf101(tmp_path):
    write_ucf101(tmp_path)
    (tmp_path / "YoYo" / "v_YoYo_g02_c01.avi").unlink()
    dataset = ClipDataset(config(tmp_path, layout="ucf101"))
    assert len(dataset) == 3
    assert [(skip.path[-18:], skip.reason) for skip in dataset.skipped] == [("v_YoYo_g02_c01.avi", "not in this copy")]
    with pytest.raises(
        UserError, match=r"no list at .*trainlist02.txt .*testlist01.txt.*layout of a folder without lists is folder"
    ):
        ClipDataset(config(tmp_path, layout="ucf101", split_index=2))


def test_class_folders_give_labels_and_plain_folders_do_not(folder, tmp_path):
    dataset = ClipDataset(config(folder))
    assert dataset.class_names == ["ants", "bees", "cats"]
    assert dataset.labels == [0] * 5 + [1] + [2] * 3
    write_video(tmp_path / "one.avi", moving_frames(8), 25)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write_video(tmp_path / "deep" / "er" / "two.mp4", moving_frames(8), 25)
    plain = ClipDataset(config(tmp_path))
    assert (plain.class_names, plain.labels) == ([], [-1, -1])


def test_folder_split(tmp_path):
    write_class_folders(tmp_path / "train", {"ants": 2, "bees": 1})
    with pytest.raises(UserError, match=r"has no test split.*split=all"):
        ClipDataset(config(tmp_path / "train", split="test"))
    write_class_folders(tmp_path / "test", {"ants": 1})
    sizes = {split: len(ClipDataset(config(tmp_path, split=split))) for split in ("train", "test", "all")}
    assert sizes == {"train": 3, "test": 1, "all": 4}
    assert ClipDataset(config(tmp_path, split="all")).class_names == ["ants", "bees"]


def test_classes_and_limit(folder):
    assert ClipDataset(config(folder, classes=["cats"])).labels == [2, 2, 2]
    assert ClipDataset(config(folder, without_classes=["ants", "bees"])).labels == [2, 2, 2]
    assert ClipDataset(config(folder, limit=6)).labels == [0, 0, 0, 1, 2, 2]
    with pytest.raises(UserError, match="no class 'cat'; the nearest of 3 is 'cats'"):
        ClipDataset(config(folder, classes=["cat"]))
    with pytest.raises(UserError, match="no class 'cat'; the nearest of 3 is 'cats'"):
        ClipDataset(config(folder, without_classes=["cat"]))


def test_folders_with_nothing(tmp_path):
    with pytest.raises(UserError, match="no folder at"):
        ClipDataset(config(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"no videos in .*looked for .* .avi "):
        ClipDataset(config(tmp_path))
    (tmp_path / "bad.avi").write_text("not a video")
    with pytest.raises(UserError, match=r"no usable video in .*\n1 of 1 file skipped:\n.*bad.avi: cannot"):
        ClipDataset(config(tmp_path))


# Data sets of several sources


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory):
    """Three videos in two classes, one of which UCF-101 has too; one that is broken and one that is only listed."""
    root = tmp_path_factory.mktemp("k600")
    write_class_folders(root / "train", {"YoYo": 1, "yoga": 1}, num_frames=8)
    write_class_folders(root / "val", {"yoga": 1}, num_frames=8)
    (root / "train" / "yoga" / "broken.mp4").write_text("not a video")
    (root / "train.csv").write_text("label,youtube_id,time_start,time_end,split\nyoga,abcdefghijk,0,10,train\n")
    return root


def test_several_sources_are_one_data_set(ucf101, kinetics, folder):
    more = [{"root": kinetics, "layout": "kinetics"}, {"root": folder, "layout": "folder", "split": "all"}]
    alone, dataset = (
        ClipDataset(config(ucf101, layout="ucf101")),
        ClipDataset(config(ucf101, layout="ucf101", more=more)),
    )
    assert dataset.class_names == ["YoYo", "Archery", "yoga", "ants", "bees", "cats"]
    assert dataset.paths[: len(alone)] == alone.paths
    assert dataset.labels == [0, 0, 1, 1] + [0, 2] + [3] * 5 + [4] + [5] * 3
    for clip in dataset:
        assert dataset.class_names[clip.label] in clip.path
    assert [skip.path.split("/")[-1] for skip in dataset.skipped] == ["broken.mp4", "abcdefghijk_000000_000010.mp4"]
    assert dataset.num_files == len(dataset) + 2


def test_classes_limit_and_split_reach_every_source(ucf101, kinetics, folder):
    more = [{"root": kinetics, "layout": "kinetics"}]

    def joined(**settings_):
        return ClipDataset(config(ucf101, layout="ucf101", more=more, **settings_))

    assert joined(classes=["yoga", "YoYo"]).labels == [0, 0, 0, 2]
    assert joined(limit=4).labels == [0, 0, 1, 2]
    test = joined(split="test")
    assert [("/val/" in path, label) for path, label in zip(test.paths, test.labels)] == [(0, 0), (0, 1), (1, 2)]
    own_split = config(ucf101, layout="ucf101", more=[{**more[0], "split": "val"}], split="test")
    assert ClipDataset(own_split).paths == test.paths
    assert "/val/" in ClipDataset(own_split.model_copy(update={"split": "train"})).paths[-1]
    assert ClipDataset(config(folder / "ants", more=more)).labels == [-1] * 5 + [1, 0]  # yoga, then YoYo


def test_remarks_on_a_source_are_logged(kinetics, caplog):
    ClipDataset(config(kinetics, layout="kinetics"))
    ClipDataset(config(kinetics, layout="kinetics", split="test"))
    assert [record.message.replace(str(kinetics), "ROOT") for record in caplog.records] == [
        "1 of the 1 videos that the lists of ROOT name are not in this copy",
        "ROOT has no test split, its validation split is taken",
    ]


def test_sources_on_the_command_line(ucf101, kinetics, tmp_path):
    (tmp_path / "data.yaml").write_text(f"root: {ucf101}\nlayout: ucf101\n")
    overrides = [f"more=[{{root: {kinetics}, layout: kinetics}}]", "frames=4", "size=32"]
    loaded = load_config(DataConfig, tmp_path / "data.yaml", overrides)
    assert len(ClipDataset(loaded)) == 6
    assert load_config(DataConfig, save_config(loaded, tmp_path / "again")) == loaded
    with pytest.raises(UserError, match=r"unknown key 'more.0.rot'; the nearest known key is 'more.root'"):
        load_config(DataConfig, tmp_path / "data.yaml", ["more=[{rot: x, root: y, layout: kinetics}]"])
    with pytest.raises(UserError, match=r"split_index=2 is for layout=ucf101; the layout of .* is folder"):
        ClipDataset(config(tmp_path, layout="folder", split_index=2))
    with pytest.raises(UserError, match=r"csv=lists is for layout=kinetics; the layout of .* is ucf101"):
        ClipDataset(load_config(DataConfig, tmp_path / "data.yaml", ["csv=lists"]))
    with pytest.raises(UserError, match=rf"no usable video in {ucf101} or {kinetics}\n8 of 8 files skipped"):
        ClipDataset(load_config(DataConfig, tmp_path / "data.yaml", [*overrides, "frames=99"]))


def test_an_unknown_key_is_refused(tmp_path):
    values = {"root": "x", "layout": "folder", "strid": 2}
    with pytest.raises(UserError, match="unknown key 'strid'; the nearest known key is 'stride'"):
        check_config(DataConfig, values, "data.yaml")
