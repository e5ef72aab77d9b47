"""A video file as frames for the models, one by one."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor
from tqdm.auto import tqdm

from evagen.data.video_reader import count_frames, iterate_frames
from evagen.kernels.levels import frames_to_video


@dataclass
class VideoFrames:
    """The frames of a file, float (C, H, W) in [-1, 1], decoded anew each time they are gone through. changes: how much
    each differed from the one before it, on average, the last time."""

    path: Path
    changes: list[float] = field(default_factory=list)

    def __iter__(self) -> Iterator[Tensor]:
        before: Tensor | None = None
        self.changes = []
        frames = tqdm(
            iterate_frames(self.path), total=count_frames(self.path), desc="reading", unit="frame", dynamic_ncols=True
        )
        for read in frames:
            frame = frames_to_video(read[None])[:, 0]
            same_size = before is not None and before.shape == frame.shape
            self.changes.append(float((frame - before).abs().mean()) if same_size and before is not None else 0.0)
            before = frame
            yield frame
