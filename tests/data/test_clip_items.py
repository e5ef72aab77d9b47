"""Clips of a large data set: what their numbers mean, and what a list of them costs."""

import gc
import hashlib
import sys
from dataclasses import dataclass, field
from fractions import Fraction

import pytest

from evagen.data import clips
from evagen.data.clip_items import ClipItem, ClipItems
from evagen.data.clips import ClipDataset
from evagen.data.huggingface import TableVideo
from evagen.data.layouts import Listing, VideoFile
from evagen.data.sources import DataConfig

STORED = TableVideo("set/data.arrow", "video", 7)
NAMES = ["a b/ä.mp4", STORED, "not UTF-8 \udcff.avi", ""]


def test_items_are_what_was_added():
    """Names of any kind, several clips of a video or none, and rates that change from file to file."""
    added, items = [], ClipItems()
    for number, path in enumerate(NAMES):
        ranges, stride = [(start, start + 9) for start in range(number)], (1, Fraction(5, 2), Fraction(5, 2), 1)[number]
        items.add(VideoFile(path, 700 + number), ranges, stride)
        added += [ClipItem(path, 700 + number, *each, stride) for each in ranges]
    assert (list(items), items[2], len(items)) == (added, added[2], 6)
    assert items.labels() == [item.label for item in added]
    assert [items.path(video) for video in range(items.num_videos)] == NAMES


@dataclass(frozen=True)
class _Item:
    """What records and corpora of earlier versions made their fingerprint of."""

    path: str | TableVideo
    label: int
    first_start: int
    last_start: int
    stride: int | Fraction = field(repr=False)


@pytest.fixture
def listed(monkeypatch):
    """Makes data sets of videos that are not there."""

    def make(files, **changes):
        monkeypatch.setattr(clips, "list_files", lambda config: Listing(files, []))
        monkeypatch.setattr(clips, "count_all_frames", lambda paths: [300] * len(paths))
        monkeypatch.setattr(clips, "all_frame_rates", lambda paths: [Fraction(25)] * len(paths))
        return lambda: ClipDataset(DataConfig(root="nowhere", layout="folder", frames=100, **changes))

    return make


@pytest.mark.parametrize("rate", [None, 20.0])
def test_the_fingerprint_is_that_of_earlier_versions(listed, rate):
    files = [VideoFile(path, -1) for path in NAMES]
    dataset = listed(files, clip="all", frames_per_second=rate)()
    starts, stride = ([0, 100, 200], 1) if rate is None else ([0, 125], Fraction(5, 4))
    old = [_Item(file.path, -1, start, start, stride) for file in files for start in starts]
    about = repr(old) + (repr([item.stride for item in old]) if rate else "")
    assert dataset.fingerprint() == hashlib.sha256(about.encode()).hexdigest()[:16]


def test_a_data_set_keeps_no_object_for_each_clip(listed):
    """Each process that reads would end up with its own copy of all of them."""
    make = listed([VideoFile(f"videos/{number}.mp4", -1) for number in range(10_000)])
    gc.collect()
    before = sys.getallocatedblocks()
    dataset = make()
    gc.collect()
    assert sys.getallocatedblocks() - before < 1000
    assert (len(dataset), dataset.paths[-1]) == (10_000, "videos/9999.mp4")
