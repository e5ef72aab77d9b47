"""Trains a video tokenizer: stage 1 with random assignments, stage 4 with a router's.

evagen train-tokenizer quickstart/proxy [key=value …]
"""

from pathlib import Path

import torch
from accelerate.utils import broadcast, set_seed
from pydantic import Field

from evagen.config import Section, section_of
from evagen.data.clips import ClipDataset, report_skipped
from evagen.data.loader import train_loader
from evagen.data.sources import DataConfig
from evagen.errors import UserError
from evagen.models.loading import load_model, new_model, start_from
from evagen.tokenizer import CodebookUsage, CodeReviver, Router, VideoTokenizer
from evagen.training.objective import Objective, ObjectiveConfig
from evagen.training.run import OptimizerConfig, RunConfig, TrainingRun, batch_generator, is_finished

ModelConfig = section_of(VideoTokenizer, leave_out=["num_frames", "resolution"])


REVIVE_UNTIL = 0.8
"""Share of the training in which codes are moved; after it the codebook settles."""


class TokenizerTraining(Section):
    run: RunConfig
    data: DataConfig
    model: ModelConfig  # type: ignore[valid-type]
    start_from: str | None = None
    """A trained tokenizer, folder or hub id, to train further (fine-tuning). Its model settings are needed."""
    loss: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig
    revive_after: int = Field(100, ge=1)
    """Batches after which a code that was not chosen is moved to where the encoder's vectors are."""
    router: str | None = None
    """A trained router, folder or hub id, whose assignments to train on (stage 4). Random ones if None (stage 1)."""
    preference: float = Field(1.2, ge=0, le=2)
    """w_q of the router's assignments: higher spends more tokens."""


def main(config: TokenizerTraining) -> Path:
    """Trains to the end, resuming where an earlier run stopped; returns the run folder."""
    if is_finished(config, config.run.out):
        return config.run.out
    dataset = ClipDataset(config.data)
    set_seed(config.run.seed)
    shape = {"num_frames": config.data.frames, "resolution": config.data.size}
    model = new_model(VideoTokenizer, **config.model.model_dump(), **shape)
    if config.start_from:
        start_from(model, config.start_from)
    reviver = CodeReviver(model.quantizer, config.revive_after)
    run = TrainingRun(config, config.run, config.optimizer, model)
    objective = Objective(config.loss, model, run.accelerator)
    run.resume(keep=[reviver, objective.lecam])
    router = load_model(Router, config.router, run.device) if config.router else None
    if router and router.assignments.levels != model.assignments.levels:
        raise UserError(
            f"the router at {config.router} knows the levels {list(router.assignments.levels)}, "
            f"model.levels are {list(model.assignments.levels)}"
        )
    skipped = list(dataset.skipped)
    usage = CodebookUsage(config.model.codebook_size)
    accelerator = run.accelerator
    loader = train_loader(
        dataset, config.optimizer.batch_size, config.run.seed, run.first_batch, config.run.num_workers,
        accelerator.process_index, accelerator.num_processes,
    )  # fmt: skip
    discriminator_terms: dict[str, torch.Tensor] = {}
    for number, batch in zip(run.batches(), loader):
        skipped += batch.skipped
        if not batch:
            continue
        random = batch_generator(config.run.seed, number, accelerator.process_index)
        video = batch.video.to(run.device, non_blocking=True)  # B C F H W
        if router is None:
            lengths = model.assignments.random(len(video), random)  # B T
        else:
            lengths = router.assign(video, config.preference)
        frames = torch.randperm(len(video) * config.data.frames, generator=random)
        frames = frames[: len(video) * config.loss.compare.frames].to(run.device)
        output = run.model(video, lengths)
        loss, terms = objective.for_tokenizer(output, video, frames, run.step, model.to_pixels.weight)
        terms |= discriminator_terms
        usage.update(output.tokens.codes)
        metrics = {**terms, "codes_used": usage.used_fraction, "perplexity": usage.perplexity}
        metrics["tokens_per_clip"] = lengths.sum(1).double().mean()
        run.update(loss, metrics, len(video))
        discriminator_terms = objective.after_update(output, video)  # logged with the next batch
        if run.step < REVIVE_UNTIL * config.optimizer.steps:
            reviver.step(output.tokens.codes, output.encoded, random)
            broadcast(model.quantizer.codebook.data)  # every process takes the first one's moves
        if run.ends_step and (run.step + 1) % config.run.log_every == 0:
            usage.reset()
    run.finish(model)
    report_skipped(skipped, dataset.num_files, accelerator.print)
    return config.run.out
