"""Natural video: the same files for the same seed, whole works held out, a licence for every one."""

import importlib.metadata

import numpy as np
import pytest
from PIL import Image
from video_fixtures import decode_all

from evagen.data import natural
from evagen.data.camera import cut_out, draw_camera, lay_over
from evagen.data.clips import ClipDataset
from evagen.data.labelled_set import random_of
from evagen.data.natural import build_natural, clip_name, describe
from evagen.data.natural_sources import SOURCES
from evagen.data.sources import DataConfig
from evagen.data.video_writer import write_video
from evagen.errors import UserError

ARGUMENTS = {"clips": 6, "test_clips": 3, "frames": 4, "size": 32, "seed": 5, "workers": 1}
LEOPARD, BOTTLES, CARS = (
    next(source for source in SOURCES if source.name.endswith(end))
    for end in ("leopard.jpg", "bottle-detection.mp4", "car-detection.mp4")
)


def scene(seed: int, side: int = 160) -> Image.Image:
    """Smooth blobs of colour."""
    coarse = np.random.default_rng(seed).integers(0, 255, size=(8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def clones(tmp_path_factory):
    """Clones with a photograph and a video for training, and a video that is held out."""
    clones = tmp_path_factory.mktemp("clones")
    for source in (LEOPARD, BOTTLES, CARS):
        path = clones / source.package.name / source.package.folder / source.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if source.is_video:
            wide = np.asarray(scene(1, 240))
            write_video(path, np.stack([wide[40:200, shift : shift + 160] for shift in range(0, 80, 2)]), 25)
        else:
            scene(2).save(path)
    return clones


@pytest.fixture(autouse=True)
def no_packages(monkeypatch):
    """Whatever is installed here, tests see the clones alone."""

    def not_there(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", not_there)


@pytest.fixture
def built(clones, tmp_path):
    return build_natural(tmp_path / "data", clones=clones, **ARGUMENTS)


def videos(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.avi"))}


def test_every_source_has_a_free_licence_and_says_what_it_shows():
    for source in SOURCES:
        assert source.licence.startswith(("CC0 1.0", "CC BY 2.0, ", "CC BY 3.0, ", "CC BY 4.0, ", "public domain")), (
            source.name
        )
        assert source.shows
    assert len({source.name for source in SOURCES}) == len(SOURCES)


def test_whole_works_are_held_out(built):
    sides = {
        split: ClipDataset(DataConfig(root=built.out, layout="ucf101", split=split, frames=4, size=32))
        for split in ("train", "test")
    }
    assert (len(sides["train"]), len(sides["test"])) == (6, 3)
    groups = {
        split: {path.rsplit("_", 1)[0].rpartition("/")[2] for path in side.paths} for split, side in sides.items()
    }
    assert groups["test"] == {clip_name(CARS, 0).rsplit("_", 1)[0].rpartition("/")[2]}
    assert len(groups["train"]) == 2
    assert not groups["train"] & groups["test"]
    assert sides["train"].class_names == ["Animals", "Places", "Things"]


def test_equal_seeds_make_equal_files_and_a_stopped_build_goes_on(built, clones, tmp_path):
    whole = videos(built.out)
    assert len(set(whole.values())) == 9
    removed = [built.out / name for name in list(whole)[::3]]
    for path in removed:
        path.unlink()
    again = build_natural(built.out, clones=clones, **ARGUMENTS)
    assert (again.written, again.kept) == (3, 6)
    assert videos(built.out) == whole
    other = build_natural(tmp_path / "other", clones=clones, **{**ARGUMENTS, "seed": 6})
    assert not set(videos(other.out).values()) & set(whole.values())


def test_held_out_videos_are_cut_as_they_are(built, clones):
    """Every frame of a test clip is a crop of a frame of its video: light and camera are the video's own."""
    clip = decode_all(next(iter(sorted(built.out.glob("Places/*.avi")))))
    assert clip.shape == (4, 32, 32, 3)
    colours = np.asarray(scene(1, 240)).reshape(-1, 3)
    assert np.abs(clip.mean((0, 1, 2)) - colours.mean(0)).max() < 60
    assert np.abs(np.diff(clip.astype(int), axis=0)).mean() > 0.5


def test_what_is_missing_is_said_with_what_to_type(built, clones, tmp_path):
    text = describe(built)
    assert "pip install scikit-image" in text
    assert f"git clone --depth 1 https://github.com/mdn/shared-assets {clones / 'shared-assets'}" in text
    assert "test   sample-videos/car-detection.mp4: cars in a street, from above; CC BY 4.0, Intel Corporation" in text
    with pytest.raises(UserError, match=r"none of the photographs and videos is here(.|\n)*pip install scikit-learn"):
        build_natural(tmp_path / "none", clones=tmp_path)
    assert not (tmp_path / "none").exists()


def test_other_arguments_or_sources_on_the_same_folder_are_refused(built, clones):
    with pytest.raises(UserError, match="seed was 5, is now 7"):
        build_natural(built.out, clones=clones, **{**ARGUMENTS, "seed": 7})
    with pytest.raises(UserError, match="size=33"):
        build_natural(built.out, clones=clones, **{**ARGUMENTS, "size": 33})


def test_one_side_alone_is_refused(clones, tmp_path):
    alone = tmp_path / "clones"
    path = alone / CARS.package.name / CARS.file
    path.parent.mkdir(parents=True)
    path.write_bytes((clones / CARS.package.name / CARS.file).read_bytes())
    with pytest.raises(UserError, match="no source for training is here"):
        build_natural(tmp_path / "data", clones=alone, **ARGUMENTS)


@pytest.mark.parametrize("seed", range(6))
def test_a_camera_never_looks_past_the_edge(seed):
    """A white picture stays white: outside of a picture it would see black."""
    white = Image.new("RGB", (300, 200), "white")
    camera = draw_camera(random_of(f"camera/{seed}"), 8, *white.size)
    assert (camera.film([white] * 8, 32) == 255).all()


def test_a_calm_camera_stands_still_and_another_moves():
    picture = scene(3)
    still = draw_camera(random_of("still"), 4, *picture.size, calmness=float("inf")).film([picture] * 4, 32)
    assert (still == still[0]).all()
    moving = draw_camera(random_of("moving"), 4, *picture.size).film([picture] * 4, 32)
    assert (moving[1:] != moving[:-1]).any()


def test_a_cut_out_lets_the_picture_below_be_seen_around_it():
    random, red = random_of("cut"), Image.new("RGB", (200, 200), "red")
    camera = draw_camera(random, 4, *red.size)
    above = camera.film([cut_out(random, red, camera)] * 4, 32)
    mixed = lay_over(np.full((4, 32, 32, 3), (0, 0, 255), np.uint8), above)
    assert (mixed == (255, 0, 0)).all(-1).any()
    assert (mixed == (0, 0, 255)).all(-1).any()


def test_a_stretch_avoids_cuts():
    rows = [np.asarray(scene(seed)) for seed in (1, 2)]
    window = np.stack([np.roll(rows[number // 10], number, axis=1) for number in range(20)])
    for seed in range(8):
        frames = natural._stretch(window, random_of(f"cut/{seed}"), 4)
        changes = np.abs(np.diff(np.stack([np.asarray(frame) for frame in frames]).astype(float), axis=0)).mean(
            (1, 2, 3)
        )
        assert changes.max() < 30
