"""What moves in a clip: where, and how far, it departs from its own still background.

Legend: B clips, C channels, F frames, H × W pixels.
"""

from torch import Tensor


def still_background(video: Tensor) -> Tensor:
    """The median over time of each pixel and channel: (B, C, F, H, W) → (B, C, 1, H, W). Of an even number of frames
    it is the lower of the middle two, a value that was there."""
    return video.movedim(2, -1).contiguous().median(-1).values.unsqueeze(2)


def departure(video: Tensor, background: Tensor) -> Tensor:
    """How far each place is from the background, in the channel that differs most: videos (B, C, F, H, W) and
    (B, C, 1, H, W) in [-1, 1] → (B, 1, F, H, W) in [0, 2]."""
    return (video - background).abs().amax(1, keepdim=True)
