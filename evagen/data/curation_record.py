"""What `evagen curate` leaves: a row for each clip, its distances at every candidate assignment.

Columns: key (the clip's number in the data set), path, label, and for all A assignments in index order the perceptual
distance, the mean squared error, and the squared error where something moves, over all places (moving_mse); and the
last of these for the clip's still background (still_mse). From sums of both follows how much motion is explained
(`eval.motion_explained`). Of a tokenizer with a memory rows are states of videos: past, the lengths of the blocks
before those that were searched, 0 where the video had not begun yet; and where a future was given, the distances once
more for its blocks (later_perceptual, later_mse, later_moving_mse), each a sum over them, divided, as the others are,
by the number of blocks that were searched.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from pydantic import Field
from torch import Tensor

from evagen.config import Section, check_config
from evagen.data.clip_table import damaged, numbers_of, open_table
from evagen.data.clips import ClipDataset
from evagen.data.sources import DataConfig
from evagen.errors import UserError
from evagen.kernels.model_files import LARGEST
from evagen.models.fit import check_not_replaced
from evagen.tokenizer import AssignmentSpace, RewardScale, proxy_reward
from evagen.tokenizer.reward import ScaleName

COLUMNS = {"key", "label", "perceptual", "mse", "moving_mse", "still_mse"}
"""Those that every record has."""

WEIGHTED = {"motion_weight": "moving_mse", "mse_weight": "mse"}
"""Settings of `evagen curate`, and the columns that they weigh."""


MIRRORED = ", mirrored"
"""Behind the network in what a record of mirror images is made from."""

LATER = "later_"
"""Before the name of a column: of the blocks behind those that were searched."""


class MeasuredWith(NamedTuple):
    """What measured a record. source, tokenizer: where the tokenizer was, and its fingerprint; network: name and
    fingerprint of the one behind the perceptual distance; frames: of each block that this looked at. The last two are
    None where an earlier version did not write them down."""

    source: str
    tokenizer: str
    network: str | None
    frames: int | None


@dataclass(frozen=True)
class CurationRecord:
    """What stage 2 found. clips: the data set it went over, videos: its fingerprint; space: the candidates; table: a
    row for each of the n clips that could be read, memory-mapped; measured_with: which networks; weights: of columns in
    the distance, by the names in `WEIGHTED`; mirrored: whether what was measured are the clips' mirror images;
    num_past: P, blocks of a clip before those that were searched; num_future: Q, blocks behind them; memory_blocks: of
    the tokenizer."""

    clips: DataConfig
    videos: str
    space: AssignmentSpace
    table: Dataset
    measured_with: MeasuredWith
    weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WEIGHTED, 0.0))
    mirrored: bool = False
    num_past: int = 0
    num_future: int = 0
    memory_blocks: int | None = None

    @cached_property
    def past(self) -> Tensor:
        """Lengths of the blocks before, 0 for none: int64 (n, P)."""
        if not self.num_past:
            return torch.empty(len(self.table), 0, dtype=torch.int64)
        return torch.from_numpy(self.table["past"][:]).long()

    @cached_property
    def keys(self) -> Tensor:
        """int64 (n,), the clips' keys in the data set."""
        return torch.from_numpy(self.table["key"][:])

    @cached_property
    def distance(self) -> Tensor:
        """What rewards are made of: float64 (n, A)."""
        return self._weighted("")

    @cached_property
    def later_distance(self) -> Tensor:
        """The same of the blocks behind, where the record has `num_future` of them; it counts in rewards and not in
        their scale: float64 (n, A)."""
        return self._weighted(LATER)

    def _weighted(self, prefix: str) -> Tensor:
        """Without the columns that weigh nothing: of 100,000 clips and 625 candidates each takes half a gigabyte."""
        weights = {name: weight for name, weight in self.weights.items() if weight}
        return self._column(prefix + "perceptual") + sum(
            weight * self._column(prefix + WEIGHTED[name]) for name, weight in weights.items()
        )

    def _column(self, name: str) -> Tensor:
        return torch.from_numpy(self.table[name][:]).double()

    @cached_property
    def perceptual(self) -> Tensor:
        """float64 (n, A)."""
        return self._column("perceptual")

    @cached_property
    def mse(self) -> Tensor:
        """float64 (n, A)."""
        return self._column("mse")

    @cached_property
    def moving_mse(self) -> Tensor:
        """float64 (n, A)."""
        return self._column("moving_mse")

    @cached_property
    def still_mse(self) -> Tensor:
        """float64 (n,)."""
        return self._column("still_mse")

    @property
    def is_of_states(self) -> bool:
        """Whether it is of a tokenizer with a memory, for a router of one block after another."""
        return self.memory_blocks is not None

    def scale(self, name: ScaleName) -> RewardScale:
        """Of its rewards; of states those without a past, so that a preference means what it means for clips: with a
        past more tokens gain less. Raises ValueError as `RewardScale.of` does."""
        begins = (self.past == 0).all(1)  # (n,)
        some = begins.any() and not begins.all()  # to take all of them would be to copy them
        return RewardScale.of(self.distance[begins] if some else self.distance, self.space, name)

    def reward(self, rows: Tensor, preference: float | Tensor, scale: RewardScale) -> Tensor:
        """The reward of what a router can choose, at some rows (B,) and a preference w_q, a number or (B,): float64
        (B, A), of each candidate. Of states (B, L), of each length of their first block, followed by the best that can
        follow it."""
        distance = self.distance[rows]  # (B, A)
        if self.num_future:
            distance = distance + self.later_distance[rows]
        reward = proxy_reward(distance, preference, self.space, scale)  # (B, A)
        return reward.unflatten(1, (len(self.space.levels), -1)).amax(-1) if self.is_of_states else reward

    def open_clips(self) -> ClipDataset:
        """The data set that `keys` count in. Raises UserError where its videos are no longer those of the record."""
        dataset = ClipDataset(self.clips)
        if dataset.fingerprint() != self.videos:
            raise UserError(
                f"the usable videos in {self.clips.root} are not those that the record was made from: files were "
                "added, removed or replaced since. Put them back, or run `evagen curate` again with another run.out"
            )
        return dataset


class _Contents(Section):
    """What the table says of itself, as `CurationRecord` has it. Earlier records lack some."""

    tokenizer_source: str
    levels: list[int]
    num_blocks: int = Field(ge=1, le=LARGEST)
    clips: DataConfig
    distance_frames: int | None = Field(None, ge=1, le=LARGEST)
    motion_weight: float = Field(0.0, ge=0)
    mse_weight: float = Field(0.0, ge=0)
    mirrored: bool = False
    past: int = Field(0, ge=0, le=LARGEST)
    future: int = Field(0, ge=0, le=LARGEST)
    memory_blocks: int | None = Field(None, ge=1, le=LARGEST)


def read_record(folder: str | Path) -> CurationRecord:
    """A record to learn from. Raises UserError as `open_record` does, and where its tokenizer's folder holds another
    tokenizer by now."""
    record = open_record(folder)
    source, tokenizer, *_ = record.measured_with
    check_not_replaced(source, tokenizer, f"the record in {folder} was measured with", "curate")
    return record


def open_record(folder: str | Path) -> CurationRecord:
    """A record by its run folder. Raises UserError where it is missing, unfinished or damaged, and where its distances
    are not those that it says it has."""
    path = Path(folder) / "record"
    table, about = open_table(path, "curation record", "curate")
    contents = check_config(_Contents, about.contents, f"{path / 'about.json'}, contents")
    if missing := COLUMNS - set(table.column_names):
        raise UserError(
            f"the record in {folder} is of an earlier version: it has no column {', '.join(sorted(missing))}. Run "
            "`evagen curate` again with another run.out"
        )
    try:
        made = about.made_from
        network = str(made["distance"]).removesuffix(MIRRORED) if "distance" in made else None
        measured_with = MeasuredWith(
            contents.tokenizer_source, str(made["tokenizer"]), network, contents.distance_frames
        )
        videos = str(made["videos"])
        space = AssignmentSpace(contents.levels, contents.num_blocks)
        for rows in table.with_format("arrow").iter(batch_size=1000):
            _check_rows(rows, space.count, contents.past, contents.future)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(path, "curation record", "curate", error) from error
    weights = {name: getattr(contents, name) for name in WEIGHTED}
    return CurationRecord(
        contents.clips, videos, space, table.with_format("numpy"), measured_with, weights, contents.mirrored,
        contents.past, contents.future, contents.memory_blocks,
    )  # fmt: skip


def check_alike(records: Mapping[str, CurationRecord]) -> None:
    """Raises UserError unless the distances of records, by their folders, compare: of one tokenizer's assignments, by
    one network, with one weight for each column. What an earlier version did not write down counts as equal."""
    (source, first), *others = ((folder, _measured_how(record)) for folder, record in records.items())
    for folder, other in others:
        for what, ours in first.items():
            if None not in (ours, theirs := other[what]) and ours != theirs:
                raise UserError(
                    f"the record in {folder} has {what} {theirs}, the one in {source} {ours}: what they measured does "
                    "not compare; curate both with the same"
                )


def _measured_how(record: CurationRecord) -> dict[str, str | int | None]:
    """What decides on the distance of a clip, in words."""
    space, measured_with = record.space, record.measured_with
    return {
        "candidates": f"of {space.num_blocks} blocks with levels {list(space.levels)}",
        "the tokenizer": measured_with.tokenizer,
        "the network": measured_with.network,
        "distance_frames": measured_with.frames,
        "the weights": ", ".join(f"{name}={value:g}" for name, value in record.weights.items()),
    }


def _check_rows(rows: pa.Table, num_assignments: int, past: int, future: int) -> None:
    """Raises ValueError for rows without a finite distance at every assignment."""
    names = ["perceptual", "mse", "moving_mse"]
    for name in [*names, *(LATER + name for name in names if future)]:
        numbers_of(rows, name, num_assignments, False)
    if past:
        numbers_of(rows, "past", past, True)
    for name, kinds in (("key", "i"), ("label", "i"), ("still_mse", "f")):
        numbers = rows[name].to_numpy()
        if numbers.dtype.kind not in kinds or not np.isfinite(numbers).all():
            raise ValueError(f"{name} holds what is no finite number")
