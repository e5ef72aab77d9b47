"""A video file as frames for the models, one by one."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from evagen.data.video_reader import RgbConverter, count_frames, decoded_frames
from evagen.kernels.levels import levels_to_floats


@dataclass
class VideoFrames:
    """The frames of a file, float (C, H, W) in [-1, 1], decoded anew each time they are gone through. changes: how much
    each differed from the one before it, on average, the last time."""

    path: Path
    changes: list[float] = field(default_factory=list)

    def __iter__(self) -> Iterator[Tensor]:
        before: Tensor | None = None
        self.changes = []
        frames = decoded_frames(self.path, RgbConverter())
        for read, _ in tqdm(frames, "reading", count_frames(self.path), unit="frame", dynamic_ncols=True):
            frame = levels_to_floats(torch.from_numpy(np.ascontiguousarray(read)))
            same_size = before is not None and before.shape == frame.shape
            self.changes.append(float((frame - before).abs().mean()) if same_size and before is not None else 0.0)
            before = frame
            yield frame
