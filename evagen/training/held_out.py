"""A few held-out clips that a tokenizer's training looks at from time to time: how well it draws what it never saw, and
above all whether it draws what moves, which a falling loss does not tell."""

import math
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torchmetrics import MetricCollection

from evagen.config import ONLY_HOW, Section
from evagen.data.clips import ClipDataset
from evagen.data.loader import collate_clips
from evagen.data.sources import DataConfig, Split
from evagen.errors import UserError
from evagen.eval import MotionExplained, psnr
from evagen.eval.reconstruction import MeanOverVideos
from evagen.models.lengths import Assign
from evagen.tokenizer import AssignmentSpace


class HeldOutConfig(Section):
    """Clips that are encoded and decoded during the training: `held_out_psnr` and `held_out_motion` in the log. With
    the router's lengths where there is a router, or else the longest."""

    clips: int = Field(0, ge=0)
    """How many, taken in turn from every class; 0 leaves it out."""
    split: Split | None = None
    """Where in the data set they are. If None: `test`, and where the data set has no such split there is no look, which
    is said."""
    every: Annotated[int, ONLY_HOW] = Field(100, ge=1)
    """Steps between looks; a look is logged with the next line of the log."""


def open_held_out(config: HeldOutConfig, data: DataConfig, say: Callable[[str], object]) -> "HeldOutClips | None":
    """The clips; None where none are asked for, or, which `say` is told, the data set keeps none. Raises UserError for
    a split that is named and not there, and for clips of which none can be decoded."""
    if not config.clips:
        return None
    changes = {"split": config.split or "test", "clip": "first", "crop": "centre", "flip": False, "limit": config.clips}
    try:
        dataset = ClipDataset(DataConfig.model_validate(data.model_dump() | changes))
    except UserError as error:
        if config.split:
            raise
        say(f"the log goes without held-out clips: {error}")
        return None
    batch = collate_clips(list(dataset))
    if not batch:
        raise UserError(f"held_out: none of the {len(dataset)} clips in {data.root} can be decoded")
    return HeldOutClips(batch.video, config.every)


class HeldOutClips:
    """The clips in memory: video (n, C, F, H, W) in [-1, 1]."""

    def __init__(self, video: Tensor, every: int):
        self.video, self._every = video, every

    def is_due(self, done: int, log_every: int, steps: int) -> bool:
        """Whether the line of the log after `done` of all `steps` brings a look: the first after each multiple of
        `every`, and the last."""
        last_line = (done - 1) // log_every * log_every
        return done == steps or done // self._every > last_line // self._every

    @torch.no_grad()
    def measure(
        self, model: nn.Module, space: AssignmentSpace, assign: Assign | None, batch_size: int
    ) -> dict[str, float]:
        """Every process measures all clips, through the model as Accelerate wrapped it. Motion is left out where
        nothing moves."""
        device = next(model.parameters()).device
        metrics = MetricCollection({"psnr": MeanOverVideos(psnr), "motion": MotionExplained()}, compute_groups=False)
        metrics.to(device)
        model.eval()
        for batch in self.video.split(batch_size):
            video = batch.to(device)
            lengths = assign(video) if assign else space.uniform(space.levels[-1], len(video))
            metrics.update(model(video, lengths).reconstruction, video)
        model.train()
        values = {f"held_out_{name}": value.item() for name, value in metrics.compute().items()}
        return {name: value for name, value in values.items() if not math.isnan(value)}
