"""The clip data set, on real files."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from video_fixtures import config, decode_all, moving_frames, write_uneven_h264

from evagen.data.clips import ClipDataset, SkippedClip, report_skipped
from evagen.data.square_clips import fit_square
from evagen.data.video_writer import write_video
from evagen.errors import UserError


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
