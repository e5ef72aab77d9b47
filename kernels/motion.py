"""What moves in a clip: where, and how far, it departs from its own still background.

Legend: B clips, C channels, F frames, H × W pixels.
"""

from functools import cache

import torch
from torch import Tensor

FEW_FRAMES = 64
"""Up to so many, comparing pairs of frames is several times as fast as torch's median on a CPU. Their number grows
faster than that of the frames."""


def still_background(video: Tensor) -> Tensor:
    """The median over time of each pixel and channel: (B, C, F, H, W) → (B, C, 1, H, W). Of an even number of frames
    it is the lower of the middle two, a value that was there."""
    num_frames = video.shape[2]
    if num_frames > FEW_FRAMES:
        return video.movedim(2, -1).contiguous().median(-1).values.unsqueeze(2)
    frames = list(video.unbind(2))  # F of B C H W
    for a, b in median_pairs(num_frames):
        frames[a], frames[b] = torch.minimum(frames[a], frames[b]), torch.maximum(frames[a], frames[b])
    return frames[(num_frames - 1) // 2].unsqueeze(2)


@cache
def median_pairs(count: int) -> tuple[tuple[int, int], ...]:
    """Which pairs of `count` numbers to put in order, one pair after another, for the lower median to end at its place:
    Batcher's odd-even merge sort (Batcher 1968, "Sorting networks and their applications") less the pairs that
    this place does not depend on."""
    pairs = []
    merged = 1  # runs of so many are sorted
    while merged < count:
        distance = merged
        while distance:
            for first in range(distance % merged, count - distance, 2 * distance):
                pairs += [
                    (at, at + distance)
                    for at in range(first, min(first + distance, count - distance))
                    if at // (2 * merged) == (at + distance) // (2 * merged)
                ]
            distance //= 2
        merged *= 2
    needed, kept = {(count - 1) // 2}, []
    for pair in reversed(pairs):
        if not needed.isdisjoint(pair):
            needed.update(pair)
            kept.append(pair)
    return tuple(reversed(kept))


def departure(video: Tensor, background: Tensor) -> Tensor:
    """How far each place is from the background, in the channel that differs most: videos (B, C, F, H, W) and
    (B, C, 1, H, W) in [-1, 1] → (B, 1, F, H, W) in [0, 2]."""
    return (video - background).abs().amax(1, keepdim=True)
