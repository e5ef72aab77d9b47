"""What happens to clips between a model (or a file) and the network that a distance looks through: another size,
rounding to 8 bits, resizing to the network's own size. Protocols differ in all three.

Letters: B videos, F frames of a video, H and W pixels, C = 3 channels.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from evagen.kernels.levels import check_layout, check_range, floats_to_levels, levels_to_floats

Rounding = Literal["none", "nearest", "truncate"]


@dataclass(frozen=True)
class NetworkInput:
    """The preprocessing of clips `B 3 F H W` in [-1, 1] for a detector. Clips are clamped to [-1, 1], then, in this
    order:

    size: height and width to resize them to, bilinear with antialiasing; None leaves them as they are.
    rounding: to 8 bits. `none` leaves floats, `nearest` rounds, `truncate` cuts off.
    network_size: height and width to resize them to without antialiasing, in place of the network's own resizing.

    The result is uint8 where it is rounded and not resized after that, otherwise float32 in [-1, 1]."""

    size: int | None = None
    rounding: Rounding = "none"
    network_size: int | None = None

    def __call__(self, videos: Tensor) -> Tensor:
        """Raises ValueError for other than floating point `B 3 F H W`, and far out of [-1, 1]."""
        check_layout(videos)
        check_range(videos)
        videos = videos.float().clamp(-1, 1)
        if self.size is not None:
            videos = resized(videos, self.size, antialias=True)
        if self.rounding != "none":
            videos = floats_to_levels(videos, self.rounding)
        if self.network_size is not None:
            videos = resized(as_floats(videos), self.network_size, antialias=False)
        return videos


class PreparedDetector(nn.Module):
    """A detector behind the preprocessing of a protocol; otherwise it is the detector it holds."""

    def __init__(self, detector: nn.Module, network_input: NetworkInput):
        super().__init__()
        self.detector, self.network_input = detector, network_input
        self.name: str = detector.name  # type: ignore[assignment]
        self.fingerprint: str = detector.fingerprint  # type: ignore[assignment]
        self.num_features: int = detector.num_features  # type: ignore[assignment]

    def forward(self, videos: Tensor) -> Tensor:
        """videos `B 3 F H W` in [-1, 1] → features `(B, D)`. Raises ValueError as the detector does."""
        return self.detector(self.network_input(videos))


def as_floats(videos: Tensor) -> Tensor:
    """uint8 levels, or floats of any precision in [-1, 1] → float32 in [-1, 1]."""
    return videos.float() if videos.is_floating_point() else levels_to_floats(videos)


def resized(videos: Tensor, size: int, antialias: bool) -> Tensor:
    """Floating point `B C F H W` → `B C F size size`, bilinear; of this size already, they stay."""
    if videos.shape[-2:] == (size, size):
        return videos
    frames = rearrange(videos, "b c f h w -> (b f) c h w")  # (B·F, C, H, W)
    frames = F.interpolate(frames, (size, size), mode="bilinear", antialias=antialias)  # (B·F, C, size, size)
    return rearrange(frames, "(b f) c h w -> b c f h w", b=len(videos))


def check_videos(videos: Tensor, min_frames: int, network: str) -> None:
    """Raises ValueError for other than `B 3 F H W` (uint8, or floating point in [-1, 1]), B ≥ 1, F ≥ min_frames."""
    check_layout(videos, levels_too=True)
    if videos.shape[2] < min_frames:
        raise ValueError(
            f"videos should have at least {min_frames} frames, which {network} cannot do without, "
            f"not {tuple(videos.shape)}"
        )
    if videos.dtype != torch.uint8:
        check_range(videos)
