"""What the measured numbers say: comparisons at equal quality, and the sentences that report them."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Measure = Literal["psnr", "perceptual"]


def cost_and_quality(quality: Mapping[str, Any]) -> tuple[float, float, float]:
    """Tokens per clip, PSNR in dB, perceptual distance."""
    return quality["tokens_per_clip"], quality["psnr"], quality["perceptual"]


def uniform_tokens_for(uniform: Sequence[Mapping[str, Any]], measure: Measure, value: float) -> float | None:
    """The tokens per clip at which the uniform curve first reaches `value` of a measure.

    Between two measured points the curve is straight over the logarithm of the tokens, as it is drawn.
    None where the curve never takes that value."""
    points = sorted((q["tokens_per_clip"], q[measure]) for q in uniform)
    for (tokens_a, value_a), (tokens_b, value_b) in itertools.pairwise(points):
        if min(value_a, value_b) <= value <= max(value_a, value_b):
            share = (value - value_a) / (value_b - value_a) if value_b != value_a else 0.0
            return tokens_a * (tokens_b / tokens_a) ** share
    return points[0][0] if len(points) == 1 and points[0][1] == value else None


def describe(summary: Mapping[str, Any]) -> dict[str, str | None]:
    """The page's measured sentences, by the place where they stand. Better and worse are both said."""
    reconstruction, generation = summary["reconstruction"], summary["generation"]
    uniform, adaptive, final = (reconstruction[name] for name in ("uniform", "adaptive", "final"))
    at_equal = {measure: uniform_tokens_for(uniform, measure, adaptive[measure]) for measure in ("perceptual", "psnr")}
    clips = "clip" if generation["clips"] == 1 else "clips"
    headline = (
        f"In {format_duration(summary['total_seconds'])}, this run went from raw video through every "
        f"training stage to {format_count(generation['clips'])} generated {clips}. "
        f"{_compare(adaptive, uniform, at_equal['perceptual'], 'perceptual distance')} "
        f"The final tokenizer reaches {final['psnr']:.2f} dB PSNR with "
        f"{format_count(final['tokens_per_clip'])} tokens per clip; the generator chose its own lengths, "
        f"{format_count(generation['tokens_per_clip'])} tokens per clip, and wrote "
        f"{_invalid(generation['invalid_sequences'])}."
    )
    equal = at_equal["perceptual"]
    return {
        "headline": headline,
        "psnr": _compare(adaptive, uniform, at_equal["psnr"], "PSNR"),
        "perceptual": _compare(adaptive, uniform, equal, "perceptual distance"),
        "uniform_tokens": None if equal is None else format_count(equal),
        "frechet": _frechet(generation["frechet"]),
    }


def _compare(
    adaptive: Mapping[str, Any], uniform: Sequence[Mapping[str, Any]], equal: float | None, measure: str
) -> str:
    tokens = format_count(adaptive["tokens_per_clip"])
    if equal is not None:
        return (
            f"With adaptive lengths a clip takes {tokens} tokens on average; uniform lengths need about "
            f"{format_count(equal)} for the same {measure} ({_percent(adaptive['tokens_per_clip'], equal)})."
        )
    spans = [q["tokens_per_clip"] for q in uniform]
    range_of_tokens = " to ".join(format_count(t) for t in sorted({min(spans), max(spans)})) if spans else "no"
    return (
        f"With adaptive lengths a clip takes {tokens} tokens on average; its {measure} lies outside "
        f"what uniform lengths were measured to reach ({range_of_tokens} tokens)."
    )


def _percent(tokens: float, reference: float) -> str:
    """How many tokens adaptive lengths take, seen from the uniform reference."""
    percent = round(100 * (tokens / reference - 1))
    if percent == 0:
        return "no difference"
    return f"{abs(percent)}\u202f% {'fewer' if percent < 0 else 'more'} with adaptive lengths"


def _invalid(count: int) -> str:
    return f"{'no' if count == 0 else count} invalid token {'sequence' if count == 1 else 'sequences'}"


def _frechet(frechet: Mapping[str, Any]) -> str:
    value, untrained, real = (frechet[name] for name in ("value", "untrained", "real_vs_real"))
    if not all(math.isfinite(number) for number in (value, untrained, real)) or untrained == real:
        return "No comparison can be drawn from these values."
    share = (untrained - value) / (untrained - real)
    if share <= 0:
        return "Training has not brought the generated clips closer to real ones than an untrained generator."
    return (
        f"Training has covered {min(share, 1):.0%} of the way from an untrained generator "
        f"to the level of real clips.".replace("%", "\u202f%")
    )


def format_count(value: float) -> str:
    """Whole numbers plain, means with one decimal below 100; thousands apart by a narrow space."""
    rounded = round(value, 1) if abs(value) < 100 else round(value)
    text = f"{rounded:,.1f}" if rounded != int(rounded) else f"{int(rounded):,}"
    return text.replace(",", "\u202f")


def format_duration(seconds: float) -> str:
    """Seconds below two minutes, then minutes, then hours."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def format_memory(mebibytes: float) -> str:
    """MiB below a GiB, then GiB."""
    return f"{mebibytes:.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.1f} GiB"
