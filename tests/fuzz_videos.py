"""Mutated video files through every way of reading: `python tests/fuzz_videos.py COUNT SEED` prints what came of them.

Each is a small file of some container with bytes flipped, cut out, doubled, filled with zeros or put in. Nothing but a
result or a VideoError may come of it.
"""

import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import av
import numpy as np
from video_fixtures import moving_frames, write_frames

from evagen.data.check import check_video
from evagen.data.frame_times import count_frames, frame_rate
from evagen.data.square_clips import read_square
from evagen.data.video_file import VideoError
from evagen.data.video_reader import read_frames, read_header
from evagen.data.video_writer import write_video

KINDS = ("flipped", "cut", "put in", "doubled", "zeros")


def seed_files(folder: Path) -> list[bytes]:
    """One of each container, of 12 frames."""
    frames = moving_frames(12, 32, 48)
    for name in ("a.avi", "a.mp4", "a.gif", "a.mkv"):
        write_video(folder / name, frames, 25)
    write_frames(folder / "a.webm", frames, "libvpx")
    write_frames(folder / "a.ts", frames)
    write_frames(folder / "a.mpg", frames, "mpeg2video")
    write_frames(folder / "a.flv", frames, "flv")
    write_frames(folder / "a.mov", frames, "prores_ks", "yuv422p10le")
    return [path.read_bytes() for path in sorted(folder.glob("a.*"))]


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """With one to four mutations; half of them near the beginning, where headers are."""
    changed = bytearray(data)
    for _ in range(random.integers(1, 5)):
        reach = len(changed) if random.random() < 0.5 else min(len(changed), 600)
        place, size = int(random.integers(max(reach, 1))), int(random.integers(1, 33))
        kind = KINDS[random.integers(len(KINDS))]
        part = changed[place : place + size]
        if kind == "flipped":
            part = bytearray(byte ^ 1 << int(random.integers(8)) for byte in part[:3])
            changed[place : place + len(part)] = part
        elif kind == "cut":
            del changed[place : place + size]
        elif kind == "put in":
            changed[place:place] = random.bytes(size)
        elif kind == "doubled":
            changed[place:place] = part
        else:
            changed[place : place + size] = bytes(len(part))
    return bytes(changed)


def read_in_every_way(path: Path) -> str:
    """`read` or `refused`, by any of the ways. Raises whatever is not a VideoError."""
    outcome = "read"
    for read in (
        count_frames,
        frame_rate,
        read_header,
        check_video,
        read_frames,
        lambda p: read_square(p, 2, 4, 1, 16),
    ):
        try:
            read(path)
        except VideoError:
            outcome = "refused"
    return outcome


def fuzz(count: int, seed: int, folder: Path) -> Counter:
    """How many of `count` mutated files had which outcome; what is neither read nor refused under its error."""
    av.logging.set_level(av.logging.PANIC)
    seeds, outcomes = seed_files(folder), Counter()
    for number in range(count):
        random = np.random.default_rng([seed, number])
        path = folder / "mutated.video"
        path.write_bytes(mutated(seeds[number % len(seeds)], random))
        before = time.thread_time()
        try:
            outcomes[read_in_every_way(path)] += 1
        except Exception as error:
            outcomes[f"{type(error).__name__} of number {number}: {traceback.format_exc(limit=-2)}"] += 1
        if (seconds := time.thread_time() - before) > 5:
            outcomes[f"{seconds:.0f} seconds for number {number}"] += 1
    return outcomes


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for outcome, times in fuzz(int(sys.argv[1]), int(sys.argv[2]), Path(place)).most_common():
            print(times, outcome)
