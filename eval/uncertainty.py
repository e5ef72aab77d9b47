"""How sure a score is: a Fréchet distance's interval over other draws of videos, and its value without the error that
finite sets bring; and the interval of a mean over clips, or of the difference of two.

What is said of Fréchet distances needs the features themselves, not their statistics: 10,000 videos of 400 features are
16 MB of float32. A real set of which only statistics were kept counts as given, without error of its own.

Letters: N samples, D features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from evagen.eval.frechet import GaussianStatistics, frechet_distance, frechet_distance_between

Draw = Callable[[int], Tensor]
"""The size of a set → numbers of the samples to take, int64."""


@dataclass(frozen=True)
class Interval:
    """`low` and `high` enclose `value` with confidence `level`; `standard_error` is that of the value."""

    value: float
    low: float
    high: float
    standard_error: float
    level: float
    resamples: int


def bootstrap_interval(
    real: Tensor | GaussianStatistics,
    generated: Tensor,
    paired: bool = False,
    ddof: int = 0,
    level: float = 0.95,
    resamples: int = 100,
    seed: int = 0,
) -> Interval:
    """Where the Fréchet distance of features `(N, D)` would lie had other videos of the same sources been scored,
    N and all else being equal.

    Sets are drawn again from the given ones, with replacement; the deviation of their distances is the standard
    error, and the interval is the normal one around the value. Their quantiles would not do: videos that are drawn
    twice make a set seem smaller, and the distance of smaller sets is larger. For the same reason the interval does
    not enclose the distance of infinitely many videos, see `extrapolated_distance`.

    paired: generated video i belongs to real video i (a reconstruction), and both are drawn together. Where the
    sets are nearly equal, the error is too large and the interval too wide: of 200 videos with 8 Gaussian features by
    a third where reconstructions are off by 0.3 standard deviations, by 70% at 0.1, by 5% at 1.
    A resample takes the time of one set of statistics and one distance. Raises ValueError for paired sets of unequal
    size, for `level` outside (0, 1), and with fewer than 2 samples or resamples."""
    value = _checked_value(real, generated, paired, ddof)
    if not 0 < level < 1 or resamples < 2:
        raise ValueError(f"level={level}, resamples={resamples}: need 0 < level < 1 and at least 2 resamples")
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Tensor:
        return torch.randint(count, (count,), generator=generator)

    distances = torch.stack([_distance_of(real, generated, paired, ddof, draw) for _ in range(resamples)])
    error = distances.std().item()
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    return Interval(value, max(0.0, value - reach), value + reach, error, level, resamples)


def paired_bootstrap(
    measure: Callable[[Mapping[str, Tensor]], Tensor],
    scored: Mapping[str, Tensor],
    against: Mapping[str, Tensor] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """A measure of scored clips, or how much larger it is than of the same clips scored in another way, and where it
    would lie had other clips been scored: quantiles over clips drawn again with replacement, the same ones on both
    sides, so that what is hard about a clip does not count as difference. Draws of clips for which the measure is not
    defined are left out; where it is not for all of them, value and range are NaN.

    Args:
        measure: columns of clips → `()`, a mean or a ratio of sums, say; NaN where it is not defined.
        scored, against: columns by name, `(…, N)` each; clip i is the same one in both.

    Raises ValueError for sides of unequal size, for `level` outside (0, 1) and with fewer than 2 resamples."""
    sides = [scored] if against is None else [scored, against]
    counts = {column.shape[-1] for side in sides for column in side.values()}
    if len(counts) != 1:
        raise ValueError(f"both sides are the same clips, in columns of one length; got lengths {sorted(counts)}")
    if not 0 < level < 1 or resamples < 2:
        raise ValueError(f"level={level}, resamples={resamples}: need 0 < level < 1 and at least 2 resamples")
    count, generator = counts.pop(), torch.Generator().manual_seed(seed)

    def of(clips: Tensor) -> float:
        measured = [measure({name: column[..., clips] for name, column in side.items()}) for side in sides]
        return (measured[0] if against is None else measured[0] - measured[1]).item()

    values = [of(torch.randint(count, (count,), generator=generator)) for _ in range(resamples)]
    drawn = torch.tensor(values, dtype=torch.float64)
    outside = (1 - level) / 2
    low, high = drawn.nanquantile(torch.tensor([outside, 1 - outside], dtype=torch.float64)).tolist()
    return Interval(of(torch.arange(count)), low, high, drawn[~drawn.isnan()].std().item(), level, resamples)


@dataclass(frozen=True)
class Extrapolation:
    """`value` is the distance that infinitely many samples would have: where the line through `distances` over
    1 / `fractions` meets 0. `fit` is the share of the distances' variance that the line explains (R²)."""

    value: float
    fractions: tuple[float, ...]
    distances: tuple[float, ...]
    fit: float


def extrapolated_distance(
    real: Tensor | GaussianStatistics,
    generated: Tensor,
    paired: bool = False,
    ddof: int = 0,
    points: int = 15,
    seed: int = 0,
) -> Extrapolation:
    """The Fréchet distance of features `(N, D)` extrapolated to infinite N (Chong and Forsyth 2020, arXiv 1911.07023,
    §3): the error of a finite set is linear in 1/N, so distances of random subsets of `points` sizes, evenly spaced
    up to the full one, are fitted by a line.

    The same fraction is taken of both sides, which removes the error of both; of a real side that is given as
    statistics nothing is taken, as in the paper, and its error stays. It may be negative where the true distance is
    near 0. Raises ValueError with fewer than 4 D samples, where the error is not yet linear."""
    count = min(len(side) for side in (real, generated) if isinstance(side, Tensor))
    check_extrapolation(count, generated.shape[1], points)
    _checked_value(real, generated, paired, ddof)
    generator = torch.Generator().manual_seed(seed)
    smallest = max(0.1, 2 * generated.shape[1] / count)
    fractions = torch.linspace(smallest, 1, points, dtype=torch.float64)
    distances = []
    for fraction in fractions.tolist():

        def draw(count: int, fraction: float = fraction) -> Tensor:
            return torch.randperm(count, generator=generator)[: round(fraction * count)]

        distances.append(_distance_of(real, generated, paired, ddof, draw))
    y, x = torch.stack(distances).cpu(), 1 / fractions
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    value = y.mean() - slope * x.mean()
    spread, rest = (y - y.mean()).square().sum(), (y - value - slope * x).square().sum()
    fit = 1 - (rest / spread).item() if spread > 0 else 1.0
    return Extrapolation(value.item(), tuple(fractions.tolist()), tuple(y.tolist()), fit)


def check_extrapolation(count: int, num_features: int, points: int = 15) -> None:
    """The error of `extrapolated_distance` for too few samples of the smaller side, or points."""
    needed = 4 * num_features
    if count < needed or points < 2:
        raise ValueError(
            f"extrapolation needs at least {needed} videos (4 times the features) and 2 points, "
            f"got {count} videos and {points} points"
        )


def _distance_of(real: Tensor | GaussianStatistics, generated: Tensor, paired: bool, ddof: int, draw: Draw) -> Tensor:
    """Distance of the samples that `draw` takes of each side, or of both together."""
    rows = draw(len(generated))
    fake = GaussianStatistics.of(generated[rows.to(generated.device)])
    if isinstance(real, Tensor):
        rows = rows if paired else draw(len(real))
        real = GaussianStatistics.of(real[rows.to(real.device)])
    return frechet_distance(real.mean, real.covariance(ddof), fake.mean, fake.covariance(ddof))


def _checked_value(real: Tensor | GaussianStatistics, generated: Tensor, paired: bool, ddof: int) -> float:
    if paired and not (isinstance(real, Tensor) and len(real) == len(generated)):
        raise ValueError("paired sets are both given as features, equally many; real statistics have no pairs")
    statistics = real if isinstance(real, GaussianStatistics) else GaussianStatistics.of(real)
    return frechet_distance_between(statistics, GaussianStatistics.of(generated), ddof).item()
