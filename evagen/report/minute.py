"""A minute on the report page: a long video, what is decoded of its tokens, and its tokens over time.

Letters: C = 3 colours, F frames, H × W pixels.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evagen.data.video_writer import write_video
from evagen.eval import motion_explained, moving_errors, psnr_of_mse
from evagen.kernels.levels import video_to_frames
from evagen.report.clips import check_frames, data_uri
from evagen.report.tokens_over_time import draw
from evagen.tokenizer import AdaptiveTokenizer, Router, VideoTokenizer

SHOWN_LARGER = 2
"""Small pictures are encoded larger: video formats halve the resolution of colours."""


@dataclass
class Minute:
    """A long video and what is decoded of its tokens, both uint8 `F H W 3`; lengths: tokens of all its blocks; changes:
    from each frame to the next, in [0, 2]; scenes: what is seen in it, one after another; psnr in dB; motion explained,
    of clips of as many frames as the tokenizer's, None where nothing moves."""

    original: np.ndarray
    reconstruction: np.ndarray
    lengths: list[int]
    changes: list[float]
    frames_per_second: float
    psnr: float
    motion: float | None
    scenes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_frames(self.original, "original")
        check_frames(self.reconstruction, "reconstruction")

    @property
    def seconds(self) -> float:
        return len(self.original) / self.frames_per_second

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def figures(self) -> dict[str, float | None]:
        """What goes into `summary.json`."""
        rate = self.tokens / self.seconds
        return {"seconds": self.seconds, "tokens_per_second": rate, "psnr": self.psnr, "motion": self.motion}

    def video_uri(self) -> str:
        """Original and reconstruction side by side: an H.264 file as a data URI."""
        both = np.concatenate([self.original, self.reconstruction], axis=2)  # F H 2·W 3
        larger = (frame.repeat(SHOWN_LARGER, 0).repeat(SHOWN_LARGER, 1) for frame in both)
        with tempfile.TemporaryDirectory() as folder:
            write_video(path := Path(folder) / "minute.mp4", larger, self.frames_per_second)
            return data_uri(path.read_bytes(), "video/mp4")

    def graph_uri(self) -> str:
        """Tokens over time, a PNG as a data URI."""
        frames_per_block = -(-len(self.original) // len(self.lengths))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.png"
            draw(self.lengths, self.changes, self.frames_per_second, frames_per_block, path)
            return data_uri(path.read_bytes(), "image/png")


def measure_minute(
    video: Tensor,
    frames_per_second: float,
    scenes: list[str],
    tokenizer: VideoTokenizer,
    router: Router,
    preference: float,
) -> Minute:
    """Encodes a video (C, F, H, W) in [-1, 1] clip by clip, and decodes it."""
    model = AdaptiveTokenizer(tokenizer, router)
    tokens = model.encode(video, preference=preference)
    decoded = model.decode(tokens)  # (C, F, H, W)
    per_clip = tokenizer.config.num_frames
    whole = video.shape[1] // per_clip * per_clip
    clips = [torch.stack(each[:, :whole].split(per_clip, dim=1)) for each in (decoded, video)]  # (n, C, f, H, W)
    return Minute(
        video_to_frames(video), video_to_frames(decoded), tokens.tokens.lengths.flatten().tolist(),
        [0.0, *(video[:, 1:] - video[:, :-1]).abs().mean((0, 2, 3)).tolist()], frames_per_second,
        psnr_of_mse((decoded - video).square().mean()).item(), motion_explained(*moving_errors(*clips)), scenes,
    )  # fmt: skip
