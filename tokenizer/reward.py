"""The proxy reward: which assignment is worth its tokens (EVATok §3.2 and supplement H).

    R(x, a) = w_q · Q(x, a) - w_l · L(a),   w_l = 2 - w_q,   w_q ∈ [0.8, 1.6]

Q and L are a distance d and a number of tokens n, each less a zero and over a unit, the distance with its sign changed:
Q = (d_0 - d) / d_1, L = (n - n_0) / n_1. Two scales say what these are:

    min-max    d_0 and d_1: the data set's mean distance at the shortest uniform assignment, and how much lower it is
               at the longest one; n_0 and n_1: tokens of the shortest assignment, and how many more the longest has
    z-score    mean and standard deviation over clips and candidates, as published (eqs. 6 and 7; the paper leaves the
               sign of the distance out)

A preference w_q of one scale is another one in the other: what counts is w_q / w_l · n_1 / d_1 (`same_preference`).
Distances are what is stored, so any preference of either scale can be applied afterwards.

Legend: B clips, A candidate assignments, T temporal blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from evagen.tokenizer.assignments import AssignmentSpace

PREFERENCE_RANGE = (0.8, 1.6)
"""Of w_q, for routers of either scale (EVATok §4.2)."""
USUAL_PREFERENCE = 1.2
"""Where nobody asks for another."""

ScaleName = Literal["min-max", "z-score"]


@dataclass(frozen=True)
class RewardScale:
    """What distances and numbers of tokens are measured by, so that the reward R = w_q · (d_0 - d) / d_1 - (2 - w_q) ·
    (n - n_0) / n_1 compares them. distance_zero, distance_unit: d_0 and d_1; tokens_zero, tokens_unit: n_0 and n_1, of
    clips of `num_blocks`."""

    name: ScaleName
    distance_zero: float
    distance_unit: float
    tokens_zero: float
    tokens_unit: float
    num_blocks: int

    @staticmethod
    def min_max(space: AssignmentSpace, d_min: float, d_max: float) -> "RewardScale":
        """From the mean distance at the longest and at the shortest uniform assignment."""
        tokens = max(space.max_tokens - space.min_tokens, 1)
        return RewardScale("min-max", d_max, d_max - d_min, space.min_tokens, tokens, space.num_blocks)

    @staticmethod
    def z_score(space: AssignmentSpace, mean: float, deviation: float) -> "RewardScale":
        """From mean and standard deviation of the distance over clips and candidates."""
        tokens = space.table().sum(-1).double()  # (A,)
        unit = tokens.std(correction=0).item() or 1.0
        return RewardScale("z-score", mean, deviation, tokens.mean().item(), unit, space.num_blocks)

    @staticmethod
    def of(distances: Tensor, space: AssignmentSpace, name: ScaleName = "min-max") -> "RewardScale":
        """From every candidate's distance, (B, A) in index order. Raises ValueError where more tokens
        do not lower the mean distance: such a tokenizer is not trained enough to curate with; for distances of
        another number of candidates; and where there is one candidate alone."""
        _check_candidates(distances, space)
        if space.count == 1:
            raise ValueError(
                f"the tokenizer has the one length {space.levels[0]}, so there is nothing to choose: give it more than "
                "one, or do without a router (uniform_length)"
            )
        distances = distances.double()
        d_max, d_min = distances.mean(0)[[0, -1]].tolist()
        if not d_min < d_max:
            raise ValueError(
                f"the mean distance at the longest assignment ({d_min:.4g}) is not below that at the shortest "
                f"({d_max:.4g}): the tokenizer has not learnt to use more tokens; train it longer"
            )
        if name not in get_args(ScaleName):
            raise ValueError(f"a scale is one of {', '.join(get_args(ScaleName))}; got {name!r}")
        if name == "min-max":
            return RewardScale.min_max(space, d_min, d_max)
        return RewardScale.z_score(space, distances.mean().item(), distances.std(correction=0).item())

    def quality(self, distances: Tensor) -> Tensor:
        """Q, any shape, float64."""
        return (self.distance_zero - distances.double()) / self.distance_unit

    def length(self, tokens: Tensor) -> Tensor:
        """L of total numbers of tokens, any shape, float64."""
        return (tokens.double() - self.tokens_zero) / self.tokens_unit


def checked_range(preferences: Sequence[float]) -> tuple[float, float]:
    """The preferences that a router is trained for, (low, high). Raises ValueError for what is no range of w_q."""
    if len(preferences) != 2 or not 0 <= preferences[0] <= preferences[1] <= 2:
        raise ValueError(f"two numbers are needed, 0 <= low <= high <= 2; got {list(preferences)}")
    low, high = preferences
    return low, high


def preference_within(preference: float | None, trained_for: tuple[float, float]) -> float:
    """What a router is asked for: the preference, or, where none is given, 1.2 or what of the range is nearest to it.
    Raises ValueError for one that the router was not trained for, of which it knows nothing."""
    low, high = trained_for
    if preference is None:
        return min(max(USUAL_PREFERENCE, low), high)
    if not low <= preference <= high:
        between = f"preferences between {low:g} (few tokens) and {high:g} (best quality)"
        raise ValueError(
            f"this router was trained for {f'the preference {low:g} alone' if low == high else between}; got "
            f"{preference}: ask for what it knows, or train one with another preference_range"
        )
    return preference


def check_preference(preference: float | Tensor) -> None:
    """Raises ValueError for a preference out of [0, 2], or none."""
    w_q = torch.as_tensor(preference, dtype=torch.float64)
    if not bool(((w_q >= 0) & (w_q <= 2)).all()):
        raise ValueError(
            f"a preference w_q lies between 0 (shortest) and 2 (best quality); got {w_q.flatten().tolist()}"
        )


def same_preference(preference: float, of: RewardScale, to: RewardScale) -> float:
    """The w_q of scale `to` that ranks assignments as `preference` does in scale `of`."""
    quality = preference * (to.distance_unit / of.distance_unit)
    length = (2 - preference) * (to.tokens_unit / of.tokens_unit)
    return 2 * quality / (quality + length)


def proxy_reward(distances: Tensor, preference: float | Tensor, space: AssignmentSpace, scale: RewardScale) -> Tensor:
    """R of every candidate: distances (B, A), preference w_q a number or (B,) → float64 (B, A). Raises ValueError for
    distances of another number of candidates, and for a preference out of [0, 2]."""
    _check_candidates(distances, space)
    check_preference(preference)
    w_q = torch.as_tensor(preference, dtype=torch.float64, device=distances.device).reshape(-1, 1)  # (B or 1, 1)
    length = scale.length(space.table().sum(-1)).to(distances.device)  # (A,)
    return w_q * scale.quality(distances) - (2 - w_q) * length


def best_assignment(
    distances: Tensor, preference: float | Tensor, space: AssignmentSpace, scale: RewardScale
) -> Tensor:
    """a* = argmax R, the cheapest among equals: distances (B, A) → numbers of assignments int64 (B,), of which
    `space.lengths_of` makes lengths. Raises ValueError as `proxy_reward` does."""
    reward = proxy_reward(distances, preference, space, scale)  # (B, A)
    tokens = space.table().sum(-1).to(reward.device)  # (A,)
    is_best = reward == reward.max(-1, keepdim=True).values
    return torch.where(is_best, tokens, tokens.max() + 1).argmin(-1)


def _check_candidates(distances: Tensor, space: AssignmentSpace) -> None:
    if distances.ndim != 2 or distances.shape[1] != space.count:
        raise ValueError(
            f"distances are (B, {space.count}), one for each assignment of {space.num_blocks} blocks of "
            f"{list(space.levels)}; got {tuple(distances.shape)}"
        )


def reward_percentile(reward: Tensor, chosen: Tensor) -> float:
    """How much of the way from the worst to the best assignments the chosen ones have come, on average over clips, 0 to
    1 (EVATok supplement L, eq. 8). reward (B, A), chosen int64 (B,)."""
    reached = reward.gather(1, chosen[:, None]).mean()
    worst, best = (extreme.mean() for extreme in reward.aminmax(dim=1))
    return ((reached - worst) / (best - worst)).item()
