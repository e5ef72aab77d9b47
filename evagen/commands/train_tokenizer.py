"""Trains a video tokenizer: stage 1 with random assignments, stage 4 with a router's.

evagen train-tokenizer quickstart/proxy [key=value …]
"""

from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from pydantic import Field, model_validator
from torch import Tensor

from evagen.config import Place, section_of
from evagen.data.clips import SKIPPED, ClipDataset, report_skipped
from evagen.data.loader import train_loader
from evagen.data.lost_clips import LostClips
from evagen.data.sources import DataConfig
from evagen.errors import UserError
from evagen.kernels.transfer import send
from evagen.models.lengths import Assign, LengthChoice
from evagen.models.loading import new_model, start_from
from evagen.run import ReadsClips
from evagen.tokenizer import AssignmentSpace, DeadCodeRestart, VideoTokenizer
from evagen.training.failures import explained
from evagen.training.held_out import HeldOutConfig, open_held_out
from evagen.training.metrics import SinceLastLine
from evagen.training.objective import Objective, ObjectiveConfig
from evagen.training.resuming import is_finished
from evagen.training.run import TrainingRun, batch_generator, seed_draws
from evagen.training.settings import LayerSettings, OptimizerConfig, TrainingSettings

ModelConfig = section_of(VideoTokenizer, leave_out=["num_frames", "resolution"])


RESTART_UNTIL = 0.8
"""Share of the training in which dead codes are restarted; after it the codebook settles."""


class TokenizerRun(LayerSettings, ReadsClips, TrainingSettings):
    pass


class TokenizerTraining(LengthChoice):
    """Lengths: a router's (stage 4), uniform ones, or else drawn at random from all assignments (stage 1)."""

    random_share: float = Field(0.0, ge=0, le=1)
    """Share of the clips that are given random lengths all the same, so that the tokenizer knows lengths too that the
    router seldom chooses. The paper's final tokenizers see the router's alone."""
    pieces: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Lengths in frames, of which each divides `data.frames`; for a model with `memory_blocks`. The clips of a batch
    have one of them, drawn at random (twice as often where it is named twice), and are as many more than
    `optimizer.batch_size` as they are shorter than `data.frames`, each of another video. All batches cost the same."""
    run: TokenizerRun
    data: DataConfig
    model: ModelConfig  # type: ignore[valid-type]
    start_from: Place | None = None
    """A trained tokenizer, folder or hub id, to train further (fine-tuning). Its model settings are needed."""
    loss: ObjectiveConfig = ObjectiveConfig()
    held_out: HeldOutConfig = HeldOutConfig()
    optimizer: OptimizerConfig
    restart_codes_after: int | None = Field(100, ge=1)
    """Batches after which a code that was not chosen is dead: it restarts where one of the encoder's vectors is. For
    quantisers with a learnt codebook. Codes stay where they are if None."""

    @model_validator(mode="after")
    def _random_lengths_have_no_settings(self) -> "TokenizerTraining":
        for name, value in (("prefix", self.prefix and list(self.prefix)), ("random_share", self.random_share)):
            if value and not self.is_made:
                raise ValueError(
                    f"{name}={value} needs router or uniform_length beside it: without, all lengths are drawn at random"
                )
        return self

    @model_validator(mode="after")
    def _pieces_fit(self) -> "TokenizerTraining":
        if self.pieces and self.model.memory_blocks is None:
            raise ValueError(
                f"pieces={list(self.pieces)} needs model.memory_blocks: without, a tokenizer knows clips of one length"
            )
        odd = [frames for frames in self.pieces if self.data.frames % frames or frames % self.model.temporal_patch]
        if odd:
            raise ValueError(
                f"pieces={list(self.pieces)}: {odd} do not divide data.frames={self.data.frames} into whole blocks of "
                f"model.temporal_patch={self.model.temporal_patch} frames"
            )
        return self


@explained
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
    has_codebook = model.quantizer.codebook is not None  # fsq and bsq have codes that cannot die
    patience = config.restart_codes_after if has_codebook else None
    dead_codes = DeadCodeRestart(model.quantizer, patience) if patience else None
    run = TrainingRun(config, config.run, config.optimizer, model)
    check_not_sharded(config.model.quantizer, has_codebook, run.accelerator)
    objective = Objective(config.loss, model, config.optimizer, run.accelerator, config.pieces)
    lost, since = LostClips(dataset), SinceLastLine(config.model.codebook_size, run.accelerator)
    if run.accelerator.process_index:  # numbers that svq draws by, which would be those of the first process
        seed_draws(config.run.seed, run.accelerator.process_index)
    run.resume(keep=[*([dead_codes] if dead_codes else []), objective.lecam, *objective.schedulers, lost, since])
    assign = config.load(model) if config.is_made else None
    held_out = open_held_out(config.held_out, dataset, run, objective.perceptual)
    accelerator = run.accelerator
    loader = train_loader(
        dataset, config.optimizer.batch_size, config.run.seed, run.first_batch, config.run.num_workers,
        accelerator.process_index, accelerator.num_processes, config.pieces,
    )  # fmt: skip
    for number, batch in zip(run.batches(), loader):
        lost.note(batch.skipped)
        random = batch_generator(config.run.seed, number, accelerator.process_index)
        video = batch.video.to(run.device, non_blocking=True)  # B C F H W
        drawn = _draw(video, config, assign, random, accelerator)
        output = run.model(video, drawn.lengths)
        loss, terms = objective.for_tokenizer(output, video, drawn.frames, run.step, model.to_pixels.weight)
        since.usage.update(output.tokens.codes)
        run.update(loss, terms, len(video))
        if run.log_is_due:
            seen = since.take()
            if held_out and run.brings_look(held_out.every):
                seen |= held_out.look(model.assignments, assign, config.optimizer.batch_size, run.step + 1)
            seen["tokens_per_clip"] = drawn.lengths.sum(1).double().mean()
            run.log({"loss": loss, **terms, **seen})
        of_others = objective.after_update(output, video, run.step, random)
        run.watch(of_others)  # in its own step, so that no checkpoint holds what is broken
        since.terms |= of_others  # which the next line of the log tells
        if dead_codes and run.step < RESTART_UNTIL * config.optimizer.steps:
            restart_dead_codes(dead_codes, output.tokens.codes, output.encoded, drawn.restarts, accelerator)
    skipped = lost.of_all()
    run.finish()
    if accelerator.is_main_process:
        report_skipped(skipped, dataset.num_files, all_in=config.run.out / SKIPPED)
    return config.run.out


def check_not_sharded(quantizer: str, learnt: bool, accelerator: Accelerator) -> None:
    """Raises UserError for learnt codes under FSDP, which would spread them over processes, where none of them can move
    the dead ones."""
    if learnt and accelerator.is_fsdp2:
        raise UserError(
            f"model.quantizer={quantizer} learns its codes, and FSDP would spread these over processes: train with DDP "
            "(configs/accelerate/ddp.yaml), or take fsq or bsq"
        )


class Drawn(NamedTuple):
    """What is drawn for a batch. lengths: int64 (B, T); frames: which of its clips' frames, counted through, the
    perceptual distance compares; restarts: int64 (K,), at which of its encoded vectors each code begins again, should
    it be dead."""

    lengths: Tensor
    frames: Tensor
    restarts: Tensor


def _draw(
    video: Tensor, config: TokenizerTraining, assign: Assign | None, random: torch.Generator, accelerator: Accelerator
) -> Drawn:
    num_frames = len(video) * video.shape[2]
    num_compared = max(1, num_frames * config.loss.compare.frames // config.data.frames)
    frames = torch.randperm(num_frames, generator=random)[:num_compared]
    uniform = torch.rand(config.model.codebook_size, generator=random)  # K
    with accelerator.autocast():  # which the router's products take part in
        lengths = _draw_lengths(video, config, assign, random)  # B T
    restarts = (uniform * int(lengths.sum())).long()  # K
    return Drawn(lengths, *send((frames, restarts), video.device))


def _draw_lengths(video: Tensor, config: TokenizerTraining, assign: Assign | None, random: torch.Generator) -> Tensor:
    """A batch's lengths, int64 (B, T): at random, or for all but a share of the clips as `assign` says."""
    space = AssignmentSpace(config.model.levels, video.shape[2] // config.model.temporal_patch)
    remembers = config.model.memory_blocks is not None
    lengths = (space.random_runs if remembers else space.random)(len(video), random)  # B T
    if assign is None:
        return lengths
    is_random = torch.rand(len(video), 1, generator=random) < config.random_share  # B 1
    return torch.where(is_random, lengths, assign(video))


def restart_dead_codes(
    dead_codes: DeadCodeRestart,
    codes: Tensor,
    inputs: Tensor,
    drawn: Tensor,
    accelerator: Accelerator,
) -> None:
    """Moves the codes that no process has chosen for a while, in every process to the inputs that the first one drew.
    codes (N,), inputs (N, c), drawn (K,): this process' batch, and which of its inputs each code would go to."""
    dead_codes.step(codes, inputs, drawn, lambda counts: accelerator.reduce(counts, "sum"))
    if accelerator.num_processes > 1:
        broadcast(dead_codes.quantizer.codebook.data)
