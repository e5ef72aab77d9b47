"""Arcade data: the same files whoever writes them, resumable, readable as UCF-101."""

import subprocess
import sys

import av
import numpy as np
import pytest
from video_fixtures import decode_all

from evagen.data import arcade
from evagen.data.arcade import PREFERRED_GAMES, build_arcade, class_name
from evagen.data.clips import ClipDataset
from evagen.data.sources import DataConfig
from evagen.errors import UserError

pytest.importorskip("ale_py")

ARGUMENTS = {"games": ["ms_pacman", "freeway"], "clips_per_game": 10, "seed": 5}


def videos(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.avi"))}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("arcade") / "data"
    return out, build_arcade(out, **ARGUMENTS, workers=2)


def test_layout(built):
    out, summary = built
    assert summary.class_names == ["Freeway", "MsPacman"]
    assert (summary.written, summary.kept, summary.left_out) == (20, 0, {})
    assert (summary.train_clips, summary.test_clips) == (16, 4)
    assert sorted(path.name for path in out.iterdir()) == [
        "Freeway",
        "MsPacman",
        "arcade.json",
        "ucfTrainTestlist",
    ]
    assert (out / "ucfTrainTestlist" / "classInd.txt").read_text() == "1 Freeway\n2 MsPacman\n"
    frames = decode_all(out / "MsPacman" / "v_MsPacman_g10_c01.avi")
    assert frames.shape == (16, 210, 160, 3)


def test_the_clip_data_set_reads_it_with_groups_on_one_side(built):
    out, _ = built
    sides = {
        split: ClipDataset(DataConfig(root=out, layout="ucf101", split=split, size=64)) for split in ("train", "test")
    }
    assert (len(sides["train"]), len(sides["test"])) == (16, 4)
    assert sides["train"].class_names == ["Freeway", "MsPacman"]
    groups = {split: {path.rsplit("_", 1)[0] for path in side.paths} for split, side in sides.items()}
    assert not groups["train"] & groups["test"]
    clip = sides["test"][3]
    assert (clip.label, clip.video.shape) == (1, (3, 16, 64, 64))


def test_every_clip_moves_and_none_is_like_another(built):
    contents = [decode_all(built[0] / name) for name in videos(built[0])]
    for frames in contents:
        assert (np.abs(np.diff(frames.astype(int), axis=0)) > 32).any()
    assert len({frames.tobytes() for frames in contents}) == len(contents)


def test_neither_workers_nor_other_games_change_a_file(built, tmp_path):
    out, _ = built
    build_arcade(tmp_path / "alone", **{**ARGUMENTS, "games": ["boxing", "ms_pacman"]}, workers=1)
    alone = videos(tmp_path / "alone")
    shared = {name: data for name, data in videos(out).items() if name.startswith("MsPacman")}
    assert shared.items() <= alone.items()
    build_arcade(tmp_path / "other", **{**ARGUMENTS, "games": ["ms_pacman"], "seed": 6}, workers=1)
    assert not set(videos(tmp_path / "other").values()) & set(shared.values())


def test_a_fresh_process_plays_as_one_that_has_played_before(tmp_path):
    play = arcade.PlayThrough("seaquest", 3, 2, frames=4, size=None, seed=0, frame_skip=4)
    arcade.PlayThrough("seaquest", 1, 1, frames=4, size=None, seed=0, frame_skip=4).record(tmp_path / "here")
    play.record(tmp_path / "here")
    code = (
        "import sys; from pathlib import Path; from evagen.data.arcade import PlayThrough\n"
        "PlayThrough('seaquest', 3, 2, frames=4, size=None, seed=0, frame_skip=4).record(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True)
    there = videos(tmp_path / "there")
    assert len(there) == 2
    assert there.items() <= videos(tmp_path / "here").items()


def test_resuming_writes_what_is_missing_and_keeps_the_rest(built, tmp_path):
    before = videos(built[0])
    out = tmp_path / "data"
    arguments = {**ARGUMENTS, "clips_per_game": 20, "games": ["freeway"]}  # two clips in a play-through
    build_arcade(out, **arguments, workers=1)
    whole = videos(out)
    kept = out / "Freeway" / "v_Freeway_g02_c01.avi"
    time_kept = kept.stat().st_mtime_ns
    for name in ("g01_c01", "g02_c02", "g03_c01", "g03_c02"):
        (out / "Freeway" / f"v_Freeway_{name}.avi").unlink()
    summary = build_arcade(out, **arguments, workers=1)
    assert (summary.written, summary.kept) == (4, 16)
    assert videos(out) == whole
    assert kept.stat().st_mtime_ns == time_kept
    # The first clip of a play-through does not depend on how many follow.
    assert whole["Freeway/v_Freeway_g04_c01.avi"] == before["Freeway/v_Freeway_g04_c01.avi"]


def test_other_arguments_on_the_same_folder_are_refused(built, tmp_path):
    out, _ = built
    with pytest.raises(UserError, match="seed was 5, is now 6; frame_skip was 4, is now 2"):
        build_arcade(out, **{**ARGUMENTS, "seed": 6, "frame_skip": 2})
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="was not made by `evagen data arcade`"):
        build_arcade(tmp_path, games=1)


def test_size_and_rate(tmp_path):
    build_arcade(tmp_path / "small", ["adventure"], 1, frames=5, size=64, frame_skip=2, workers=1)
    frames = decode_all(tmp_path / "small" / "Adventure" / "v_Adventure_g01_c01.avi")
    assert frames.shape == (5, 100, 64, 3)  # 160 x 250 on the console
    with av.open(str(tmp_path / "small" / "Adventure" / "v_Adventure_g01_c01.avi")) as container:
        assert container.streams.video[0].average_rate == 30


def test_what_cannot_be_played(tmp_path):
    summary = build_arcade(tmp_path / "a", ["combat", "pong", "casino"], 1, frames=2, workers=1)
    assert summary.class_names == ["Pong"]
    assert summary.left_out == {
        "combat": "needs two players",
        "casino": "its screen hardly changes under random play",
    }
    with pytest.raises(UserError, match=r"no game to record \(combat: needs two players\)"):
        build_arcade(tmp_path / "b", ["combat"])
    with pytest.raises(UserError, match="no game 'ms_pacmen'; the nearest of 108 is 'ms_pacman'"):
        build_arcade(tmp_path / "b", ["ms_pacmen"])
    with pytest.raises(UserError, match="games=500: there are 1 to 95"):
        build_arcade(tmp_path / "b", 500)
    with pytest.raises(UserError, match=r"test_fraction=1\.5"):
        build_arcade(tmp_path / "b", 1, test_fraction=1.5)
    assert not (tmp_path / "b").exists()


def test_a_number_of_games_takes_the_preferred_ones_first():
    emulator = arcade._import_emulator()
    assert arcade._choose_games(3, emulator) == (list(PREFERRED_GAMES[:3]), {})
    every, left_out = arcade._choose_games(95, emulator)
    assert tuple(every[:32]) == PREFERRED_GAMES
    assert every[32:] == sorted(every[32:])
    assert len(set(every)) == 95
    assert len(left_out) == 13


def test_without_the_emulator_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UserError, match=r"pip install 'evagen\[arcade\]'"):
        build_arcade(tmp_path / "data")


def test_class_names():
    assert [class_name(game) for game in ("ms_pacman", "hero", "tic_tac_toe_3d")] == [
        "MsPacman",
        "Hero",
        "TicTacToe3d",
    ]
