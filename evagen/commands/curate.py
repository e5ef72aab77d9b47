"""Stage 2, curation: every candidate assignment of every clip, reconstructed and measured.

evagen curate quickstart/curation [key=value …]

Leaves a record, a `datasets` table with a row for each clip: its key in the clip data set, path, label, and
for all assignments in index order the perceptual distance and the mean squared error. Distances are stored,
not rewards, so that one record serves every preference. Any number of processes gives the same record; stopped
half-way, the same command goes on where it was.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
from datasets import Dataset
from pydantic import Field
from torch import Tensor

from evagen.config import ONLY_HOW, Section, load_config
from evagen.data.clip_table import PATIENCE, fill_table, open_table
from evagen.data.clips import ClipDataset
from evagen.data.loader import ClipBatch
from evagen.data.sources import DataConfig
from evagen.errors import UserError
from evagen.eval import LPIPSDistance, PerceptualDistance
from evagen.models.loading import fingerprint, load_model
from evagen.models.networks import PerceptualNetwork
from evagen.tokenizer import AssignmentSpace, CandidateSearch, VideoTokenizer
from evagen.training.run import RunConfig, start_accelerator


class Curation(Section):
    run: RunConfig
    data: DataConfig
    tokenizer: str
    """The proxy tokenizer, folder or hub id."""
    batch_size: int = Field(4, ge=1)
    """Clips searched together."""
    max_segments: Annotated[int, ONLY_HOW] = Field(128, ge=1)
    """Blocks evaluated at once, which bounds memory."""
    compare: PerceptualNetwork = PerceptualNetwork()
    """The network whose distance is the reward's quality."""
    distance_frames: int = Field(4, ge=1)
    """Frames of each block, evenly spread, that the perceptual distance looks at."""
    save_seconds: Annotated[float, ONLY_HOW] = Field(60, ge=0)
    """Seconds between saves, which is what a killed process loses at most."""


@dataclass(frozen=True)
class CurationRecord:
    """What stage 2 found. clips: the data set it went over, videos: its fingerprint; space: the candidates; table: a
    row for each of the n clips that could be read, memory-mapped."""

    clips: DataConfig
    videos: str
    space: AssignmentSpace
    table: Dataset

    @cached_property
    def keys(self) -> Tensor:
        """int64 (n,), the clips' keys in the data set."""
        return torch.from_numpy(self.table["key"][:])

    @cached_property
    def perceptual(self) -> Tensor:
        """float64 (n, A)."""
        return torch.from_numpy(self.table["perceptual"][:]).double()

    @cached_property
    def mse(self) -> Tensor:
        """float64 (n, A)."""
        return torch.from_numpy(self.table["mse"][:]).double()

    def open_clips(self) -> ClipDataset:
        """The data set that `keys` count in. Raises UserError where its videos are no longer those of the record."""
        dataset = ClipDataset(self.clips)
        if dataset.fingerprint() != self.videos:
            raise UserError(
                f"the usable videos in {self.clips.root} are not those that the record was made from: files were "
                "added, removed or replaced since. Put them back, or run `evagen curate` again with another run.out"
            )
        return dataset


def main(config: Curation) -> Path:
    """Writes the record into `<run.out>/record`; does nothing if it is there already."""
    accelerator = start_accelerator(config, config.run, patience=PATIENCE)
    record = config.run.out / "record"
    if record.exists():
        return record
    tokenizer = load_model(VideoTokenizer, config.tokenizer, accelerator.device)
    check_clips_fit(tokenizer, config.data)
    perceptual = config.compare.load().to(accelerator.device)
    about = {
        "tokenizer": fingerprint(tokenizer),
        "levels": list(tokenizer.assignments.levels),
        "num_blocks": tokenizer.assignments.num_blocks,
        "distance": f"{perceptual.name} {perceptual.fingerprint}",
    }
    fill_table(
        record, ClipDataset(config.data), lambda batch: _measure(batch, tokenizer, perceptual, config), about,
        accelerator, config.batch_size, config.run.num_workers, config.save_seconds,
    )  # fmt: skip
    return record


def read_record(folder: str | Path) -> CurationRecord:
    """A record by its run folder. Raises UserError where it is missing, unfinished or damaged, or where its
    tokenizer's folder holds another tokenizer by now."""
    folder = Path(folder)
    table, about = open_table(folder / "record", "curation record", "curate")
    config = load_config(Curation, folder / "config.yaml")
    if (Path(config.tokenizer) / "config.json").exists():
        found = fingerprint(load_model(VideoTokenizer, config.tokenizer))
        if found != about["tokenizer"]:
            raise UserError(
                f"the record in {folder} was measured with tokenizer {about['tokenizer']}, but {config.tokenizer} now "
                f"holds {found}; run `evagen curate` again with another run.out, or put the earlier tokenizer back"
            )
    space = AssignmentSpace(about["levels"], about["num_blocks"])
    return CurationRecord(config.data, about["videos"], space, table.with_format("numpy"))


def check_clips_fit(tokenizer: VideoTokenizer, data: DataConfig) -> None:
    """Raises UserError unless the data set's clips have the frames and size the tokenizer was trained on."""
    wanted = (tokenizer.config.num_frames, tokenizer.config.resolution)
    if (data.frames, data.size) != wanted:
        raise UserError(
            f"the tokenizer works on clips of {wanted[0]} frames at {wanted[1]} pixels; "
            f"data.frames is {data.frames} and data.size {data.size}"
        )


def _measure(
    batch: ClipBatch, tokenizer: VideoTokenizer, perceptual: PerceptualDistance | LPIPSDistance, config: Curation
) -> list[dict]:
    video = batch.video.to(tokenizer.device)  # B C F H W
    step = tokenizer.config.temporal_patch
    chosen = torch.linspace(0, step - 1, min(config.distance_frames, step)).round().long().unique()
    blocks = video.split(step, dim=2)  # T times B C f H W
    references = [_frame_features(perceptual, block, chosen) for block in blocks]

    def distance(reconstruction: Tensor, clips: Tensor, t: int) -> dict[str, Tensor]:
        frames = reconstruction[:, :, chosen].transpose(1, 2).flatten(0, 1)  # S·m C H W
        reference = [feature[clips].flatten(0, 1) for feature in references[t]]  # S·m … each
        distances = perceptual.distance_from_features(perceptual.features(frames), reference)  # S·m
        mse = (reconstruction - blocks[t][clips]).square().flatten(1).mean(1)  # S
        return {"perceptual": distances.view(len(clips), -1).mean(1), "mse": mse}

    found = CandidateSearch(tokenizer, distance, config.max_segments).all_distances(video)
    return [
        {
            "key": int(batch.index[i]),
            "path": batch.paths[i],
            "label": int(batch.label[i]),
            "perceptual": found["perceptual"][i].float().numpy(),
            "mse": found["mse"][i].float().numpy(),
        }
        for i in range(len(batch))
    ]


@torch.no_grad()
def _frame_features(perceptual: PerceptualDistance | LPIPSDistance, block: Tensor, chosen: Tensor) -> list[Tensor]:
    """Features of some frames of B C f H W blocks, each (B, m, …)."""
    frames = block[:, :, chosen].transpose(1, 2)  # B m C H W
    return [feature.unflatten(0, frames.shape[:2]) for feature in perceptual.features(frames.flatten(0, 1))]
