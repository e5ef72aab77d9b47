"""When a training has logged its steps, from what TensorBoard was told.

Its files hold an event for every number that was logged, of which a long training has millions, and TensorBoard's own
reader takes 80 µs for each. What the page asks for are the first steps and the last one, so the others are stepped
over. A record is its length, a checksum of that, an event of this length, and a checksum of it.
"""

import mmap
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event

HEAD, CHECKSUM_BYTES = struct.Struct("<Q4x"), 4


def logged_times(events: Path) -> dict[int, float]:
    """When the first three steps in a file, where there are so many, and the last one were logged for the last time: in
    seconds, by step. The end of a file that is being written, or is damaged, does not count."""
    seen: dict[int, float] = {}
    if not events.stat().st_size:
        return seen
    with events.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        first, last = 0, 0
        with suppress(DecodeError):
            for first, last in _records(data):
                if len(seen) < 3:
                    _note(data[first:last], seen)
            _note(data[first:last], seen)
    return seen


def _note(record: bytes, seen: dict[int, float]) -> None:
    event = Event.FromString(record)
    if event.step:
        seen[event.step] = event.wall_time


def _records(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Where each whole event begins and ends."""
    end = 0
    while end + HEAD.size <= len(data):
        begin = end + HEAD.size
        last = begin + HEAD.unpack_from(data, end)[0]
        end = last + CHECKSUM_BYTES
        if end > len(data):
            return
        yield begin, last
