"""The proxy reward: which assignment is worth its tokens (EVATok §3.2).

    R(x, a) = w_q · Q(x, a) - w_l · L(a),   w_l = 2 - w_q,   w_q ∈ [0.8, 1.6]

Q is quality from a distance d, scaled by the data set's mean distance at the longest (d_min) and the
shortest (d_max) uniform assignment: Q = (d_max - d) / (d_max - d_min). L is the normalised length.
Distances are what is stored, so any preference w_q can be applied afterwards.

Legend: B clips, A candidate assignments.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evagen.tokenizer.assignments import AssignmentSpace

PREFERENCE_RANGE = (0.8, 1.6)


@dataclass(frozen=True)
class QualityScale:
    """Mean distance at the longest and at the shortest uniform assignment over a data set."""

    d_min: float
    d_max: float

    @staticmethod
    def of(distances: Tensor) -> "QualityScale":
        """From every candidate's distance, (B, A) in index order. Raises ValueError where more tokens
        do not lower the mean distance: such a tokenizer is not trained enough to curate with."""
        d_max, d_min = distances.double().mean(0)[[0, -1]].tolist()
        if not d_min < d_max:
            raise ValueError(
                f"the mean distance at the longest assignment ({d_min:.4g}) is not below that at the shortest "
                f"({d_max:.4g}): the tokenizer has not learnt to use more tokens; train it longer"
            )
        return QualityScale(d_min, d_max)

    def quality(self, distances: Tensor) -> Tensor:
        """Q, any shape: 1 at d_min, 0 at d_max."""
        return (self.d_max - distances.double()) / (self.d_max - self.d_min)


def proxy_reward(distances: Tensor, preference: float | Tensor, space: AssignmentSpace, scale: QualityScale) -> Tensor:
    """R of every candidate: distances (B, A), preference w_q a number or (B,) → float64 (B, A)."""
    w_q = torch.as_tensor(preference, dtype=torch.float64, device=distances.device).reshape(-1, 1)  # (B or 1, 1)
    if not bool(((w_q >= 0) & (w_q <= 2)).all()):
        raise ValueError(
            f"a preference w_q lies between 0 (shortest) and 2 (best quality); got {w_q.flatten().tolist()}"
        )
    length = space.normalised_length(space.table()).to(distances.device)  # (A,)
    return w_q * scale.quality(distances) - (2 - w_q) * length


def best_assignment(
    distances: Tensor, preference: float | Tensor, space: AssignmentSpace, scale: QualityScale
) -> Tensor:
    """a* = argmax R, the cheapest among equals: (B, A) → int64 (B,)."""
    reward = proxy_reward(distances, preference, space, scale)  # (B, A)
    tokens = space.table().sum(-1).to(reward.device)  # (A,)
    is_best = reward == reward.max(-1, keepdim=True).values
    return torch.where(is_best, tokens, tokens.max() + 1).argmin(-1)
