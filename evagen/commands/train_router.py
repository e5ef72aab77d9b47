"""Stage 3: trains the router on a curation record, for a range of preferences at once: the one that looks at whole
clips, or, for a tokenizer with a memory, the one that looks at one block after another.

evagen train-router quickstart/router [key=value …]
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, count, tee
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from pydantic import Field, field_validator
from torch import Tensor
from torch.utils.data import Dataset

from evagen.config import Section, section_of
from evagen.data.clips import SKIPPED, Clip, ClipDataset, SkippedClip, report_skipped
from evagen.data.curation_record import CurationRecord, read_record
from evagen.data.loader import clip_loader
from evagen.data.lost_clips import LostClips, check_not_all_lost, others_than
from evagen.errors import UserError
from evagen.kernels.transfer import send
from evagen.models.loading import new_model
from evagen.run import ReadsClips
from evagen.tokenizer import PREFERENCE_RANGE, BlockRouter, RewardScale, Router, reward_percentile
from evagen.tokenizer.block_router import block_features
from evagen.tokenizer.reward import ScaleName, checked_range
from evagen.tokenizer.router import mirrored, router_features
from evagen.training.failures import explained
from evagen.training.resuming import is_finished
from evagen.training.run import TrainingRun, batch_generator, seed_draws
from evagen.training.settings import OptimizerConfig, TrainingSettings

RECORDS = ["levels", "num_frames", "resolution", "temporal_patch", "reward_scale", "preference_range"]
"""Of a router: what the record says, or the training."""
ModelConfig = section_of(Router, leave_out=RECORDS)

CACHE_BYTES = 2**30
"""Memory for what the router sees of clips, in each process: room for all of a small record, or some of a large one."""
MOST_HELD_OUT = 256
"""Clips that tell how the router does on what it has not seen; more would only take longer."""


class RouterRun(ReadsClips, TrainingSettings):
    pass


class RouterTraining(Section):
    run: RouterRun
    record: Path
    """The run folder of `evagen curate`."""
    model: ModelConfig = ModelConfig()  # type: ignore[valid-type]
    optimizer: OptimizerConfig
    reward_scale: ScaleName = "min-max"
    """How distances and lengths are scaled in the reward, see `evagen.tokenizer.reward`: `z-score` as published."""
    preference_range: tuple[float, float] = PREFERENCE_RANGE
    """The preferences w_q to train for, [low, high], and to be asked for. With low = high it is that one alone."""
    target_temperature: float = Field(0.0, ge=0)
    """0 trains on the best assignment alone; above it on softmax(reward / temperature), which tells the router
    how much worse the others are and suits small records."""
    held_out: float = Field(0.1, ge=0, lt=1)
    """Share of the record's clips, at most 256, kept from training, to log how much of the best reward the router
    reaches."""

    @field_validator("preference_range")
    @classmethod
    def _within_bounds(cls, value: tuple[float, float]) -> tuple[float, float]:
        return checked_range(value)


@explained
def main(config: RouterTraining) -> Path:
    """Trains to the end, resuming where an earlier run stopped; returns the run folder."""
    if is_finished(config, config.run.out):
        return config.run.out
    record = read_record(config.record)
    if record.mirrored:
        raise UserError(
            f"the record in {config.record} is of mirror images, which a study asks for; curate without mirrored=true"
        )
    dataset = record.open_clips()
    try:
        scale = record.scale(config.reward_scale)
    except ValueError as error:
        raise UserError(f"the record in {config.record} cannot be trained on: {error}") from error
    set_seed(config.run.seed)
    model = _new_router(config, record)
    run = TrainingRun(config, config.run, config.optimizer, model)
    lost = LostClips(dataset)
    if run.accelerator.process_index:  # dropout's numbers, which would be those of the first process
        seed_draws(config.run.seed, run.accelerator.process_index)
    run.resume(keep=[lost])
    train, held_out = _split(record, config.held_out)
    num_workers = config.run.num_workers
    cached = CachedFeatures(dataset, _features_of(model, record), CACHE_BYTES // max(num_workers, 1))
    side_by_side = 1 if record.is_of_states else record.space.num_blocks  # blocks in the features
    held_out, shown = _readable(cached, record, held_out, lost)
    to_load, to_train = tee(
        _draw(config, train, number, run.accelerator.process_index) for number in count(run.first_batch)
    )
    filled = FilledRows(cached, record.keys, train, config.run.seed)
    loader = clip_loader(filled, (drawn.rows.tolist() for drawn in to_load), num_workers, stacked)
    for _, drawn, batch in zip(run.batches(), to_train, loader):
        lost.note(batch.skipped)
        check_not_all_lost(batch.skipped, batch.features is not None)
        reward = record.reward(batch.rows, drawn.preference, scale)  # B A
        target = _target(reward, config.target_temperature)  # B A
        features, preference, target = send((batch.features, drawn.preference, target), run.device)  # B c h T·w, B, B A
        features = mirrored(features, side_by_side) if drawn.is_mirrored else features
        logits = run.model(features, preference)  # B A
        loss = F.cross_entropy(logits, target)
        accuracy = (logits.argmax(-1) == target.argmax(-1)).float().mean()
        run.update(loss, {"accuracy": accuracy}, len(batch.rows))
        if run.log_is_due:
            metrics = {"loss": loss, "accuracy": accuracy}
            if len(held_out):
                with run.averaged_weights():
                    metrics |= _reached(run.model, shown, held_out, record, scale, config)
            run.log(metrics)
    skipped = lost.of_all()
    run.finish()
    if run.accelerator.is_main_process:
        report_skipped(skipped, dataset.num_files, all_in=config.run.out / SKIPPED)
    return config.run.out


def _new_router(config: RouterTraining, record: CurationRecord) -> Router | BlockRouter:
    """Untrained; of one block after another for a tokenizer with a memory."""
    settings = {
        "levels": list(record.space.levels), "resolution": record.clips.size,
        "temporal_patch": record.clips.frames // (record.num_past + record.space.num_blocks + record.num_future),
        "reward_scale": config.reward_scale, "preference_range": list(config.preference_range),
        **config.model.model_dump(),
    }  # fmt: skip
    if record.is_of_states:
        return new_model(BlockRouter, memory_blocks=record.memory_blocks, **settings)
    return new_model(Router, num_frames=record.clips.frames, **settings)


def _features_of(model: Router | BlockRouter, record: CurationRecord) -> Callable[[Clip], Tensor]:
    """What the router sees of a clip of the record, (c, H/s, T·W/s)."""
    config = model.config
    if not record.is_of_states:
        return partial(_of_clip, temporal_patch=config.temporal_patch, downscale=config.downscale)
    return partial(
        _of_state, past=dict(zip(record.keys.tolist(), record.past)), temporal_patch=config.temporal_patch,
        memory=config.memory_blocks, longest=config.levels[-1], downscale=config.downscale,
    )  # fmt: skip


def _of_clip(clip: Clip, **settings: int) -> Tensor:
    return router_features(clip.video[None], **settings)[0]


def _of_state(clip: Clip, past: dict[int, Tensor], temporal_patch: int, memory: int, **settings: int) -> Tensor:
    """Of the block that follows the clip's past, which `past` has by the clip's key."""
    given = past[clip.index][past[clip.index] > 0][-memory:]  # (m,)
    first = len(past[clip.index]) * temporal_patch
    before = clip.video[None, :, first - len(given) * temporal_patch : first]
    block = clip.video[None, :, first : first + temporal_patch]
    return block_features(block, before, given[None], memory, **settings)[0]


class CachedFeatures(Dataset):
    """What a router sees of a data set's clips, (c, H/s, T·W/s) each. Those asked for first stay in memory, up to
    `max_bytes`: where clips are drawn evenly, no other choice would be met more often."""

    def __init__(self, dataset: ClipDataset, features_of: Callable[[Clip], Tensor], max_bytes: int):
        self.dataset, self.features_of, self.bytes_left = dataset, features_of, max_bytes
        self.kept: dict[int, Tensor] = {}

    def __getitem__(self, key: int) -> Tensor | SkippedClip:
        if key in self.kept:
            return self.kept[key]
        clip = self.dataset[key]
        if isinstance(clip, SkippedClip):
            return clip
        features = self.features_of(clip)
        if features.nbytes <= self.bytes_left:
            self.kept[key] = features
            self.bytes_left -= features.nbytes
        return features


class FilledRows(Dataset):
    """What a router sees of the clips of a record's rows. Where one cannot be read any more, another row of `train`
    takes its place. An item is the row, its features (None where no other could be read) and what was lost.

    keys: of the record's rows in the data set."""

    def __init__(self, cached: CachedFeatures, keys: Tensor, train: Tensor, seed: int):
        self.cached, self.keys, self.train, self.seed = cached, keys, train, seed

    def __getitem__(self, row: int) -> tuple[int, Tensor | None, list[SkippedClip]]:
        lost: list[SkippedClip] = []
        others = (int(self.train[number]) for number in others_than(row, len(self.train), self.seed))
        for each in chain([row], others):
            features = self.cached[int(self.keys[each])]
            if not isinstance(features, SkippedClip):
                return each, features, lost
            lost.append(features)
        return row, None, lost


class RowBatch(NamedTuple):
    """rows: of the record (B,), those that took the place of others among them; features: (B, c, H/s, T·W/s), None
    where one is missing; skipped: what could not be read."""

    rows: Tensor
    features: Tensor | None
    skipped: list[SkippedClip]


def stacked(items: Sequence[tuple[int, Tensor | None, list[SkippedClip]]]) -> RowBatch:
    """Items of `FilledRows` as a batch."""
    rows, features, lost = zip(*items)
    found = [each for each in features if each is not None]
    return RowBatch(torch.tensor(rows), torch.stack(found) if len(found) == len(items) else None, list(chain(*lost)))


def _readable(
    cached: CachedFeatures, record: CurationRecord, rows: Tensor, lost: LostClips
) -> tuple[Tensor, list[Tensor]]:
    """Those of some rows whose clips can be read, and what the router sees of them, (1, c, H/s, T·W/s) each."""
    found = {int(row): cached[int(record.keys[row])] for row in rows}
    lost.note(each for each in found.values() if isinstance(each, SkippedClip))
    features = {row: each[None] for row, each in found.items() if not isinstance(each, SkippedClip)}
    return torch.tensor(list(features), dtype=torch.int64), list(features.values())


def _split(record: CurationRecord, share: float) -> tuple[Tensor, Tensor]:
    """Rows of the record to train on, and rows to keep from training."""
    order = torch.randperm(len(record.keys), generator=torch.Generator().manual_seed(0))
    num_held_out = min(round(len(order) * share), MOST_HELD_OUT)
    if len(order) - num_held_out < 1:
        raise UserError(f"the record holds {len(order)} clips, too few to keep {share:.0%} from training")
    return order[num_held_out:], order[:num_held_out]


class DrawnRows(NamedTuple):
    """What a batch is to be trained on: rows of the record (B,), a preference for each (B,), whether to mirror the
    clips."""

    rows: Tensor
    preference: Tensor
    is_mirrored: bool


def _draw(config: RouterTraining, train: Tensor, number: int, process_index: int) -> DrawnRows:
    random = batch_generator(config.run.seed, number, process_index)
    rows = train[torch.randint(len(train), (config.optimizer.batch_size,), generator=random)]
    low, high = config.preference_range
    preference = torch.rand(len(rows), generator=random) * (high - low) + low
    return DrawnRows(rows, preference, bool(torch.rand((), generator=random) < 0.5))


def _target(reward: Tensor, temperature: float) -> Tensor:
    """Class probabilities (B, A) to train on, from rewards (B, A)."""
    if temperature == 0:
        return F.one_hot(reward.argmax(-1), reward.shape[-1]).float()
    return (reward / temperature).softmax(-1).float()


@torch.no_grad()
def _reached(
    model, features: list[Tensor], rows: Tensor, record: CurationRecord, scale: RewardScale, config: RouterTraining
) -> dict[str, float]:
    """The router's reward on held-out clips, n features (1, c, H/s, T·W/s): relative to the best, 1, and to an average
    assignment, 0; and as a percentile, between the worst and the best (EVATok eq. 8). Means over the lowest, the middle
    and the highest preference."""
    shares, percentiles = [], []
    model.eval()
    device = next(model.parameters()).device
    low, high = config.preference_range
    for preference in sorted({low, (low + high) / 2, high}):
        reward = record.reward(rows, preference, scale)  # n A
        chosen = []
        for seen in torch.cat(features).split(config.optimizer.batch_size):
            logits = model(seen.to(device), torch.full((len(seen),), preference, device=device))  # B A
            chosen.append(logits.argmax(-1).cpu())
        reached = reward.gather(1, torch.cat(chosen)[:, None])[:, 0]  # n
        best, average = reward.max(1).values, reward.mean(1)  # n each
        shares.append(((reached - average).mean() / (best - average).mean()).item())
        percentiles.append(reward_percentile(reward, torch.cat(chosen)))
    model.train()
    mean = {"held_out_reward": shares, "held_out_percentile": percentiles}
    return {name: sum(values) / len(values) for name, values in mean.items()}
