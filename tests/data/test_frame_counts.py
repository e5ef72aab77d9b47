"""Frame counts are remembered for as long as a file stays the same, and nothing else depends on it."""

import os
import sqlite3

import pytest
from video_fixtures import moving_frames

from evagen.data import frame_counts
from evagen.data.frame_counts import count_all_frames
from evagen.data.video_reader import VideoError, count_frames
from evagen.data.video_writer import write_video


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """The paths that were opened, with an empty memory."""
    monkeypatch.setenv("EVAGEN_CACHE", str(tmp_path / "cache"))
    paths = []

    def watched(path):
        paths.append(os.path.basename(path))
        return count_frames(path)

    monkeypatch.setattr(frame_counts, "count_frames", watched)
    return paths


def test_only_new_and_changed_files_are_opened_again(tmp_path, opened):
    files = [str(tmp_path / f"{n}.avi") for n in (3, 5)]
    for path, n in zip(files, (3, 5)):
        write_video(path, moving_frames(n), 10)
    (tmp_path / "broken.avi").write_bytes(b"no video")
    files.append(str(tmp_path / "broken.avi"))
    assert count_all_frames(files)[:2] == [3, 5]
    opened.clear()
    counts = count_all_frames(files)
    assert counts[:2] == [3, 5]
    assert isinstance(counts[2], VideoError)
    assert opened == ["broken.avi"]
    opened.clear()
    write_video(files[0], moving_frames(7), 10)
    assert count_all_frames(files[:2]) == [7, 5]
    assert opened == ["3.avi"]


def videos_of(folder, lengths):
    paths = [str(folder / f"{n}.avi") for n in lengths]
    for path, n in zip(paths, lengths):
        write_video(path, moving_frames(n), 10)
    return paths


def test_what_is_known_of_other_files_is_not_looked_at(tmp_path, opened):
    """Of another data set there may be millions."""
    paths = videos_of(tmp_path, (3, 5))
    count_all_frames(paths)
    with sqlite3.connect(tmp_path / "cache" / "shown_frames.sqlite") as memory:
        memory.execute("INSERT INTO files VALUES ('elsewhere.avi', 1, 1, 'would be an error to read')")
    opened.clear()
    assert count_all_frames(paths) == [3, 5]
    assert not opened


def test_what_was_counted_before_the_process_was_killed_is_not_counted_again(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(frame_counts, "_TOGETHER", 2)
    paths, count = videos_of(tmp_path, (3, 4, 5, 6, 7)), frame_counts.count_frames

    def until_killed(path):
        if path == paths[-1]:
            raise KeyboardInterrupt
        return count(path)

    monkeypatch.setattr(frame_counts, "count_frames", until_killed)
    with pytest.raises(KeyboardInterrupt):
        count_all_frames(paths)
    monkeypatch.setattr(frame_counts, "count_frames", count)
    opened.clear()
    assert count_all_frames(paths) == [3, 4, 5, 6, 7]
    assert opened == ["7.avi"]


def test_processes_of_a_machine_share_the_first_look(tmp_path, opened, monkeypatch):
    """The second comes to the files of the first when these are known."""
    monkeypatch.setattr(frame_counts, "_TOGETHER", 2)
    paths, count = videos_of(tmp_path, (3, 4, 5, 6, 7)), frame_counts.count_frames
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    mine = []

    def meanwhile(path):
        mine.append(os.path.basename(path))
        if len(mine) == 1:
            monkeypatch.setenv("LOCAL_RANK", "0")
            monkeypatch.setattr(frame_counts, "count_frames", count)
            assert count_all_frames(paths[:2]) == [3, 4]
            monkeypatch.setattr(frame_counts, "count_frames", meanwhile)
        return count(path)

    monkeypatch.setattr(frame_counts, "count_frames", meanwhile)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert count_all_frames(paths) == [3, 4, 5, 6, 7]
    assert sorted(mine) == ["5.avi", "6.avi", "7.avi"]


@pytest.mark.parametrize("state", ["damaged", "a file in its place"])
def test_a_useless_memory_changes_nothing(tmp_path, opened, state):
    cache = tmp_path / "cache"
    if state == "damaged":
        cache.mkdir()
        (cache / "shown_frames.sqlite").write_bytes(b"not a database" * 100)
    else:
        cache.write_text("")
    path = str(tmp_path / "a.avi")
    write_video(path, moving_frames(4), 10)
    assert count_all_frames([path]) == [4]
    assert count_all_frames([path]) == [4]
    assert opened == ["a.avi", "a.avi"]


def test_a_missing_file_is_an_error_of_its_own(tmp_path, opened):
    assert isinstance(count_all_frames([str(tmp_path / "gone.avi")])[0], VideoError)
