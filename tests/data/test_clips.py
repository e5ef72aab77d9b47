"""The clip data set, its samplers and its loaders, on real files."""

import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from video_fixtures import decode_all, moving_frames, write_class_folders, write_ucf101, write_uneven_h264

from evagen.config import check_config, load_config, save_config
from evagen.data.clips import (
    Clip,
    ClipDataset,
    DataConfig,
    EndlessSampler,
    SkippedClip,
    collate_clips,
    ordered_loader,
    report_skipped,
    train_loader,
)
from evagen.data.square_clips import fit_square
from evagen.data.video_writer import write_video
from evagen.errors import UserError


def config(root, **settings_):
    defaults = {"root": root, "layout": "folder", "frames": 4, "size": 32}
    return DataConfig(**{**defaults, **settings_})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine videos of 20 frames in three classes."""
    root = tmp_path_factory.mktemp("folder")
    write_class_folders(root, {"ants": 5, "bees": 1, "cats": 3})
    return root


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
    assert [(skip.path[-18:], "No such file" in skip.reason) for skip in dataset.skipped] == [
        ("v_YoYo_g02_c01.avi", True)
    ]
    with pytest.raises(UserError, match=r"no list at .*trainlist02.txt .*testlist01.txt.*layout=folder"):
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
    with pytest.raises(UserError, match=r"no videos in .*looked for .avi"):
        ClipDataset(config(tmp_path))
    (tmp_path / "bad.avi").write_text("not a video")
    with pytest.raises(UserError, match=r"no usable video in .*\n1 of 1 files skipped:\n.*bad.avi: cannot"):
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
    with pytest.raises(UserError, match=r"csv=lists is for layout=kinetics; the layout of .* is ucf101"):
        ClipDataset(load_config(DataConfig, tmp_path / "data.yaml", ["csv=lists"]))
    with pytest.raises(UserError, match=rf"no usable video in {ucf101} or {kinetics}\n8 of 8 files skipped"):
        ClipDataset(load_config(DataConfig, tmp_path / "data.yaml", [*overrides, "frames=99"]))


def test_an_unknown_key_is_refused(tmp_path):
    values = {"root": "x", "layout": "folder", "strid": 2}
    with pytest.raises(UserError, match="unknown key 'strid'; the nearest known key is 'stride'"):
        check_config(DataConfig, values, "data.yaml")


# Items


def test_unusable_files_are_listed_and_do_not_stop_the_rest(tmp_path):
    write_video(tmp_path / "good.avi", moving_frames(20, 120, 160), 25)
    data = (tmp_path / "good.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.avi").write_bytes(b"")
    (tmp_path / "text.avi").write_text("not a video")
    write_video(tmp_path / "short.mp4", moving_frames(15), 25)
    dataset = ClipDataset(config(tmp_path, frames=8, stride=2, clip="first"))
    assert [path[-8:] for path in dataset.paths] == ["good.avi", "hort.mp4"]  # 15 frames are just enough
    reasons = {skip.path.split("/")[-1]: skip.reason for skip in dataset.skipped}
    assert set(reasons) == {"cut.avi", "empty.avi", "text.avi"}
    assert reasons["cut.avi"].endswith("a clip needs 15")
    assert dataset.num_files == 5


def test_a_file_that_breaks_later_is_skipped_in_its_batch(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"{number}.avi", moving_frames(8, seed=number), 25)
    dataset = ClipDataset(config(tmp_path))
    (tmp_path / "1.avi").write_bytes(b"gone")
    batches = list(ordered_loader(dataset, batch_size=2))
    assert [batch.index.tolist() for batch in batches] == [[0], [2]]
    assert [len(batch.skipped) for batch in batches] == [1, 0]
    (tmp_path / "0.avi").unlink()
    empty = next(iter(ordered_loader(dataset, batch_size=2)))
    assert not empty
    assert (len(empty), empty.video.shape[0], empty.label.shape) == (0, 0, (0,))
    assert len(empty.skipped) == 2


def test_clip_places(tmp_path):
    write_uneven_h264(tmp_path / "video.mp4", moving_frames(29, 32, 32))
    frames = decode_all(tmp_path / "video.mp4")
    starts = {
        place: [clip.start for clip in ClipDataset(config(tmp_path, clip=place, frames=4, stride=2))]
        for place in ("first", "centre", "all")
    }
    assert starts == {"first": [0], "centre": [11], "all": [0, 8, 16]}  # a clip spans 7 frames
    clip = ClipDataset(config(tmp_path, clip="all", frames=4, stride=2))[2]
    expected = torch.from_numpy(frames[16:23:2]).permute(3, 0, 1, 2) / 127.5 - 1
    assert torch.allclose(clip.video, expected, atol=1e-6)
    assert clip.video.shape == (3, 4, 32, 32)


@settings(max_examples=10, deadline=None)
@given(num_frames=st.integers(1, 24), frames=st.integers(1, 6), stride=st.integers(1, 3))
def test_all_clips_are_disjoint_and_leave_no_room_for_another(tmp_path_factory, num_frames, frames, stride):
    root = tmp_path_factory.mktemp("all")
    write_video(root / "video.avi", moving_frames(num_frames, 32, 32), 25)
    span = (frames - 1) * stride + 1
    settings_ = config(root, clip="all", frames=frames, stride=stride)
    if num_frames < span:
        with pytest.raises(UserError, match="too short"):
            ClipDataset(settings_)
        return
    used = [set(range(clip.start, clip.start + span, stride)) for clip in ClipDataset(settings_)]
    assert sum(map(len, used)) == len(set().union(*used))
    assert max(max(clip) for clip in used) < num_frames
    assert num_frames - (len(used) * frames * stride) < span


def test_random_parts_change_with_the_epoch_and_the_seed_only(folder):
    dataset = ClipDataset(config(folder, frames=3, crop="random", flip=True))
    again = pickle.loads(pickle.dumps(ClipDataset(config(folder, frames=3, crop="random", flip=True))))
    keys = list(range(3 * len(dataset)))
    first = [dataset[key] for key in keys]
    for key in reversed(keys):
        assert torch.equal(again[key].video, first[key].video)
    assert len({clip.start for clip in first if clip.index == 0}) > 1
    assert all(clip.index == key % len(dataset) for key, clip in zip(keys, first))
    other = ClipDataset(config(folder, frames=3, crop="random", flip=True, seed=1))
    assert [other[key].start for key in keys] != [clip.start for clip in first]


def test_flip_mirrors_half_and_random_crop_stays_inside(folder):
    straight = ClipDataset(config(folder, clip="first", classes=["bees"]))
    flipping = ClipDataset(config(folder, clip="first", classes=["bees"], flip=True))
    mirrored = [not torch.equal(flipping[key].video, straight[0].video) for key in range(100)]
    assert 30 < sum(mirrored) < 70
    assert torch.equal(flipping[mirrored.index(True)].video.flip(-1), straight[0].video)
    frames = moving_frames(1, 32, 40)
    views = [fit_square(frames, 32, place) for place in np.linspace(0, 0.999, 50)]
    whole = torch.from_numpy(frames).permute(3, 0, 1, 2) / 127.5 - 1
    assert all(view.shape == (3, 1, 32, 32) for view in views)
    lefts = [next(x for x in range(9) if torch.allclose(view, whole[..., x : x + 32])) for view in views]
    assert set(lefts) == set(range(9))


@pytest.mark.parametrize("shape", [(240, 320), (121, 161), (320, 180), (40, 30), (64, 64), (210, 160)])
def test_preprocessing_equals_torchvision(shape):
    from torchvision.transforms.v2 import functional as reference

    frames = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    video = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    resized = reference.resize(video, [64], interpolation=reference.InterpolationMode.BILINEAR, antialias=True)
    expected = reference.center_crop(resized, [64, 64]).permute(1, 0, 2, 3)
    assert torch.allclose(fit_square(frames, 64), expected, atol=1e-5)


def test_report_shortens_long_lists():
    lines = []
    report_skipped([], 10, lines.append)
    assert lines == []
    report_skipped([SkippedClip(f"{i}.avi", "why") for i in range(23)], 100, lines.append)
    assert (lines[0], lines[1], lines[-2]) == ("23 of 100 files skipped:", "  0.avi: why", "  and 3 more")
    assert len(lines) == 23
    assert "evagen data scan" in lines[-1]
    lines.clear()
    report_skipped([SkippedClip("a.avi", "why"), SkippedClip("b.avi", "why")] * 3, 100, lines.append)
    assert lines[:3] == ["2 of 100 files skipped:", "  a.avi: why", "  b.avi: why"]


def test_collate_keeps_everything_in_step():
    clips = [Clip(torch.full((3, 2, 4, 4), i / 9), i, 10 + i, f"{i}.avi", 5 * i) for i in range(3)]
    batch = collate_clips([clips[2], SkippedClip("bad.avi", "why"), clips[0]])
    assert len(batch) == 2
    assert torch.equal(batch.video, torch.stack([clips[2].video, clips[0].video]))
    assert (batch.label.tolist(), batch.index.tolist()) == ([2, 0], [12, 10])
    assert (batch.paths, batch.starts) == (["2.avi", "0.avi"], [10, 0])
    assert batch.skipped == [SkippedClip("bad.avi", "why")]


# Samplers and loaders


@given(num_items=st.integers(1, 40), start=st.integers(0, 200), seed=st.integers(0, 5))
def test_endless_sampler_covers_every_epoch_and_resumes(num_items, start, seed):
    keys = list(islice(EndlessSampler(num_items, seed), start + 50))
    assert list(islice(EndlessSampler(num_items, seed, start), 50)) == keys[start:]
    for epoch in range(len(keys) // num_items):
        part = keys[epoch * num_items : (epoch + 1) * num_items]
        assert sorted(part) == list(range(epoch * num_items, (epoch + 1) * num_items))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [list(islice(EndlessSampler(50, seed), 100)) for seed in (0, 1)]
    assert orders[0][:50] != orders[1][:50]
    assert orders[0][:50] != [key - 50 for key in orders[0][50:]]


def content(batches):
    return [(batch.index.tolist(), batch.starts, batch.video) for batch in batches]


def same(left, right):
    return len(left) == len(right) and all(a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in zip(left, right))


def test_workers_and_resuming_do_not_change_training_batches(folder):
    dataset = ClipDataset(config(folder, crop="random", flip=True))
    alone = content(islice(train_loader(dataset, 4, seed=3), 6))
    assert same(alone, content(islice(train_loader(dataset, 4, seed=3, num_workers=2), 6)))
    assert same(alone[4:], content(islice(train_loader(dataset, 4, seed=3, start_step=4), 2)))


def test_processes_together_make_the_same_step(folder):
    dataset = ClipDataset(config(folder))
    alone = content(islice(train_loader(dataset, 6, seed=3, start_step=1), 3))
    shares = [
        content(islice(train_loader(dataset, 2, seed=3, start_step=1, process_index=p, num_processes=3), 3))
        for p in range(3)
    ]
    for step, (indices, starts, video) in enumerate(alone):
        assert [index for share in shares for index in share[step][0]] == indices
        assert [start for share in shares for start in share[step][1]] == starts
        assert torch.equal(torch.cat([share[step][2] for share in shares]), video)


class _Indices(torch.utils.data.Dataset):
    """Stands for a data set without decoding anything."""

    def __init__(self, num_items):
        self.num_items = num_items

    def __len__(self):
        return self.num_items

    def __getitem__(self, key):
        return Clip(torch.zeros(3, 1, 1, 1), 0, key, "", 0)


@settings(deadline=None)
@given(num_items=st.integers(1, 40), batch_size=st.integers(1, 9), num_processes=st.integers(1, 6))
def test_ordered_loader_gives_each_item_to_one_process(num_items, batch_size, num_processes):
    batches = [
        list(ordered_loader(_Indices(num_items), batch_size, 0, process, num_processes))
        for process in range(num_processes)
    ]
    indices = [index for share in batches for batch in share for index in batch.index.tolist()]
    assert sorted(indices) == list(range(num_items))
    sizes = [sum(len(batch) for batch in share) for share in batches]
    assert max(sizes) - min(sizes) <= 1
    assert all(len(batch) == batch_size for share in batches for batch in share[:-1])


def test_ordered_loader_with_workers_keeps_the_order(folder):
    dataset = ClipDataset(config(folder, clip="all"))
    batches = list(ordered_loader(dataset, 7, num_workers=2))
    assert [index for batch in batches for index in batch.index.tolist()] == list(range(9 * 5))
