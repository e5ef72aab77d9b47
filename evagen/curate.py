"""Stage 2, curation: every candidate assignment of every clip, reconstructed and measured.

accelerate launch -m evagen.curate configs/quickstart/curation.yaml [key=value …]

Leaves a record, a `datasets` table with a row for each clip: its key in the clip data set, path, label, and
for all assignments in index order the perceptual distance and the mean squared error. Distances are stored,
not rewards, so that one record serves every preference.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset, load_from_disk
from pydantic import Field
from torch import Tensor
from tqdm.auto import tqdm

from evagen.checkpoints import load_model
from evagen.config import Section, load_config
from evagen.data.clips import ClipBatch, ClipDataset, DataConfig, SkippedClip, ordered_loader, report_skipped
from evagen.errors import UserError
from evagen.training import RunConfig, start_accelerator
from eval import PerceptualDistance
from tokenizer import AssignmentSpace, CandidateSearch, VideoTokenizer


class Curation(Section):
    run: RunConfig
    data: DataConfig
    tokenizer: str
    """The proxy tokenizer, folder or hub id."""
    batch_size: int = Field(4, ge=1)
    """Clips searched together."""
    max_segments: int = Field(128, ge=1)
    """Blocks evaluated at once, which bounds memory."""
    distance_frames: int = Field(4, ge=1)
    """Frames of each block, evenly spread, that the perceptual distance looks at."""


@dataclass(frozen=True)
class CurationRecord:
    """What stage 2 found. clips: the data set it went over; space: the candidates; keys: int64 (n,) into clips;
    perceptual, mse: float64 (n, A)."""

    clips: DataConfig
    space: AssignmentSpace
    keys: Tensor
    perceptual: Tensor
    mse: Tensor


def main(config: Curation) -> Path:
    """Writes the record into `<run.out>/record`; does nothing if it is there already."""
    record = config.run.out / "record"
    if record.exists():
        return record
    accelerator = start_accelerator(config, config.run)
    if accelerator.num_processes > 1:
        raise UserError("curation runs in one process; launch it with --num_processes 1")
    tokenizer = load_model(VideoTokenizer, config.tokenizer, accelerator.device)
    check_clips_fit(tokenizer, config.data)
    dataset = ClipDataset(config.data)
    perceptual = PerceptualDistance().to(accelerator.device)
    rows: list[dict] = []
    skipped: list[SkippedClip] = list(dataset.skipped)
    loader = ordered_loader(dataset, config.batch_size, config.run.num_workers)
    with tqdm(total=len(dataset), desc="curation", unit="clip", dynamic_ncols=True) as bar:
        for batch in loader:
            skipped += batch.skipped
            if batch:
                rows += _measure(batch, tokenizer, perceptual, config)
            bar.update(len(batch) + len(batch.skipped))
    partial = record.with_name("record.partial")
    Dataset.from_list(rows).save_to_disk(partial)
    partial.rename(record)
    report_skipped(skipped, dataset.num_files)
    return record


def read_record(folder: str | Path) -> CurationRecord:
    """A record by its run folder. Raises UserError where there is none or it is half-written."""
    folder = Path(folder)
    if not (folder / "record").is_dir():
        raise UserError(f"{folder} holds no finished curation record; run `evagen curate` with run.out={folder}")
    config = load_config(Curation, folder / "config.yaml")
    tokenizer = VideoTokenizer.load_config(config.tokenizer)
    space = AssignmentSpace(tokenizer["levels"], tokenizer["num_frames"] // tokenizer["temporal_patch"])
    table = load_from_disk(folder / "record").with_format("numpy")
    perceptual, mse = (torch.from_numpy(table[name][:]).double() for name in ("perceptual", "mse"))
    return CurationRecord(config.data, space, torch.from_numpy(table["key"][:]), perceptual, mse)


def check_clips_fit(tokenizer: VideoTokenizer, data: DataConfig) -> None:
    """Raises UserError unless the data set's clips have the frames and size the tokenizer was trained on."""
    wanted = (tokenizer.config.num_frames, tokenizer.config.resolution)
    if (data.frames, data.size) != wanted:
        raise UserError(
            f"the tokenizer works on clips of {wanted[0]} frames at {wanted[1]} pixels; "
            f"data.frames is {data.frames} and data.size {data.size}"
        )


def _measure(batch: ClipBatch, tokenizer: VideoTokenizer, perceptual: PerceptualDistance, config: Curation) -> list:
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
def _frame_features(perceptual: PerceptualDistance, block: Tensor, chosen: Tensor) -> list[Tensor]:
    """Features of some frames of B C f H W blocks, each (B, m, …)."""
    frames = block[:, :, chosen].transpose(1, 2)  # B m C H W
    return [feature.unflatten(0, frames.shape[:2]) for feature in perceptual.features(frames.flatten(0, 1))]


if __name__ == "__main__":
    from evagen.cli import stage_main

    stage_main("evagen.curate")
