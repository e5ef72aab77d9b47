"""Data sets of the `datasets` library as a source of clips: real tables on the disk, bytes inside or files beside."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, Video
from video_fixtures import moving_frames, write_uneven_h264

from evagen.data.clips import ClipDataset
from evagen.data.huggingface import TableVideo, list_huggingface
from evagen.data.loader import clip_loader
from evagen.data.sources import DataConfig
from evagen.data.video_reader import VideoError, count_frames, read_frames
from evagen.data.video_writer import write_video
from evagen.errors import UserError

NAMES = ["yoga", "abseiling"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Four videos: XviD, and H.264 long enough to be sought in."""
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"{number}.{suffix}" for number, suffix in enumerate(("avi", "mp4", "avi", "mp4"))]
    for number, path in enumerate(paths):
        frames = moving_frames(60 if number == 3 else 20, seed=number)
        (write_uneven_h264 if path.suffix == ".mp4" else lambda p, f: write_video(p, f, 25))(path, frames)
    return [str(path) for path in paths]


def table(files, kind, labels=(0, 1, 0, 1)):
    videos = [Path(file).read_bytes() for file in files] if kind == "binary" else files
    feature = {"video": Video(), "binary": Value("binary"), "path": Value("string")}[kind]
    features = Features({"video": feature, "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({"video": videos, "label": list(labels)}, features=features)


def config(root, **changes):
    defaults = {"root": root, "layout": "huggingface", "frames": 4, "size": 32, "clip": "centre"}
    return DataConfig(**{**defaults, **changes})


@pytest.mark.parametrize("kind", ["video", "binary", "path"])
def test_clips_are_those_of_the_files(files, kind, tmp_path):
    table(files, kind).save_to_disk(tmp_path / "set")
    dataset = ClipDataset(config(tmp_path / "set", video_column="video"))
    assert (dataset.class_names, dataset.labels, dataset.skipped) == (NAMES, [0, 1, 0, 1], [])
    for clip, file in zip(dataset, files):
        alone = ClipDataset(config(str(file).rsplit("/", 1)[0], layout="folder"))
        expected = next(other for other in alone if other.path == file)
        assert clip.start == expected.start
        assert torch.equal(clip.video, expected.video)


def test_each_of_many_files_is_opened_once(tmp_path, monkeypatch):
    """Large data sets have more than a thousand, and clips are drawn from all of them in turn."""
    videos, opened, memory_map = [], [], pa.memory_map
    for number in range(300):
        cells = pa.table({"video": [b"%d" % number, None]})
        path = str(tmp_path / f"{number}.arrow")
        with pa.ipc.new_stream(path, cells.schema) as stream:
            stream.write_table(cells)
        videos.append(TableVideo(path, "video", 0))
    monkeypatch.setattr(pa, "memory_map", lambda path: opened.append(path) or memory_map(path))
    for _ in range(2):
        assert [video.open_stream().read() for video in videos] == [b"%d" % number for number in range(300)]
    assert len(opened) == 300


def test_random_access_inside_a_table_equals_that_of_the_file(files, tmp_path):
    table(files, "video").save_to_disk(tmp_path / "set", num_shards=2)
    paths = ClipDataset(config(tmp_path / "set")).paths
    assert [path.split("/")[-1] for path in paths] == [
        f"data-0000{shard}-of-00002.arrow#video[{row}]" for shard in (0, 1) for row in (0, 1)
    ]
    video = TableVideo(str(tmp_path / "set" / "data-00001-of-00002.arrow"), "video", 1)
    assert count_frames(video) == 60
    for start in (0, 13, 37, 55):
        assert np.array_equal(read_frames(video, start, 5), read_frames(files[3], start, 5))
    assert pickle.loads(pickle.dumps(video)) == video
    with pytest.raises(VideoError, match=r"arrow#video\[1\]: too short: frame 60 was asked for"):
        read_frames(video, 58, 3)


def test_workers_read_the_table_too(files, tmp_path):
    table(files, "binary").save_to_disk(tmp_path / "set")
    dataset = ClipDataset(config(tmp_path / "set", video_column="video"))
    alone, workers = (list(clip_loader(dataset, [[0, 1], [2, 3]], number)) for number in (0, 2))
    assert all(torch.equal(one.video, two.video) and one.paths == two.paths for one, two in zip(alone, workers))
    assert dataset.fingerprint() == ClipDataset(config(tmp_path / "set", video_column="video")).fingerprint()


def test_splits_and_labels_mean_the_same_in_each(files, tmp_path):
    parts = {"train": table(files[:3], "video", (0, 0, 0)), "validation": table(files[3:], "video", (1,))}
    DatasetDict(parts).save_to_disk(tmp_path / "set")
    found = {split: ClipDataset(config(tmp_path / "set", split=split)) for split in ("train", "val", "test", "all")}
    assert {split: part.labels for split, part in found.items()} == {
        "train": [0, 0, 0], "val": [1], "test": [1], "all": [0, 0, 0, 1],
    }  # fmt: skip
    DatasetDict(parts).rename_column("label", "action").cast_column("action", Value("int64")).save_to_disk(
        tmp_path / "numbers"
    )
    assert ClipDataset(config(tmp_path / "numbers")).class_names == []
    numbered = ClipDataset(config(tmp_path / "numbers", split="val", label_column="action"))
    assert (numbered.class_names, numbered.labels) == (["0", "1"], [1])
    table(files, "video").save_to_disk(tmp_path / "one")
    with pytest.raises(UserError, match=r"has no test split, it has train; data.split=all"):
        ClipDataset(config(tmp_path / "one", split="test"))


def test_a_folder_of_videos_that_the_library_can_load(files, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name, file in zip(("yoga", "abseiling"), files):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        (tmp_path / "set" / "train" / name / "1.mp4").write_bytes(Path(file).read_bytes())
    dataset = ClipDataset(config(tmp_path / "set"))
    assert dataset.class_names == ["abseiling", "yoga"]
    assert [dataset.class_names[label] in path for label, path in zip(dataset.labels, dataset.paths)] == [True, True]


def test_rows_without_a_usable_video_are_listed(files, tmp_path, caplog):
    rows = [files[0], None, "hf://datasets/someone/something/1.mp4"]
    features = Features({"clip": Value("string"), "label": Value("string")})
    broken = Dataset.from_dict(
        {"clip": [*rows, str(tmp_path / "gone.mp4")], "label": [*"abc", None]}, features=features
    )
    broken.save_to_disk(tmp_path / "set")
    dataset = ClipDataset(config(tmp_path / "set", video_column="clip"))
    assert (dataset.class_names, dataset.labels) == (["a", "b", "c"], [0])
    assert ["No such file" in dataset.skipped[0].reason, *(skip.reason[:19] for skip in dataset.skipped[1:])] == [
        True, "the row is empty", "not on this machine",
    ]  # fmt: skip
    assert f"2 rows of {tmp_path / 'set'} hold no video that is on this machine" in caplog.text
    Dataset.from_dict({"video": [b"not a video"]}).save_to_disk(tmp_path / "bad")
    with pytest.raises(UserError, match=r"no usable video in .*\n1 of 1 .*\n.*arrow#video\[0\]: cannot be read"):
        ClipDataset(config(tmp_path / "bad", video_column="video"))


def test_what_is_not_there_is_explained(files, tmp_path, monkeypatch):
    table(files, "binary").save_to_disk(tmp_path / "set")
    with pytest.raises(UserError, match=r"no columns of type Video; say with video_column.* of video, label"):
        ClipDataset(config(tmp_path / "set"))
    with pytest.raises(UserError, match=r"has no column 'clip'; it has video, label"):
        ClipDataset(config(tmp_path / "set", video_column="clip"))
    with pytest.raises(UserError, match=r"column 'label' holds int64; videos are a Video column"):
        ClipDataset(config(tmp_path / "set", video_column="label"))
    with pytest.raises(UserError, match=r"video_column=video is for layout=huggingface; the layout of .* is folder"):
        ClipDataset(config(tmp_path / "set", layout="folder", video_column="video"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"nowhere/nothing cannot be loaded as a data set of the `datasets` library"):
        ClipDataset(config("nowhere/nothing"))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", 'video,label\n"x', "CSV|tokeniz"),
        ("a.json", '{"video": [', "JSON"),
        ("a.parquet", "no", "Parquet|parquet"),
    ],
)
def test_a_damaged_table_is_told_with_its_reason(tmp_path, monkeypatch, name, content, reason):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).write_text(content)
    with pytest.raises(UserError, match=rf"cannot be loaded as a data set .*({reason})"):
        ClipDataset(config(tmp_path / "set"))


@pytest.mark.parametrize("state", ["{}", "[]"])
def test_a_saved_set_of_another_kind_is_told(tmp_path, state):
    (tmp_path / "state.json").write_text(state)
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded as a data set"):
        ClipDataset(config(tmp_path))


def test_columns_that_are_no_classes_are_refused_in_words(files, tmp_path):
    values = {"video": files[:2], "label": [["a", "b"], ["c"]]}
    Dataset.from_dict(values, features=Features({"video": Value("string"), "label": [Value("string")]})).save_to_disk(
        tmp_path / "lists"
    )
    with pytest.raises(
        UserError, match=r"column 'label' of .*lists holds several values a row .* a video has one class"
    ):
        list_huggingface(tmp_path / "lists", "train", "video", None)
    other = Features({"video": Video(), "label": ClassLabel(names=NAMES[::-1])})
    swapped = Dataset.from_dict({"video": files[2:], "label": [0, 1]}, features=other)
    DatasetDict({"train": table(files[:2], "video", (0, 1)), "test": swapped}).save_to_disk(tmp_path / "swapped")
    with pytest.raises(UserError, match=r"column 'label' of .*swapped is not the same in train, test"):
        list_huggingface(tmp_path / "swapped", "train", None, None)


def test_parts_that_are_no_splits_and_parts_without_labels(files, tmp_path):
    whole = table(files[:2], "video", (0, 1))
    parts = {"Train": whole, "unlabelled": whole.remove_columns("label"), "validation": whole.remove_columns("label")}
    DatasetDict(parts).save_to_disk(tmp_path / "set")
    listing = list_huggingface(tmp_path / "set", "all", None, None)
    assert [file.label for file in listing.files] == [0, 1, -1, -1]
    assert listing.remarks == [f"of {tmp_path / 'set'} the parts unlabelled are left out: no split is called so"]
