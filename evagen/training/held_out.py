"""A few held-out clips that a tokenizer's training looks at from time to time: how well it draws what it never saw,
and above all whether it draws what moves, which a falling loss does not tell. It looks at the weights that the run
would leave: the averaged ones, where there is an average.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torchmetrics import MetricCollection

from evagen.config import ONLY_HOW, Section
from evagen.data.clips import ClipDataset
from evagen.data.layouts import class_of
from evagen.data.loader import ClipBatch, collate_clips
from evagen.data.pictures import ShownClip, draw_clips, leave_picture
from evagen.data.sources import DataConfig, Split
from evagen.errors import UserError
from evagen.eval import FrameDistance, MotionExplained, psnr
from evagen.eval.reconstruction import MeanOverVideos, perceptual_distance
from evagen.kernels.levels import video_to_frames
from evagen.models.lengths import Assign
from evagen.tokenizer import AssignmentSpace
from evagen.training.best import BestWeights
from evagen.training.failures import where_room
from evagen.training.run import TrainingRun

FRAMES_COMPARED = 4
"""Of each clip, at equal distances, by the perceptual distance, which would otherwise take most of a look's time."""


class HeldOutConfig(Section):
    """Clips that are encoded and decoded during the training: `held_out_psnr`, `held_out_motion` and
    `held_out_perceptual` in the log, and pictures. With the router's lengths where there is a router, or else the
    longest."""

    clips: Annotated[int, ONLY_HOW] = Field(0, ge=0)
    """How many, taken in turn from every class; 0 leaves it out."""
    split: Annotated[Split | None, ONLY_HOW] = None
    """Where in the data set they are; videos that are trained on are refused. If None: `test`, and where the data set
    has no such split, or it is trained on, there is no look, which is said, unless `best` counts on it."""
    every: Annotated[int, ONLY_HOW] = Field(100, ge=1)
    """Steps between looks; a look is logged with the next line of the log."""
    shown: Annotated[int, ONLY_HOW] = Field(4, ge=0)
    """How many of them are drawn at each look, beside what their tokens give back, in `pictures/` of the run folder and
    for the tracker; 0 draws none."""
    best: Annotated[Literal["psnr", "perceptual", "motion"] | None, ONLY_HOW] = None
    """Keep the model with the best of these scores in `best/` of the run folder: it is found as `runs/x@best`. None
    keeps only what the training ends with."""

    @model_validator(mode="after")
    def _best_needs_clips(self) -> "HeldOutConfig":
        if self.best and not self.clips:
            raise ValueError(f"best={self.best} needs clips to score: give held_out.clips, for instance 16")
        return self


def open_held_out(
    config: HeldOutConfig, learnt: ClipDataset, run: TrainingRun, perceptual: FrameDistance
) -> "HeldOutClips | None":
    """The clips; None where none are asked for, or, which the run's main process says, there are none that are not
    learnt. Where they were counted on, by a named split or by `best`, this raises UserError, and so do clips of which
    none can be decoded."""
    if not config.clips:
        return None
    try:
        dataset = _unseen(config, learnt)
    except UserError as error:
        if config.split or config.best:
            raise
        run.accelerator.print(f"the log goes without held-out clips: {error}")
        return None
    batch = collate_clips(list(dataset))
    if not batch:
        raise UserError(f"held_out: none of the {len(dataset)} clips in {learnt.config.root} can be decoded")
    return HeldOutClips(batch, dataset.class_names, config, run, perceptual)


def _unseen(config: HeldOutConfig, learnt: ClipDataset) -> ClipDataset:
    """Raises UserError where there is no such split, or where it holds videos that are trained on."""
    split = config.split or "test"
    changes = {"split": split, "clip": "first", "crop": "centre", "flip": False, "limit": config.clips}
    dataset = ClipDataset(DataConfig.model_validate(learnt.config.model_dump() | changes))
    if seen := set(dataset.paths) & set(learnt.paths):
        raise UserError(
            f"held_out.split={split} holds videos that are trained on, {min(seen)} for one: clips that are learnt tell "
            f"nothing of others; train on another split than data.split={learnt.config.split}"
        )
    return dataset


class HeldOutClips:
    """The clips in memory, video (n, C, F, H, W) in [-1, 1], and what a look at them leaves. perceptual: the network
    that the loss compares frames with."""

    def __init__(
        self,
        batch: ClipBatch,
        class_names: list[str],
        config: HeldOutConfig,
        run: TrainingRun,
        perceptual: FrameDistance,
    ):
        self.video, self.run, self.perceptual, self.every = batch.video, run, perceptual, config.every
        self.names = [class_of(label, class_names) or "clip" for label in batch.label.tolist()]
        count = min(config.shown, len(self.video))
        self.shown = torch.linspace(0, len(self.video) - 1, count).round().long().tolist()
        self.best = BestWeights(run, config.best)

    @torch.no_grad()
    def look(self, space: AssignmentSpace, assign: Assign | None, batch_size: int, step: int) -> dict[str, float]:
        """Every process measures all clips, through the model as Accelerate wrapped it; one draws them. Returns the
        scores for the log, without motion where nothing moves."""
        run = self.run
        metrics = self._metrics().to(run.device)
        reconstructions, lengths = [], []
        run.model.eval()
        self.perceptual.is_exact = True
        with run.averaged_weights():
            for batch in self.video.split(batch_size):
                video = batch.to(run.device)
                lengths.append(assign(video) if assign else space.uniform(space.levels[-1], len(video)))
                reconstruction = run.model(video, lengths[-1]).reconstruction
                metrics.update(reconstruction, video)
                reconstructions.append(reconstruction.cpu())
        self.perceptual.is_exact = False
        run.model.train()
        values = {f"held_out_{name}": value.item() for name, value in metrics.compute().items()}
        values = {name: value for name, value in values.items() if not math.isnan(value)}
        self.best.look(values, step)
        if self.shown and run.accelerator.is_main_process:
            seen = torch.cat(reconstructions), torch.cat(lengths).cpu()
            where_room(f"the picture of step {step}", lambda: self._draw(*seen, max(space.levels), step))
        return values

    def _metrics(self) -> MetricCollection:
        chosen = torch.linspace(0, self.video.shape[2] - 1, min(self.video.shape[2], FRAMES_COMPARED)).round().long()

        def of_some_frames(reconstruction: Tensor, original: Tensor) -> Tensor:
            return perceptual_distance(self.perceptual, reconstruction[:, :, chosen], original[:, :, chosen])

        return MetricCollection(
            {
                "psnr": MeanOverVideos(psnr),
                "motion": MotionExplained(),
                "perceptual": MeanOverVideos(of_some_frames),
            },
            compute_groups=False,
        )

    def _draw(self, reconstructions: Tensor, lengths: Tensor, highest: int, step: int) -> None:
        """reconstructions (n, C, F, H, W), lengths (n, T)."""
        clips = []
        for i in self.shown:
            decibels = psnr(reconstructions[i : i + 1], self.video[i : i + 1]).item()
            title = f"{self.names[i]}: {int(lengths[i].sum())} tokens, {decibels:.1f} dB"
            versions = [video_to_frames(each[i]) for each in (self.video, reconstructions)]
            clips.append(ShownClip(title, versions, lengths[i].tolist()))
        heading = f"Step {step}. Held-out clips, beneath each what its tokens give back, and the tokens of each block."
        leave_picture(draw_clips(heading, clips, highest), self.run.run.out, step, self.run.accelerator)
