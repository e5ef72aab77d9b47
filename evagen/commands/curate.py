"""Stage 2, curation: every candidate assignment of every clip, reconstructed and measured.

evagen curate quickstart/curation [key=value …]

Leaves a record, a `datasets` table with a row for each clip (`evagen/data/curation_record.py`): for all assignments in
index order the perceptual distance, the mean squared error, and the same where something moves. Distances are stored,
not rewards, so that one record serves every preference. Any number of processes gives the same record; stopped
half-way, the same command goes on where it was.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from evagen.config import ONLY_HOW, Place, Section
from evagen.data.clip_table import fill_table
from evagen.data.clips import ClipDataset
from evagen.data.curation_record import LATER, MIRRORED, WEIGHTED
from evagen.data.loader import ClipBatch
from evagen.data.sources import DataConfig
from evagen.errors import UserError
from evagen.eval import LPIPSDistance, PerceptualDistance, moving_places
from evagen.kernels.motion import still_background
from evagen.kernels.names import as_text
from evagen.models.fit import check_clips
from evagen.models.inference import autocast, load_for, made_in
from evagen.models.loading import fingerprint
from evagen.models.networks import PerceptualNetwork
from evagen.run import PATIENCE, Infers, ReadsClips, RunFolder, start_accelerator
from evagen.tokenizer import AssignmentSpace, CandidateSearch, VideoTokenizer
from evagen.tokenizer.search import BlockDistance
from evagen.training.run import batch_generator

MOST_CANDIDATES = 10_000
"""Assignments of a clip that can be measured one and all; the paper has 625."""


class CurationRun(Infers, ReadsClips, RunFolder):
    pass


class Curation(Section):
    run: CurationRun
    data: DataConfig
    tokenizer: Place
    """The proxy tokenizer, folder or hub id."""
    batch_size: int = Field(4, ge=1)
    """Clips searched together."""
    max_segments: Annotated[int, ONLY_HOW] = Field(128, ge=1)
    """Blocks evaluated at once, which bounds memory."""
    compare: PerceptualNetwork = PerceptualNetwork()
    """The network whose distance is the reward's quality."""
    distance_frames: int = Field(4, ge=1)
    """Frames of each block, evenly spread, that the perceptual distance looks at."""
    motion_weight: float = Field(0.0, ge=0)
    """Of the squared error where something moves (`moving_mse`), added to the perceptual distance in the reward's
    distance. Not in the paper. A perceptual network passes over small things; 100 makes up for it on Arcade with the
    offline one (docs/log.md)."""
    mse_weight: float = Field(0.0, ge=0)
    """Of the mean squared error, likewise. Where PSNR counts as much as the perceptual distance: their ratio in the
    uniform assignments' range, about 100 on Arcade."""
    past: int = Field(0, ge=0)
    """For a tokenizer with a memory: in place of whole clips what is curated are states that a video can be in. Up to
    so many of a clip's first blocks are a past that is given, its number and its lengths drawn at random, and the
    candidates are the assignments of the blocks that follow. What is best for the first of them is what a block-wise
    router learns. `data.frames` counts past and following blocks."""
    future: int = Field(0, ge=0)
    """Beside `past`: so many of a clip's last blocks are not searched but given lengths at random, from the same draw
    as the past. What an assignment leaves to them counts in its reward: with a memory of many blocks, tokens are an
    outlay that the next few blocks alone do not bring in."""
    mirrored: bool = False
    """Measure the clips' mirror images, for the study: what a look at a clip can tell at best of its own distances,
    if the tokenizer was trained on mirrored clips too."""
    save_seconds: Annotated[float, ONLY_HOW] = Field(60, ge=0)
    """Seconds between saves, which is what a killed process loses at most."""


def main(config: Curation) -> Path:
    """Writes the record into `<run.out>/record`; does nothing if it is there already. Returns `run.out`, which is what
    `record` of the next commands takes."""
    accelerator = start_accelerator(config, config.run.out, patience=PATIENCE)
    record = config.run.out / "record"
    if record.exists():
        return config.run.out
    tokenizer = load_for(config.run, VideoTokenizer, config.tokenizer, accelerator.device)
    check_clips(tokenizer, config.data.frames, config.data.size, "the clips", "change data.frames and data.size")
    space = _candidates(tokenizer, config)
    perceptual = config.compare.load().to(accelerator.device)
    about = {
        "tokenizer": fingerprint(tokenizer),
        "distance": f"{perceptual.name} {perceptual.fingerprint}" + MIRRORED * config.mirrored,
        **{name: getattr(config, name) for name in ("past", "future") if getattr(config, name)},
        **made_in(config.run, accelerator.device),
    }
    contents = {
        "tokenizer_source": config.tokenizer,
        "levels": list(tokenizer.assignments.levels),
        "num_blocks": space.num_blocks,
        "past": config.past,
        "future": config.future,
        "memory_blocks": tokenizer.config.memory_blocks,
        "clips": config.data.model_dump(mode="json"),
        "distance_frames": config.distance_frames,
        **{name: getattr(config, name) for name in WEIGHTED},
        "mirrored": config.mirrored,
    }
    with autocast(config.run, accelerator.device):
        fill_table(
            record, ClipDataset(config.data), lambda batch: _measure(batch, tokenizer, perceptual, config), about,
            accelerator, config.batch_size, config.run.num_workers, config.save_seconds, contents,
        )  # fmt: skip
    return config.run.out


def _candidates(tokenizer: VideoTokenizer, config: Curation) -> AssignmentSpace:
    """What is measured of each clip. Raises UserError where that is too much, or nothing."""
    step = tokenizer.config.temporal_patch
    given = config.past + config.future
    searched = config.data.frames // step - given
    if tokenizer.config.memory_blocks is None and given:
        raise UserError(
            f"past={config.past}, future={config.future}: the tokenizer at {config.tokenizer} has no memory, so its "
            "clips have neither: leave them out"
        )
    if searched < 1:
        raise UserError(
            f"past={config.past}, future={config.future}: clips of data.frames={config.data.frames} have "
            f"{config.data.frames // step} blocks, of which none is left to search; give data.frames="
            f"{(given + 3) * step} to search three"
        )
    space = AssignmentSpace(tokenizer.config.levels, searched)
    if space.count > MOST_CANDIDATES:
        raise UserError(
            f"{searched} blocks have {space.count:,} candidate assignments, more than the {MOST_CANDIDATES:,} that can "
            "all be measured: curate with fewer levels, or "
            + ("shorter clips" if tokenizer.config.memory_blocks is None else "a longer past and less behind it")
        )
    return space


def _draw_given(batch: ClipBatch, levels: Sequence[int], config: Curation) -> tuple[Tensor, Tensor]:
    """The past of a batch, as long for all of its clips, int64 (B, p) with p from 0 to `config.past`, and its future,
    (B, `config.future`)."""
    random = batch_generator(config.data.seed, int(batch.index[0]), 0)
    num_past = int(torch.randint(config.past + 1, (), generator=random))
    given = AssignmentSpace(levels, max(num_past + config.future, 1)).random_runs(len(batch), random)
    return given[:, :num_past], given[:, num_past : num_past + config.future]


def block_distance(
    video: Tensor, perceptual: PerceptualDistance | LPIPSDistance, block_frames: int, distance_frames: int,
    background: Tensor | None = None,
) -> BlockDistance:  # fmt: skip
    """What blocks of videos (B, C, F, H, W) in [-1, 1] are compared by: the perceptual distance of so many frames of
    each, the mean squared error, and the squared error where something moves against the still background (B, C, 1, H,
    W), that of the videos if None."""
    chosen = torch.linspace(0, block_frames - 1, min(distance_frames, block_frames)).round().long().unique()
    chosen = chosen.to(video.device)
    blocks = video.split(block_frames, dim=2)  # T times B C f H W
    background = still_background(video) if background is None else background
    moves = [moving_places(block, background) for block in blocks]  # T times B 1 f H W
    references = [_frame_features(perceptual, block, chosen) for block in blocks]

    def distance(reconstruction: Tensor, clips: Tensor, t: int) -> dict[str, Tensor]:
        frames = reconstruction[:, :, chosen].transpose(1, 2).flatten(0, 1)  # S·m C H W
        reference = [feature[clips].flatten(0, 1) for feature in references[t]]  # S·m … each
        distances = perceptual.distance_from_features(perceptual.features(frames), reference)  # S·m
        mse = (reconstruction - blocks[t][clips]).square().flatten(1).mean(1)  # S
        moving = _masked_mse(reconstruction, blocks[t][clips], moves[t][clips])  # S
        return {"perceptual": distances.view(len(clips), -1).mean(1), "mse": mse, "moving_mse": moving}

    return distance


def _measure(
    batch: ClipBatch, tokenizer: VideoTokenizer, perceptual: PerceptualDistance | LPIPSDistance, config: Curation
) -> list[dict]:
    video = batch.video.to(tokenizer.device)  # B C F H W
    video = video.flip(-1) if config.mirrored else video
    step = tokenizer.config.temporal_patch
    past, future = _draw_given(batch, tokenizer.config.levels, config)  # B p, B q
    background = still_background(video)  # B C 1 H W
    video = video[:, :, (config.past - past.shape[1]) * step :]
    behind_past = video[:, :, past.shape[1] * step :]
    searched = behind_past[:, :, : behind_past.shape[2] - config.future * step]
    moves = moving_places(searched, background)  # B 1 F H W
    still = _masked_mse(background, searched, moves)  # B
    measured = block_distance(behind_past, perceptual, step, config.distance_frames, background)

    def distance(blocks: Tensor, clips: Tensor, t: int) -> dict[str, Tensor]:
        prefix = LATER if t * step >= searched.shape[2] else ""
        return {prefix + name: values for name, values in measured(blocks, clips, t).items()}

    found = CandidateSearch(tokenizer, distance, config.max_segments).all_distances(video, past, future)
    padded = F.pad(past, (config.past - past.shape[1], 0))  # B P
    return [
        {
            "key": int(batch.index[i]),
            "path": as_text(batch.paths[i]),
            "label": int(batch.label[i]),
            "still_mse": still_mse,
            **({"past": padded[i].numpy()} if config.past else {}),
            **{name: distances[i].float().numpy() for name, distances in found.items()},
        }
        for i, still_mse in enumerate(still.tolist())
    ]


def _masked_mse(video: Tensor, original: Tensor, where: Tensor) -> Tensor:
    """Squared error at some places of B C f H W blocks, over all places: where bool (B, 1, f, H, W) → (B,)."""
    return ((video - original).square() * where).flatten(1).mean(1)


@torch.no_grad()
def _frame_features(perceptual: PerceptualDistance | LPIPSDistance, block: Tensor, chosen: Tensor) -> list[Tensor]:
    """Features of some frames of B C f H W blocks, each (B, m, …)."""
    frames = block[:, :, chosen].transpose(1, 2)  # B m C H W
    return [feature.unflatten(0, frames.shape[:2]) for feature in perceptual.features(frames.flatten(0, 1))]
