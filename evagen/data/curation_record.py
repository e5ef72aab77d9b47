"""What `evagen curate` leaves: a row for each clip, its distances at every candidate assignment.

Columns: key (the clip's number in the data set), path, label, and for all A assignments in index order the perceptual
distance, the mean squared error, and the squared error where something moves, over all places (moving_mse); and the
last of these for the clip's still background (still_mse). From sums of both follows how much motion is explained
(`eval.motion_explained`). Of a tokenizer with a memory rows are states of videos: past, the lengths of the blocks
before those that were searched, 0 where the video had not begun yet; and where a future was given, the distances once
more for its blocks (later_perceptual, later_mse, later_moving_mse), each a sum over them, divided, as the others are,
by the number of blocks that were searched.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor

from evagen.data.clip_table import open_table
from evagen.data.clips import ClipDataset
from evagen.data.sources import DataConfig
from evagen.errors import UserError
from evagen.models.fit import check_not_replaced
from evagen.tokenizer import AssignmentSpace, RewardScale, proxy_reward
from evagen.tokenizer.reward import ScaleName

COLUMNS = {"key", "label", "perceptual", "mse", "moving_mse", "still_mse"}
"""Those that every record has."""

WEIGHTED = {"motion_weight": "moving_mse", "mse_weight": "mse"}
"""Settings of `evagen curate`, and the columns that they weigh."""


LATER = "later_"
"""Before the name of a column: of the blocks behind those that were searched."""


@dataclass(frozen=True)
class CurationRecord:
    """What stage 2 found. clips: the data set it went over, videos: its fingerprint; space: the candidates; table: a
    row for each of the n clips that could be read, memory-mapped; weights: of columns in the distance, by the names in
    `WEIGHTED`; mirrored: whether what was measured are the clips' mirror images; num_past: P, blocks of a clip before
    those that were searched; num_future: Q, blocks behind them; memory_blocks: of the tokenizer."""

    clips: DataConfig
    videos: str
    space: AssignmentSpace
    table: Dataset
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
    def later_distance(self) -> Tensor | float:
        """The same of the blocks behind, which counts in rewards and not in their scale: float64 (n, A), or 0 where
        there are none."""
        return self._weighted(LATER) if self.num_future else 0.0

    def _weighted(self, prefix: str) -> Tensor:
        return self._column(prefix + "perceptual") + sum(
            self.weights[name] * self._column(prefix + WEIGHTED[name]) for name in self.weights
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
        return RewardScale.of(self.distance[begins] if begins.any() else self.distance, self.space, name)

    def reward(self, rows: Tensor, preference: float | Tensor, scale: RewardScale) -> Tensor:
        """The reward of what a router can choose, at some rows (B,) and a preference w_q, a number or (B,): float64
        (B, A), of each candidate. Of states (B, L), of each length of their first block, followed by the best that can
        follow it."""
        distance = (self.distance + self.later_distance)[rows]  # (B, A)
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


def read_record(folder: str | Path) -> CurationRecord:
    """A record by its run folder. Raises UserError where it is missing, unfinished or damaged, or where its
    tokenizer's folder holds another tokenizer by now."""
    table, about = open_table(Path(folder) / "record", "curation record", "curate")
    contents, made_from = about.contents, about.made_from
    if missing := COLUMNS - set(table.column_names):
        raise UserError(
            f"the record in {folder} is of an earlier version: it has no column {', '.join(sorted(missing))}. Run "
            "`evagen curate` again with another run.out"
        )
    whose = f"the record in {folder} was measured with"
    check_not_replaced(contents["tokenizer_source"], made_from["tokenizer"], whose, "curate")
    space = AssignmentSpace(contents["levels"], contents["num_blocks"])
    clips = DataConfig.model_validate(contents["clips"])
    weights = {name: contents.get(name, 0.0) for name in WEIGHTED}  # earlier records lack some
    return CurationRecord(
        clips, made_from["videos"], space, table.with_format("numpy"), weights, contents.get("mirrored", False),
        contents.get("past", 0), contents.get("future", 0), contents.get("memory_blocks"),
    )  # fmt: skip
