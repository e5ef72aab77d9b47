"""Batches stay full: where a clip cannot be read in training another takes its place, and the lost one is listed."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from torch.utils.data import Dataset

from evagen.data.clips import BeginningOf, Clip, ClipDataset, SkippedClip
from evagen.errors import UserError

TRIES = 100
"""Other clips that are tried before a training gives up: so many broken ones in a row are a disk that is gone."""


def others_than(index: int, num_items: int, seed: int, epoch: int = 0) -> Iterator[int]:
    """Numbers of items to take instead of one that cannot be read, in the order in which they are tried. They follow
    from (seed, epoch, index) alone, so neither workers nor resuming nor the number of processes change a batch."""
    random = np.random.default_rng([seed, epoch, index, *b"instead"])
    return (int(random.integers(num_items)) for _ in range(TRIES))


class FilledClips(Dataset):
    """A `ClipDataset` whose items are lists: the clip of the key, or what could not be read and, last, the clip of the
    same epoch that takes its place."""

    def __init__(self, dataset: ClipDataset):
        self.dataset = dataset

    def __getitem__(self, key: BeginningOf) -> list[Clip | SkippedClip]:
        epoch, index = divmod(key.key, len(self.dataset))
        tried = [self.dataset[key]]
        others = others_than(index, len(self.dataset), self.dataset.config.seed, epoch)
        while isinstance(tried[-1], SkippedClip) and (other := next(others, None)) is not None:
            tried.append(self.dataset[BeginningOf(epoch * len(self.dataset) + other, key.frames)])
        return tried


def check_not_all_lost(skipped: Sequence[SkippedClip], is_full: bool) -> None:
    """Raises UserError for a batch that could not be filled."""
    if not is_full:
        raise UserError(
            f"{TRIES + 1} clips in a row cannot be read, the last {skipped[-1].path}: {skipped[-1].reason}. See "
            "whether the data set is still there; the same command goes on from the last checkpoint"
        )


class LostClips:
    """What could not be read in a training, by file, since its beginning and in all processes; the first reason of each
    counts. Belongs to the loop's state, and so tells whether a training goes on with the videos that it began with.
    Raises UserError where processes have different ones: their batches would be of other clips than they should be."""

    def __init__(self, dataset: ClipDataset):
        self._known = _by_path(dataset.skipped)  # in all processes
        self._noted: dict[str, str] = {}  # in this one since
        self.videos = dataset.fingerprint()
        if len(set(gather_object([self.videos]))) > 1:
            raise UserError(
                "the processes do not find the same videos: give all of them the same files, under the same names"
            )

    def note(self, skipped: Iterable[SkippedClip]) -> None:
        """Remembers what a batch of this process has lost."""
        for clip in skipped:
            if clip.path not in self._known:
                self._noted.setdefault(clip.path, clip.reason)

    def of_all(self) -> list[SkippedClip]:
        """For all processes together, and the same in all of them. They send each other what they do not know already:
        of Kinetics tens of thousands of videos are missing everywhere."""
        found: dict[str, str] = {}
        for noted in gather_object([self._noted]):
            found = {**noted, **found}
        return [SkippedClip(path, reason) for path, reason in {**self._known, **found}.items()]

    def state_dict(self) -> dict[str, Any]:
        """For all processes together."""
        return {"reasons": _by_path(self.of_all()), "videos": self.videos}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state.get("videos", self.videos) != self.videos:  # states of before do not tell
            logging.getLogger(__name__).warning(
                "the videos are not those that this training began with: some came, went, or are left out since. It "
                "goes on with these"
            )
        self._known = {**state["reasons"], **self._known}


def _by_path(skipped: Iterable[SkippedClip]) -> dict[str, str]:
    """The first reason of each."""
    reasons: dict[str, str] = {}
    for clip in skipped:
        reasons.setdefault(clip.path, clip.reason)
    return reasons
