"""A clip that cannot be read in training is replaced by another, so that every batch is full."""

from itertools import islice

import pytest
import torch
from video_fixtures import config, moving_frames

from evagen.data.clips import ClipDataset, SkippedClip
from evagen.data.loader import train_loader
from evagen.data.lost_clips import TRIES, LostClips, others_than
from evagen.data.video_writer import write_video
from evagen.errors import UserError


@pytest.fixture
def broken(tmp_path) -> ClipDataset:
    """Six videos of which two broke after they were opened."""
    for number in range(6):
        write_video(tmp_path / f"{number}.avi", moving_frames(8, seed=number), 25)
    dataset = ClipDataset(config(tmp_path, frames=4, crop="random", flip=True))
    for number in (1, 4):
        (tmp_path / f"{number}.avi").write_bytes(b"gone")
    return dataset


def content(batches):
    return [(batch.index.tolist(), batch.starts, sorted(clip.path for clip in batch.skipped)) for batch in batches]


def test_batches_are_full_and_the_same_for_any_workers_processes_and_start(broken):
    alone = list(islice(train_loader(broken, 4, seed=3), 9))
    assert [len(batch) for batch in alone] == [4] * 9
    lost = {clip.path.rpartition("/")[2] for batch in alone for clip in batch.skipped}
    assert lost == {"1.avi", "4.avi"}
    assert not {index for batch in alone for index in batch.index.tolist()} & {1, 4}
    assert content(islice(train_loader(broken, 4, seed=3, num_workers=2), 9)) == content(alone)
    assert content(islice(train_loader(broken, 4, seed=3, start_step=5), 4)) == content(alone)[5:]
    shares = [islice(train_loader(broken, 2, 3, process_index=p, num_processes=2), 9) for p in range(2)]
    for whole, *parts in zip(alone, *shares):
        assert torch.equal(torch.cat([part.video for part in parts]), whole.video)


def test_each_time_and_epoch_has_another_instead(broken):
    assert list(others_than(1, 6, seed=0, epoch=2)) == list(others_than(1, 6, seed=0, epoch=2))
    drawn = {tuple(others_than(index, 6, 0, epoch)) for index in range(3) for epoch in range(3)}
    assert len(drawn) == 9
    assert len(next(iter(drawn))) == TRIES


def test_pieces_are_replaced_by_pieces(broken):
    batches = list(islice(train_loader(broken, 2, seed=3, pieces=[4, 2]), 8))
    assert {(len(batch), batch.video.shape[2]) for batch in batches} == {(2, 4), (4, 2)}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_where_nothing_can_be_read_any_more_that_is_said(broken, num_workers):
    for path in broken.paths:
        with open(path, "wb") as file:
            file.write(b"gone")
    with pytest.raises(UserError, match=r"^101 clips in a row cannot be read, the last .*\.avi: .*still there"):
        next(train_loader(broken, 4, seed=3, num_workers=num_workers))


def test_lost_clips_are_counted_once_and_belong_to_the_state(broken):
    broken.skipped.append(SkippedClip("short", "too short"))
    lost = LostClips(broken)
    for _ in range(3):
        lost.note([SkippedClip("a", "first"), SkippedClip("b", "why")])
        lost.note([SkippedClip("a", "second")])
    again = LostClips(broken)
    again.load_state_dict(lost.state_dict())
    again.note([SkippedClip("c", "later")])
    assert {clip.path: clip.reason for clip in again.of_all()} == {
        "short": "too short", "a": "first", "b": "why", "c": "later"
    }  # fmt: skip


def test_processes_tell_each_other_only_what_they_do_not_all_know(broken, monkeypatch):
    """Tens of thousands of Kinetics' videos are missing everywhere."""
    sent = []

    def gathered(own):
        sent.extend(own)
        return [*own, {"of another": "why"}]

    broken.skipped.extend(SkippedClip(f"missing {number}", "not in this copy") for number in range(100))
    lost, again = LostClips(broken), LostClips(broken)
    monkeypatch.setattr("evagen.data.lost_clips.gather_object", gathered)
    lost.note([SkippedClip("missing 7", "again"), SkippedClip("a", "first")])
    found = {clip.path: clip.reason for clip in lost.of_all()}
    assert sent == [{"a": "first"}]
    assert found == {f"missing {number}": "not in this copy" for number in range(100)} | {
        "a": "first", "of another": "why"
    }  # fmt: skip
    again.load_state_dict({"reasons": found})
    assert {clip.path: clip.reason for clip in again.of_all()} == found
    assert sent[1:] == [{}]


def test_that_the_videos_are_others_than_at_the_beginning_is_told(broken, caplog):
    lost = LostClips(broken)
    lost.load_state_dict(lost.state_dict())
    lost.load_state_dict({"reasons": {}})  # as before they were told
    assert caplog.text == ""
    others = ClipDataset(broken.config.model_copy(update={"limit": 5}))
    LostClips(others).load_state_dict(lost.state_dict())
    assert "the videos are not those that this training began with" in caplog.text


def test_processes_that_find_other_videos_are_refused(broken, monkeypatch):
    monkeypatch.setattr("evagen.data.lost_clips.gather_object", lambda own: [*own, "another"])
    with pytest.raises(UserError, match="the processes do not find the same videos"):
        LostClips(broken)
