"""Tables made by several processes, killed and resumed: always the table of one uninterrupted process."""

import errno
import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evagen.data import clip_table as clip_table
from evagen.data import table_parts
from evagen.data.clip_table import fill_table, open_table
from evagen.data.clips import Clip, SkippedClip
from evagen.data.loader import ClipBatch
from evagen.data.lost_clips import TRIES
from evagen.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@dataclass
class Clips:
    """Stands for a data set of `count` clips, of which some cannot be decoded, without decoding anything."""

    count: int
    broken: tuple[int, ...] = ()
    name: str = "videos"
    skipped: list = field(default_factory=list)

    num_files = property(lambda self: self.count)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: int) -> Clip | SkippedClip:
        if key in self.broken:
            return SkippedClip(f"{key}.avi", "broken")
        return Clip(torch.zeros(3, 1, 1, 1), key % 3, key, f"{key}.avi", 0)

    def fingerprint(self) -> str:
        return f"{self.count} {self.name}"


class Killed(BaseException):
    pass


class Machine:
    """Counts what is computed, and dies when `lifetime` batches are done."""

    def __init__(self, lifetime: int | None = None):
        self.lifetime, self.computed, self.lock = lifetime, Counter(), threading.Lock()

    def rows_of(self, batch: ClipBatch) -> list[dict]:
        with self.lock:
            if self.lifetime == 0:
                raise Killed
            self.lifetime = self.lifetime and self.lifetime - 1
        keys = batch.index.tolist()
        self.computed.update(keys)
        return [
            {
                "codes": np.arange(key % 4 + view, dtype=np.int32),
                "key": key,
                "path": batch.paths[i],
                "beside": sum(keys),
            }
            for i, key in enumerate(keys)
            for view in (1, 2)
        ]


class Process:
    """What `fill_table` needs of an Accelerator."""

    def __init__(self, process_index: int, num_processes: int, barrier: threading.Barrier):
        self.process_index, self.num_processes, self.barrier = process_index, num_processes, barrier
        self.is_main_process = self.is_local_main_process = process_index == 0

    def wait_for_everyone(self) -> None:
        self.barrier.wait(timeout=30)


def fill(table: Path, clips: Clips, machine: Machine, num_processes: int = 1, **changes) -> None:
    """`fill_table` in several threads. The first error ends the others too, as a launcher would, and is raised."""
    barrier, errors = threading.Barrier(num_processes), []
    arguments = {"about": {"tokenizer": "a"}, "batch_size": 3, "save_seconds": 1e9, **changes}

    def process(index: int) -> None:
        try:
            fill_table(table, clips, machine.rows_of, accelerator=Process(index, num_processes, barrier), **arguments)
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            errors.append(error)
            machine.lifetime = 0
            barrier.abort()

    threads = [threading.Thread(target=process, args=(index,)) for index in range(num_processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def content(table: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(table.glob("*.arrow")))


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """The table of 20 clips, two of them broken, by one process."""
    table = tmp_path_factory.mktemp("straight") / "table"
    fill(table, Clips(20, broken=(4, 13)), Machine())
    return table


def test_rows_stand_in_the_order_of_the_data_set(straight):
    table, about = open_table(straight, "table", "tokenize")
    assert table["key"][:] == [key for key in range(20) if key not in (4, 13) for _ in range(2)]
    assert table[2] == {"codes": [0, 1], "key": 1, "path": "1.avi", "beside": 0 + 1 + 2}
    assert table[-1]["beside"] == 18 + 19
    assert about.made_from == {"videos": "20 videos", "batch_size": 3, "tokenizer": "a"}
    assert [clip.path for clip in about.skipped] == ["4.avi", "13.avi"]
    assert os.listdir(straight.parent) == ["table"]


@settings(max_examples=25, deadline=None)
@given(
    lifetimes=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), max_size=4),
    num_processes=st.integers(1, 4),
    save_seconds=st.sampled_from([0, 1e9]),
)
def test_killed_and_resumed_equals_uninterrupted(straight, tmp_path_factory, lifetimes, num_processes, save_seconds):
    """Runs of (number of processes, batches until they die), and then one that lives."""
    table, clips, computed = tmp_path_factory.mktemp("killed") / "table", Clips(20, broken=(4, 13)), Counter()
    for processes, lifetime in lifetimes:
        machine = Machine(lifetime)
        try:
            fill(table, clips, machine, processes, save_seconds=save_seconds)
        except Killed:
            assert not table.exists()
        computed += machine.computed
    machine = Machine()
    fill(table, clips, machine, num_processes)
    assert content(table) == content(straight)
    assert computed + machine.computed == Counter({key: 1 for key in range(20) if key not in (4, 13)})


@pytest.mark.parametrize("finished", [0, 1, 5])
def test_a_process_that_is_killed_outright_keeps_what_it_had_saved(straight, tmp_path, finished):
    table, clips = tmp_path / "table", Clips(20, broken=(4, 13))

    def rows_or_death(batch: ClipBatch) -> list[dict]:
        if int(batch.index[0]) >= 3 * finished:
            os.kill(os.getpid(), signal.SIGKILL)
        return Machine().rows_of(batch)

    accelerator = Process(0, 1, threading.Barrier(1))
    arguments = (table, clips, rows_or_death, {"tokenizer": "a"}, accelerator, 3, 0, 0.0)
    process = multiprocessing.get_context("fork").Process(target=fill_table, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    machine = Machine()
    fill(table, clips, machine, num_processes=2)
    assert set(machine.computed) == {key for key in range(3 * finished, 20) if key not in (4, 13)}
    assert content(table) == content(straight)


def interrupted(tmp_path: Path, batches: int = 3, clips: int = 20) -> Path:
    """The table of a run that died after some batches, each of them a part."""
    with pytest.raises(Killed):
        fill(tmp_path / "table", Clips(clips, broken=(4, 13)), Machine(batches), save_seconds=0)
    return tmp_path / "table"


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_part_that_is_cut_off_anywhere_is_computed_again(straight, tmp_path_factory, share):
    table = interrupted(tmp_path_factory.mktemp("cut"))
    parts = sorted((table.parent / "table.parts").iterdir())
    assert len(parts) == 3
    whole = parts[1].read_bytes()
    parts[1].write_bytes(whole[: int(len(whole) * share)])
    (table.parent / "table.parts" / "00000042.partial").write_bytes(whole[:50])
    machine = Machine()
    fill(table, Clips(20, broken=(4, 13)), machine)
    assert content(table) == content(straight)
    again = {key for key in machine.computed if key < 9}
    assert again in ({3, 5}, set())  # nothing at all where only the end mark was cut off


def test_a_part_that_the_disk_does_not_give_is_kept(straight, tmp_path, monkeypatch):
    """As a disk of the network that has gone for a moment, or a machine that maps no more files."""

    def gone(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    table, clips = interrupted(tmp_path), Clips(20, broken=(4, 13))
    before = {path: path.read_bytes() for path in (tmp_path / "table.parts").iterdir()}
    monkeypatch.setattr(table_parts.pa, "memory_map", gone)
    with pytest.raises(UserError, match=r"\.arrow cannot be read \(.*\); it holds finished clips and stays: see"):
        fill(table, clips, Machine())
    assert {path: path.read_bytes() for path in (tmp_path / "table.parts").iterdir()} == before
    monkeypatch.undo()
    fill(table, clips, Machine())
    assert content(table) == content(straight)


def test_two_runs_at_once_on_one_folder_do_no_harm(straight, tmp_path):
    table = interrupted(tmp_path, batches=2)
    parts = table.parent / "table.parts"
    kept = (parts / "00000001.arrow").read_bytes()
    (parts / "00000001.arrow").unlink()
    with pytest.raises(Killed):
        fill(table, Clips(20, broken=(4, 13)), Machine(4))  # one part, with batch 1 and others
    (parts / "00000009.arrow").write_bytes(kept)
    fill(table, Clips(20, broken=(4, 13)), Machine(), num_processes=2)
    assert content(table) == content(straight)


def test_few_rows_are_copied_at_a_time_and_none_is_lost(straight, tmp_path, monkeypatch):
    monkeypatch.setattr(clip_table, "COPIED_TOGETHER", 2)
    fill(tmp_path / "table", Clips(20, broken=(4, 13)), Machine(), num_processes=3)
    assert open_table(tmp_path / "table", "", "")[0].to_dict() == open_table(straight, "", "")[0].to_dict()


def test_workers_do_not_change_the_table(straight, tmp_path):
    fill(tmp_path / "table", Clips(20, broken=(4, 13)), Machine(), num_workers=2)
    assert content(tmp_path / "table") == content(straight)


def test_skipped_clips_of_all_processes_and_runs_are_reported_once(tmp_path, capsys):
    table = interrupted(tmp_path)
    assert capsys.readouterr().out == ""
    clips = Clips(20, broken=(4, 13), skipped=[SkippedClip("short.avi", "too short")])
    fill(table, clips, Machine(), num_processes=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == ["3 of 20 files skipped:", "  short.avi: too short", "  4.avi: broken", "  13.avi: broken"]
    assert [clip["path"] for clip in json.loads((table / "about.json").read_text())["skipped"]] == ["4.avi", "13.avi"]


def test_a_finished_table_is_left_alone(straight):
    before = (straight / "about.json").stat().st_mtime_ns
    fill(straight, Clips(20, broken=(4, 13)), Machine(0))
    assert (straight / "about.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("clips", "changes", "named"),
    [
        (Clips(20, name="other"), {}, "videos"),
        (Clips(20), {"about": {"tokenizer": "b"}}, "tokenizer"),
        (Clips(20), {"about": {}}, "tokenizer"),
        (Clips(20), {"batch_size": 2}, "batch_size"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_rows_made_from_something_else_are_refused_and_kept(tmp_path, clips, changes, named, finished):
    table = interrupted(tmp_path)
    if finished:
        fill(table, Clips(20, broken=(4, 13)), Machine())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.arrow")}
    with pytest.raises(UserError, match=rf"that were made from other {named} than .* delete .* to start afresh"):
        fill(table, clips, Machine(), num_processes=2, **changes)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.arrow")} == before


def test_an_unfinished_table_says_how_far_it_is_and_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"holds no finished corpus; run `evagen tokenize` with run.out="):
        open_table(tmp_path / "table", "corpus", "tokenize")
    table = interrupted(tmp_path, batches=3)
    with pytest.raises(
        UserError, match=r"no finished corpus: 9 of 20 clips done; run `evagen tokenize` with the same config, .*yaml"
    ):
        open_table(table, "corpus", "tokenize")


@pytest.mark.parametrize("damage", ["half", "rows", "about", "state"])
def test_a_damaged_table_is_explained(straight, tmp_path, damage):
    table = tmp_path / "table"
    fill(table, Clips(20, broken=(4, 13)), Machine())
    data, about = next(table.glob("*.arrow")), table / "about.json"
    if damage == "half":
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif damage == "rows":
        fill(tmp_path / "other" / "table", Clips(7), Machine())
        data.write_bytes(content(tmp_path / "other" / "table"))
    elif damage == "about":
        about.write_text(about.read_text()[:20])
    else:
        (table / "state.json").unlink()
    with pytest.raises(UserError, match=r"the corpus in .* is damaged: .*Delete .* and run `evagen tokenize` with"):
        open_table(table, "corpus", "tokenize")


def test_clips_that_cannot_be_decoded_at_all_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"none of 4 clips could be decoded, 0\.avi: broken"):
        fill(tmp_path / "table", Clips(4, broken=(0, 1, 2, 3)), Machine())


def test_when_the_disk_has_gone_it_ends_and_goes_on_when_it_is_back(tmp_path):
    """Else all clips that follow would be left out of the table, for ever, as damaged ones are."""
    table, there = tmp_path / "table", Clips(600, broken=(4, 13, *range(30, 90)))
    gone = Clips(600, broken=(*there.broken, *range(300, 600)), name=there.name)
    with pytest.raises(UserError, match=r"10[1-3] files in a row cannot be read, the last 40\d\.avi: broken\. See "):
        fill(table, gone, Machine())
    machine = Machine()
    fill(table, there, machine, num_processes=2)
    assert set(machine.computed) == set(range(300, 600))
    assert len(open_table(table, "", "")[1].skipped) == len(there.broken) < TRIES


def test_processes_that_would_make_other_rows_are_told_before_they_do(tmp_path, monkeypatch):
    """As where a machine lacks a file: in the end their rows would not go into one table."""
    monkeypatch.setattr(clip_table, "gather_object", lambda own: [*own, own[0] | {"videos": "others"}])
    machine = Machine()
    with pytest.raises(UserError, match="the processes do not find the same videos: give all of them the same files"):
        fill(tmp_path / "table", Clips(20), machine, num_processes=2)
    assert not machine.computed
