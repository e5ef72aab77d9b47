"""Files that are there whole or not at all."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
from tiny_models import tiny_router

from evagen.kernels.files import atomic_folder, atomic_write, cache_folder, expand, num_cores, write_through


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


class OfRust(Exception):
    """As safetensors' own errors."""


@pytest.mark.parametrize("writer", [atomic_write, atomic_folder])
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OfRust("I/O error: No space left on device (os error 28)")],
)
def test_a_full_disk_is_named_by_the_target_whoever_finds_it(tmp_path, writer, error):
    with pytest.raises(OSError, match="No space left on device") as caught, writer(tmp_path / "out") as unfinished:  # noqa: PT012
        (unfinished / "half" if unfinished.is_dir() else unfinished).write_text("half")
        raise error
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_errors_of_other_files_and_of_no_file_stay_what_they_are(tmp_path):
    with pytest.raises(PermissionError, match="/elsewhere"), atomic_write(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere")
    with pytest.raises(PermissionError, match="/out'"), atomic_write(tmp_path / "out") as unfinished:
        raise PermissionError(errno.EACCES, "Permission denied", str(unfinished))


def test_models_are_saved_with_the_permissions_of_a_plain_open(tmp_path, umask):
    (tmp_path / "plain").touch()
    tiny_router().save_pretrained(tmp_path / "router")
    files = [each for each in (tmp_path / "router").iterdir() if each.is_file()]
    assert {each.suffix for each in files} == {".safetensors", ".json"}
    assert {each.stat().st_mode for each in files} == {(tmp_path / "plain").stat().st_mode}


def test_cores_are_counted_where_the_system_says_only_how_many_there_are(monkeypatch):
    assert 1 <= num_cores() <= (os.cpu_count() or 1)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert num_cores() == os.cpu_count()


def test_without_a_home_folder_files_are_kept_among_temporary_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("EVAGEN_CACHE")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cache_folder() == tmp_path / f"evagen-{os.getuid()}" / ".cache" / "evagen"


def test_where_users_have_no_numbers_either(monkeypatch, tmp_path):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("EVAGEN_CACHE")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delattr(os, "getuid", raising=False)
    assert cache_folder() == tmp_path / "evagen-0" / ".cache" / "evagen"


@pytest.mark.parametrize("opens_folders", [True, False])
def test_files_and_folder_are_written_through(opens_folders, monkeypatch, tmp_path):
    """Also where a folder cannot be opened, as on Windows."""
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "inner").mkdir()
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    if not opens_folders:
        monkeypatch.delattr(os, "O_DIRECTORY", raising=False)
    write_through(tmp_path)
    assert synced == [each.stat().st_ino for each in [tmp_path / "a", *[tmp_path] * opens_folders]]
    assert (tmp_path / "a").read_bytes() == b"abc"


def test_paths_as_people_write_them(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/d")
    monkeypatch.chdir(tmp_path)
    for text, meant in {
        "~": "/home/me", "~/a b": "/home/me/a b", "a~": "a~", "~other": "~other", "$DATA/x": "/d/x", "${DATA}s": "/ds",
        "a$": "a$", "a$1": "a$1", "set #2, [x]": "set #2, [x]",
    }.items():  # fmt: skip
        assert expand(text) == meant
    with pytest.raises(ValueError, match=r"\$NOWHERE stands for a variable of the environment, and it is not set"):
        expand("$NOWHERE/x")
    (tmp_path / "$NOWHERE").touch()
    assert expand("$NOWHERE") == "$NOWHERE"
    with pytest.raises(ValueError, match="empty"):
        expand("")
