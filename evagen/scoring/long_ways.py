"""Ways to encode long videos, by what they spend and what they keep: tokens a minute at equal quality."""

from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import torch

from evagen.eval import motion_explained

MEMORY, MEMORY_UNIFORM = "memory, router", "memory, uniform"
CLIPS, CLIPS_UNIFORM = "clips, router", "clips, uniform"
WAYS = [MEMORY, MEMORY_UNIFORM, CLIPS, CLIPS_UNIFORM]
TOLERANCE = 0.01
"""A quality counts as equal if it is no worse than this share below the other."""


@dataclass(frozen=True)
class VideoScores:
    """One way at one setting, lists over videos. tokens: of each; moving_error, still_error: sums (`moving_errors`)."""

    way: str
    setting: float
    tokens: list[int]
    psnr: list[float]
    perceptual: list[float]
    moving_error: list[float]
    still_error: list[float]

    def point(self, seconds: float) -> "RatePoint":
        motion = motion_explained(torch.tensor(self.moving_error), torch.tensor(self.still_error))
        minute = fmean(self.tokens) / seconds * 60
        return RatePoint(self.way, self.setting, minute, fmean(self.psnr), fmean(self.perceptual), motion)


@dataclass(frozen=True)
class RatePoint:
    """Means over videos. tokens: a minute; motion: explained over all videos together, None where nothing moves."""

    way: str
    setting: float
    tokens: float
    psnr: float
    perceptual: float
    motion: float | None

    def as_good_as(self, other: "RatePoint") -> bool:
        as_good = (
            self.psnr >= other.psnr * (1 - TOLERANCE)  # never negative, as motion may be
            and self.perceptual <= other.perceptual * (1 + TOLERANCE)
        )
        if self.motion is None or other.motion is None:
            return as_good
        return as_good and self.motion >= other.motion - TOLERANCE * abs(other.motion)

    def towards(self, other: "RatePoint", share: float) -> "RatePoint":
        """On the straight line to another point."""
        names = ("setting", "tokens", "psnr", "perceptual")
        values = {name: (1 - share) * getattr(self, name) + share * getattr(other, name) for name in names}
        is_defined = self.motion is not None and other.motion is not None
        motion = (1 - share) * self.motion + share * other.motion if is_defined else None  # type: ignore[operator]
        return RatePoint(self.way, **values, motion=motion)


def savings(points: list[RatePoint]) -> list[dict[str, float | str | None]]:
    """Of the router of blocks, against each other way: at how many tokens that one is still no better than within
    `TOLERANCE`, on the straight lines between its points, and the share of these that the router does without."""
    by_way = {way: sorted((p for p in points if p.way == way), key=lambda p: p.tokens) for way in WAYS}
    found: list[dict[str, float | str | None]] = []
    for point in by_way.pop(MEMORY):
        for way, curve in by_way.items():
            tokens = tokens_at_equal_quality(point, curve)
            saved = None if tokens is None else 1 - point.tokens / tokens
            found.append({"preference": point.setting, "against": way, "tokens": tokens, "saved": saved})
    return found


def tokens_at_equal_quality(point: RatePoint, curve: list[RatePoint]) -> float | None:
    """The most tokens at which a way's curve is not better than a point; None where it is better from its first
    point on."""
    steps = [a.towards(b, share / 50) for a, b in pairwise(curve) for share in range(51)] or curve
    worse = [step.tokens for step in steps if point.as_good_as(step)]
    return max(worse) if worse else None
