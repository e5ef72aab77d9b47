"""Files that are there whole or not at all."""

import os
import tempfile
from pathlib import Path

import pytest

from evagen.kernels.files import atomic_folder, atomic_write, cache_folder


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_the_variable_names_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EVAGEN_CACHE", str(tmp_path / "kept"))
    assert cache_folder() == tmp_path / "kept"
    monkeypatch.setenv("EVAGEN_CACHE", "")
    assert cache_folder() == Path.home() / ".cache" / "evagen"
    monkeypatch.delenv("EVAGEN_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "evagen"


def test_the_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "folders" / "weights.safetensors"
    with atomic_write(target) as unfinished:
        assert not list(target.parent.iterdir())  # nothing stands in the way of the writer
        unfinished.write_text("whole")
        assert not target.exists()
        assert unfinished.parent == target.parent
        assert unfinished.name.startswith(".")
        assert str(os.getpid()) in unfinished.name
        assert unfinished.suffix == ".safetensors"
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_a_string_names_the_target_as_well(tmp_path):
    with atomic_write(str(tmp_path / "no ending")) as unfinished:
        unfinished.write_text("whole")
    assert (tmp_path / "no ending").read_text() == "whole"


def test_after_an_error_the_target_is_what_it_was(tmp_path):
    target = tmp_path / "table.json"
    target.write_text("before")
    with pytest.raises(RuntimeError, match="the disk"), atomic_write(target) as unfinished:  # noqa: PT012
        unfinished.write_text("half")
        raise RuntimeError("the disk is full")
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "table.json"):
        pass
    assert not list(tmp_path.iterdir())


def test_two_writers_at_once_do_not_meet(tmp_path):
    target = tmp_path / "table.json"
    with atomic_write(target) as first, atomic_write(target) as second:
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"  # it ended last
    assert list(tmp_path.iterdir()) == [target]


def test_permissions_are_those_of_a_plain_open(tmp_path, umask):
    """Also where the writer makes a private file, as `tempfile` does."""
    plain, written, moved = (tmp_path / name for name in ("plain", "written", "moved"))
    plain.touch()
    with atomic_write(written) as unfinished:
        unfinished.write_text("whole")
    with atomic_write(moved) as unfinished:
        handle, private = tempfile.mkstemp(dir=tmp_path)
        os.close(handle)
        os.replace(private, unfinished)
        assert unfinished.stat().st_mode & 0o777 == 0o600
    assert plain.stat().st_mode == written.stat().st_mode == moved.stat().st_mode


def test_a_folder_appears_when_the_block_ends_and_not_after_an_error(tmp_path):
    target = tmp_path / "new" / "pipeline"
    with atomic_folder(target) as unfinished:
        (unfinished / "file").write_text("whole")
        assert not target.exists()
    assert (target / "file").read_text() == "whole"
    with pytest.raises(FileExistsError, match="is there by now"), atomic_folder(target) as unfinished:
        (unfinished / "file").write_text("other")
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "new" / "stopped") as unfinished:
        (unfinished / "no" / "file").write_text("half")
    assert [each.name for each in target.parent.iterdir()] == ["pipeline"]
    assert (target / "file").read_text() == "whole"
