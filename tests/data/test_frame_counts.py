"""Frame counts are remembered for as long as a file stays the same, and nothing else depends on it."""

import os

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


@pytest.mark.parametrize("state", ["damaged", "a file in its place"])
def test_a_useless_memory_changes_nothing(tmp_path, opened, state):
    cache = tmp_path / "cache"
    if state == "damaged":
        cache.mkdir()
        (cache / "decoded_frames.sqlite").write_bytes(b"not a database" * 100)
    else:
        cache.write_text("")
    path = str(tmp_path / "a.avi")
    write_video(path, moving_frames(4), 10)
    assert count_all_frames([path]) == [4]
    assert count_all_frames([path]) == [4]
    assert opened == ["a.avi", "a.avi"]


def test_a_missing_file_is_an_error_of_its_own(tmp_path, opened):
    assert isinstance(count_all_frames([str(tmp_path / "gone.avi")])[0], VideoError)
