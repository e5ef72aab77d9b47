"""Batches of clips, for training (endless, seeded, resumable) and in any order that is asked for.

    for batch in train_loader(dataset, batch_size=8, seed=0, start_step=0, num_workers=4):
        batch.video                                       # float32 B C F H W in [-1, 1]

Dimensions: B clips, C = 3 colours (RGB), F frames, H × W pixels.
"""

import multiprocessing
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from evagen.data.clips import BeginningOf, Clip, ClipDataset, SkippedClip
from evagen.data.lost_clips import FilledClips, check_not_all_lost
from evagen.errors import UserError

SECONDS_WITHOUT_A_BATCH = 1800
"""After which processes that read are taken to hang. A file has 300 seconds for a frame (`video_file`)."""
READER_DIED, READERS_HANG = r"DataLoader worker \(pid", "DataLoader timed out"
"""In the messages of torch's RuntimeErrors."""


@dataclass(frozen=True)
class ClipBatch:
    """The clips of a batch that could be read: `video` float32 `B C F H W` in [-1, 1], `label` and
    `index` int64 `B`, `paths` and `starts` of length B; `skipped` lists the others.

    B may be smaller than asked for, but not in training. `len(batch)` is B; a batch with nothing readable has B = 0 and
    is false, so that `if not batch: continue` is all a loop needs."""

    video: torch.Tensor
    label: torch.Tensor
    index: torch.Tensor
    paths: list[str]
    starts: list[int]
    skipped: list[SkippedClip]

    def __len__(self) -> int:
        return len(self.paths)

    def pin_memory(self) -> "ClipBatch":
        """Called by DataLoader, so that copies to a GPU can run beside its work."""
        return replace(
            self, video=self.video.pin_memory(), label=self.label.pin_memory(), index=self.index.pin_memory()
        )


def collate_clips(items: Sequence[Clip | SkippedClip]) -> ClipBatch:
    """Stacks what could be read and lists what could not (see ClipBatch for an empty one)."""
    clips = [item for item in items if isinstance(item, Clip)]
    return ClipBatch(
        # In a process that reads, this stacks into memory shared with the training, so nothing is copied twice.
        video=default_collate([clip.video for clip in clips]) if clips else torch.empty(0, 3, 0, 0, 0),
        label=torch.tensor([clip.label for clip in clips], dtype=torch.int64),
        index=torch.tensor([clip.index for clip in clips], dtype=torch.int64),
        paths=[clip.path for clip in clips],
        starts=[clip.start for clip in clips],
        skipped=[item for item in items if isinstance(item, SkippedClip)],
    )


class EndlessSampler:
    """Keys of a ClipDataset for ever: epoch e is a seeded permutation of its items, plus `e * num_items`.
    `start` leaves out that many keys, which is how a run resumes: the sequence itself never changes."""

    def __init__(self, num_items: int, seed: int, start: int = 0):
        self.num_items = num_items
        self.seed = seed
        self.start = start

    def __iter__(self) -> Iterator[int]:
        epoch, done = divmod(self.start, self.num_items)
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.num_items)
            for index in order[done:]:
                yield epoch * self.num_items + int(index)
            epoch, done = epoch + 1, 0


def train_loader(
    dataset: ClipDataset,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
    pieces: Sequence[int] = (),
) -> Iterator[ClipBatch]:
    """Full batches for ever: a clip that cannot be read is replaced by another (`lost_clips`). `batch_size` (B)
    is for each process: step s of P processes together takes the next B P keys of the endless sequence, and process p
    the p-th B of them. Starting at `start_step` continues an earlier run exactly. Already shared out: not to be sharded
    again by Accelerate. Raises UserError where nothing can be read.

    pieces: numbers of frames that divide the data set's. The clips of a step then have one of these, drawn at random,
    and are as many more as they are shorter; each is of another video."""
    whole = dataset.config.frames
    shapes = [(batch_size * whole // frames, frames) for frames in pieces or [whole]]
    batches = _ProcessBatches(len(dataset), shapes, seed, start_step, process_index, num_processes)
    for batch, is_full in clip_loader(FilledClips(dataset), batches, num_workers, _collate_filled):
        check_not_all_lost(batch.skipped, is_full)
        yield batch


def _collate_filled(items: Sequence[list[Clip | SkippedClip]]) -> tuple[ClipBatch, bool]:
    """Of items of `FilledClips`; and whether each has brought a clip."""
    batch = collate_clips(list(chain.from_iterable(items)))
    return batch, len(batch) == len(items)


def clip_loader(
    dataset: Dataset,
    batches: Iterable[Sequence[int | BeginningOf]],
    num_workers: int = 0,
    collate: Callable[[list], Any] = collate_clips,
) -> Iterator[Any]:
    """A ClipBatch, or what else `collate` makes, for each of the given lists of keys, in their order. Raises UserError
    when a process that reads dies or hangs."""
    loader = DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        timeout=SECONDS_WITHOUT_A_BATCH if num_workers else 0,
        generator=torch.Generator(),  # else it draws from the global one, whose numbers are dropout's
        worker_init_fn=leave_signals_to_the_parent,
    )
    batches_in_turn = iter(loader)
    try:
        yield from batches_in_turn
    except RuntimeError as error:
        words = _of_readers(str(error))
        if words is None:
            raise
        batches_in_turn._shutdown_workers()  # type: ignore[attr-defined]  # after which torch watches them no more
        for reader in multiprocessing.active_children():
            reader.kill()  # one that hangs inside FFmpeg hears no other signal
        again = "then give the same command again, which goes on where it has a run folder"
        raise UserError(f"{words}; {again}") from error


def _of_readers(said: str) -> str | None:
    """What befell the processes that read, and what to do before another try; None for an error of another kind."""
    if re.search(READER_DIED, said):
        return (
            f"a process that read data died ({said[:200]}). Often memory ran out: give fewer workers "
            "(run.num_workers or --workers), or 0 to see what happens"
        )
    if READERS_HANG in said:
        return (
            f"the processes that read data have given nothing for {SECONDS_WITHOUT_A_BATCH} seconds. A file may hold "
            "them up: `evagen data scan FOLDER` gives each file a limited time and lists the bad ones; leave those out"
        )
    return None


def leave_signals_to_the_parent(worker: int) -> None:
    """For a process that reads data: Ctrl-C, and a first SIGTERM, which some send to all processes of a job, are for
    the one that trains, which needs its batch to end the step."""

    def next_time(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, next_time)


@dataclass(frozen=True)
class _ProcessBatches:
    """The key lists of one process, as DataLoader's `batch_sampler`. shapes: (clips of a process, frames) that a step
    may have."""

    num_items: int
    shapes: Sequence[tuple[int, int]]
    seed: int
    start_step: int
    process_index: int
    num_processes: int

    def __iter__(self) -> Iterator[list[BeginningOf]]:
        draws = np.random.default_rng([self.seed, *b"pieces"])
        clips = np.array([clips for clips, _ in self.shapes])
        earlier = clips[(draws.random(self.start_step) * len(clips)).astype(int)].sum() * self.num_processes
        keys = iter(EndlessSampler(self.num_items, self.seed, int(earlier)))
        while True:
            count, frames = self.shapes[int(draws.random() * len(self.shapes))]
            of_all = list(islice(keys, count * self.num_processes))
            yield [BeginningOf(key, frames) for key in of_all[self.process_index * count :][:count]]
