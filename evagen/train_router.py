"""Stage 3: trains the router on a curation record, for all preferences at once.

accelerate launch -m evagen.train_router configs/quickstart/router.yaml [key=value …]
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from pydantic import Field
from torch import Tensor

from evagen.config import Section, section_of
from evagen.curate import CurationRecord, read_record
from evagen.data.clips import ClipDataset, collate_clips
from evagen.errors import UserError
from evagen.training import OptimizerConfig, RunConfig, TrainingRun, is_finished, step_generator
from tokenizer import PREFERENCE_RANGE, QualityScale, Router, proxy_reward

ModelConfig = section_of(Router, leave_out=["levels", "num_frames", "resolution", "temporal_patch"])


class RouterTraining(Section):
    run: RunConfig
    record: Path
    """The run folder of `evagen curate`."""
    model: ModelConfig = ModelConfig()  # type: ignore[valid-type]
    optimizer: OptimizerConfig
    target_temperature: float = Field(0.0, ge=0)
    """0 trains on the best assignment alone; above it on softmax(reward / temperature), which tells the router
    how much worse the others are and suits small records."""
    held_out: float = Field(0.1, ge=0, lt=1)
    """Share of the record's clips kept from training, to log how much of the best reward the router reaches."""


def main(config: RouterTraining) -> Path:
    """Trains to the end, resuming where an earlier run stopped; returns the run folder."""
    if is_finished(config, config.run.out):
        return config.run.out
    record = read_record(config.record)
    dataset = ClipDataset(record.clips)
    scale = QualityScale.of(record.perceptual)
    set_seed(config.run.seed)
    model = Router(
        levels=list(record.space.levels), num_frames=record.clips.frames, resolution=record.clips.size,
        temporal_patch=record.clips.frames // record.space.num_blocks, **config.model.model_dump(),
    )  # fmt: skip
    run = TrainingRun(config, config.run, config.optimizer, model)
    run.resume()
    train, held_out = _split(record, config.held_out)
    video = _load_clips(dataset, record.keys)  # n C F H W, uint8: the record's clips fit in memory
    for step in run.steps():
        random = step_generator(config.run.seed, step, run.accelerator.process_index)
        rows = train[torch.randint(len(train), (config.optimizer.batch_size,), generator=random)]
        low, high = PREFERENCE_RANGE
        preference = torch.rand(len(rows), generator=random) * (high - low) + low  # B
        clips = _to_float(video[rows])  # B C F H W
        if torch.rand((), generator=random) < 0.5:
            clips = clips.flip(-1)
        reward = proxy_reward(record.perceptual[rows], preference, record.space, scale)  # B A
        target = _target(reward, config.target_temperature).to(run.device)
        logits = run.model(clips.to(run.device), preference.to(run.device))  # B A
        loss = F.cross_entropy(logits, target)
        metrics = {"accuracy": (logits.argmax(-1) == target.argmax(-1)).float().mean()}
        if len(held_out):
            metrics["held_out_reward"] = lambda: _reward_reached(run.model, video, held_out, record, scale)
        run.update(step, loss, metrics, len(rows))
    run.finish(model)
    return config.run.out


def _split(record: CurationRecord, share: float) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(record.keys), generator=torch.Generator().manual_seed(0))
    count = round(len(order) * share)
    if len(order) - count < 1:
        raise UserError(f"the record holds {len(order)} clips, too few to keep {share:.0%} from training")
    return order[count:], order[:count]


def _load_clips(dataset: ClipDataset, keys: Tensor) -> Tensor:
    batch = collate_clips([dataset[int(key)] for key in keys])
    if batch.skipped:
        lost = batch.skipped[0]
        raise UserError(f"{lost.path} was measured in the record but cannot be read now: {lost.reason}")
    return ((batch.video + 1) * 127.5).round().to(torch.uint8)


def _to_float(video: Tensor) -> Tensor:
    return video.float() / 127.5 - 1


def _target(reward: Tensor, temperature: float) -> Tensor:
    """Class probabilities (B, A) to train on, from rewards (B, A)."""
    if temperature == 0:
        return F.one_hot(reward.argmax(-1), reward.shape[-1]).float()
    return (reward / temperature).softmax(-1).float()


@torch.no_grad()
def _reward_reached(model, video: Tensor, rows: Tensor, record: CurationRecord, scale: QualityScale) -> float:
    """The router's reward on held-out clips relative to the best, 1, and to an average assignment, 0; mean over
    three preferences."""
    shares = []
    model.eval()
    for preference in (PREFERENCE_RANGE[0], 1.2, PREFERENCE_RANGE[1]):
        reward = proxy_reward(record.perceptual[rows], preference, record.space, scale)  # n A
        device = next(model.parameters()).device
        clips = _to_float(video[rows]).to(device)
        chosen = model(clips, torch.full((len(rows),), preference, device=device)).argmax(-1).cpu()  # n
        reached = reward.gather(1, chosen[:, None])[:, 0]
        best, average = reward.max(1).values, reward.mean(1)
        shares.append(((reached - average).mean() / (best - average).mean()).item())
    model.train()
    return sum(shares) / len(shares)


if __name__ == "__main__":
    from evagen.cli import stage_main

    stage_main("evagen.train_router")
