"""Samplers and loaders of clips, on real files."""

import multiprocessing
import os
import signal
import time
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from video_fixtures import config, moving_frames

from evagen.data import loader
from evagen.data.clips import Clip, ClipDataset, SkippedClip
from evagen.data.loader import EndlessSampler, clip_loader, collate_clips, train_loader
from evagen.data.video_writer import write_video
from evagen.errors import UserError


def test_collate_keeps_everything_in_step():
    clips = [Clip(torch.full((3, 2, 4, 4), i / 9), i, 10 + i, f"{i}.avi", 5 * i) for i in range(3)]
    batch = collate_clips([clips[2], SkippedClip("bad.avi", "why"), clips[0]])
    assert len(batch) == 2
    assert torch.equal(batch.video, torch.stack([clips[2].video, clips[0].video]))
    assert (batch.label.tolist(), batch.index.tolist()) == ([2, 0], [12, 10])
    assert (batch.paths, batch.starts) == (["2.avi", "0.avi"], [10, 0])
    assert batch.skipped == [SkippedClip("bad.avi", "why")]


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


def test_short_clips_are_beginnings_and_as_many_more_each_of_another_video(folder):
    dataset = ClipDataset(config(folder, frames=4, crop="random", flip=True))
    batches = list(islice(train_loader(dataset, 3, seed=3, pieces=[4, 2, 1, 1]), 12))
    assert {(len(batch), batch.video.shape[2]) for batch in batches} == {(3, 4), (6, 2), (12, 1)}
    keys = iter(EndlessSampler(len(dataset), seed=3))
    for batch in batches:
        whole = [dataset[key] for key in islice(keys, len(batch))]
        assert (batch.index.tolist(), batch.starts) == ([c.index for c in whole], [c.start for c in whole])
        assert torch.equal(batch.video, torch.stack([clip.video for clip in whole])[:, :, : batch.video.shape[2]])


def test_short_clips_resume_and_are_shared_out(folder):
    dataset, pieces = ClipDataset(config(folder, frames=4)), [4, 2]
    alone = content(islice(train_loader(dataset, 4, seed=3, pieces=pieces), 7))
    assert same(alone[5:], content(islice(train_loader(dataset, 4, seed=3, start_step=5, pieces=pieces), 2)))
    shares = [
        content(islice(train_loader(dataset, 2, 3, process_index=p, num_processes=2, pieces=pieces), 7))
        for p in range(2)
    ]
    for (indices, _, video), *parts in zip(alone, *shares):
        assert [index for part in parts for index in part[0]] == indices
        assert torch.equal(torch.cat([part[2] for part in parts]), video)


def test_batches_come_in_the_order_asked_for_with_workers_too(folder):
    dataset = ClipDataset(config(folder, clip="all"))
    keys = [[40, 3], [17], [0, 1, 2, 44]]
    for num_workers in (0, 2):
        assert [batch.index.tolist() for batch in clip_loader(dataset, keys, num_workers)] == keys


def test_a_file_that_breaks_later_is_skipped_in_its_batch(tmp_path):
    for number in range(3):
        write_video(tmp_path / f"{number}.avi", moving_frames(8, seed=number), 25)
    dataset = ClipDataset(config(tmp_path))
    (tmp_path / "1.avi").write_bytes(b"gone")
    batches = list(clip_loader(dataset, [[0, 1], [2]]))
    assert [batch.index.tolist() for batch in batches] == [[0], [2]]
    assert [len(batch.skipped) for batch in batches] == [1, 0]
    (tmp_path / "0.avi").unlink()
    empty = next(iter(clip_loader(dataset, [[0, 1]])))
    assert not empty
    assert (len(empty), empty.video.shape[0], empty.label.shape) == (0, 0, (0,))
    assert len(empty.skipped) == 2


class _Struck:
    """Clips of which reading one befalls the process that does."""

    def __init__(self, strike):
        self.strike = strike

    def __getitem__(self, key):
        return self.strike() if key == 2 else key


def test_a_process_that_dies_while_reading_is_told():
    batches = clip_loader(_Struck(lambda: os.kill(os.getpid(), signal.SIGKILL)), [[0, 1], [2]], 1, list)
    with pytest.raises(UserError, match=r"read data died .*fewer workers \(run.num_workers or --workers\)"):
        list(batches)


def test_a_process_that_hangs_where_no_signal_is_heard_is_told_and_stopped(monkeypatch):
    monkeypatch.setattr(loader, "SECONDS_WITHOUT_A_BATCH", 15)

    def hang():
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        time.sleep(1000)

    batches = clip_loader(_Struck(hang), [[0, 1], [2]], 1, list)
    assert next(batches) == [0, 1]
    with pytest.raises(UserError, match=r"given nothing for 15 seconds.*evagen data scan"):
        next(batches)
    for each in multiprocessing.active_children():
        each.join(10)
    assert not multiprocessing.active_children()
