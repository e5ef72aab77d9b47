"""Ways to choose clips' lengths where every candidate assignment has been measured, and what each costs and gives
(EVATok §4): uniform lengths, a threshold, the highest reward, a router.

Letters: n clips, A candidate assignments, T blocks of a clip, D features.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from evagen.data.curation_record import CurationRecord
from evagen.eval import PreparedDetector, features_of, motion_explained, psnr_of_mse
from evagen.kernels.levels import levels_to_floats
from evagen.scoring.reconstruction import frechet_between
from evagen.tokenizer import (
    AssignmentSpace,
    RewardScale,
    Router,
    VideoTokenizer,
    best_assignment,
    proxy_reward,
    reward_percentile,
)


@dataclass(frozen=True)
class CostPoint:
    """Means over the clips of a set. motion: explained over all of them together, None where nothing moves; dial:
    length, bound or preference; reward: at that preference; percentile: of the reward between the worst and the best
    assignments (EVATok eq. 8); frechet: distance of the reconstructions from the clips, where it was computed."""

    clips: str
    way: str
    dial: float
    tokens: float
    psnr: float
    perceptual: float
    motion: float | None
    reward: float | None = None
    percentile: float | None = None
    frechet: float | None = None

    def is_as_good_as(self, other: "CostPoint", with_motion: bool) -> bool:
        as_good = self.psnr >= other.psnr and self.perceptual <= other.perceptual
        if not with_motion or self.motion is None or other.motion is None:
            return as_good
        return as_good and self.motion >= other.motion


@dataclass(frozen=True)
class Choice:
    """What a way chooses for every clip of a set. numbers: int64 (n,), of their assignments; preference: w_q at which
    its reward counts, None where the way knows none."""

    way: str
    dial: float
    numbers: Tensor
    preference: float | None = None


@dataclass(frozen=True)
class ClipSet:
    """Clips whose candidates are all measured. video: uint8 (n, C, F, H, W)."""

    name: str
    record: CurationRecord
    video: Tensor
    scale: RewardScale
    mirrored: CurationRecord | None = None

    @property
    def space(self) -> AssignmentSpace:
        return self.record.space

    def batches(self, size: int, bar: str | None = None) -> Iterator[Tensor]:
        """float (B, C, F, H, W) in [-1, 1]; with a bar of that name."""
        batches = tqdm(self.video.split(size), desc=bar, unit="batch", dynamic_ncols=True, disable=bar is None)
        return map(levels_to_floats, batches)

    def point(self, choice: Choice) -> CostPoint:
        """By the record's figures."""
        rows = torch.arange(len(choice.numbers))
        at = rows, choice.numbers
        tokens = self.space.lengths_of(choice.numbers).sum(-1).double().mean().item()
        psnr = psnr_of_mse(self.record.mse[at]).mean().item()
        motion = motion_explained(self.record.moving_mse[at], self.record.still_mse)
        perceptual = self.record.perceptual[at].mean().item()
        point = CostPoint(self.name, choice.way, choice.dial, tokens, psnr, perceptual, motion)
        if choice.preference is None:
            return point
        reward = proxy_reward(self.record.distance, choice.preference, self.space, self.scale)  # (n, A)
        percentile = reward_percentile(reward, choice.numbers)
        return replace(point, reward=reward[at].mean().item(), percentile=percentile)


def uniform(clips: ClipSet) -> Iterator[Choice]:
    for level in clips.space.levels:
        number = clips.space.index_of(clips.space.uniform(level, 1))
        yield Choice("uniform", level, number.expand(len(clips.video)))


def threshold(clips: ClipSet, count: int) -> Iterator[Choice]:
    """Bounds from the best to the worst uniform assignment's mean distance. Where no candidate stays below the bound,
    the longest is taken (EVATok §4.5)."""
    distances, tokens = clips.record.perceptual, clips.space.table().sum(-1)  # (n, A), (A,)
    worst, best = distances.mean(0)[[0, -1]].tolist()
    for bound in torch.linspace(best, worst, count, dtype=torch.float64).tolist():
        # Of the cheapest candidates below the bound the one of least distance.
        cost = torch.where(distances <= bound, tokens, torch.inf) + distances / (2 * distances.max())  # (n, A)
        within = (distances <= bound).any(1)
        yield Choice("threshold", bound, torch.where(within, cost.argmin(1), tokens.argmax()))


def max_reward(clips: ClipSet, preference: float) -> Choice:
    chosen = best_assignment(clips.record.distance, preference, clips.space, clips.scale)
    return Choice("max reward", preference, chosen, preference)


def mirror_image(clips: ClipSet, preference: float) -> Choice:
    """The assignments that are best for the clips' mirror images."""
    assert clips.mirrored is not None
    chosen = best_assignment(clips.mirrored.distance, preference, clips.space, clips.scale)
    return Choice("mirror image", preference, chosen, preference)


def best_uniform(clips: ClipSet, preference: float) -> Choice:
    """For each clip the uniform assignment of highest reward (EVATok supplement L)."""
    numbers = torch.cat([clips.space.index_of(clips.space.uniform(level, 1)) for level in clips.space.levels])
    reward = proxy_reward(clips.record.distance, preference, clips.space, clips.scale)[:, numbers]  # (n, levels)
    return Choice("best uniform", preference, numbers[reward.argmax(1)], preference)


def routed(way: str, router: Router, clips: ClipSet, preference: float, batch_size: int) -> Choice:
    lengths = [router.assign(video.to(router.device), preference) for video in clips.batches(batch_size)]
    return Choice(way, preference, clips.space.index_of(torch.cat(lengths)), preference)


def in_turn(lengths: Tensor) -> Callable[[Tensor], Tensor]:
    """Hands out given lengths (n, T) batch after batch."""
    rest = iter(lengths)
    return lambda video: torch.stack([next(rest) for _ in range(len(video))])


def spread(choices: Sequence[Choice], count: int) -> list[int]:
    """The places of at most `count` choices of each way, from one end of its dial to the other."""
    kept = []
    for way in dict.fromkeys(choice.way for choice in choices):
        mine = [place for place, choice in enumerate(choices) if choice.way == way]
        mine.sort(key=lambda place: choices[place].dial)
        kept += [mine[at] for at in torch.linspace(0, len(mine) - 1, min(count, len(mine))).round().int().tolist()]
    return kept


@torch.no_grad()
def frechet_distances(
    tokenizer: VideoTokenizer, clips: ClipSet, choices: Sequence[Choice], detector: PreparedDetector, batch_size: int
) -> list[float]:
    """The Fréchet distance of what the tokenizer makes of the clips at each choice's lengths from the clips. What
    several choices have in common, a clip at one assignment, is reconstructed once."""
    device = tokenizer.device
    real = torch.cat([features_of(detector, video.to(device)) for video in clips.batches(batch_size)])  # (n, D)
    rows = torch.arange(len(clips.video))
    wanted = torch.stack([torch.stack([rows, choice.numbers], 1) for choice in choices])  # (choices, n, 2)
    pairs, places = wanted.flatten(0, 1).unique(dim=0, return_inverse=True)  # (P, 2), (choices * n,)
    bar = tqdm(pairs.split(batch_size), desc=f"Fréchet distances, {clips.name}", unit="batch", dynamic_ncols=True)
    features = []
    for clip, number in (batch.unbind(1) for batch in bar):
        video = levels_to_floats(clips.video[clip]).to(device)
        tokens = tokenizer.encode(video, clips.space.lengths_of(number))
        features.append(features_of(detector, tokenizer.decode(tokens, tuple(video.shape[-2:]))))
    made = torch.cat(features)  # (P, D)
    return [frechet_between([real], [made[at]], detector) for at in places.view(len(choices), -1)]
