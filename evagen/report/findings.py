"""What the measured numbers say: comparisons at equal quality, and the sentences that report them."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Measure = Literal["psnr", "perceptual", "motion"]
NAMES: dict[Measure, str] = {"psnr": "PSNR", "perceptual": "perceptual distance", "motion": "motion explained"}
FORMATS: dict[Measure, str] = {"psnr": "{:.2f} dB", "perceptual": "{:.4f}", "motion": "{:.2f}"}
NOTHING_MOVES = "Nothing moves in these clips, so there is no motion to explain"
ALIKE = 0.05
"""Movements that differ by less than this share count as about the same."""


def cost_and_quality(quality: Mapping[str, Any]) -> tuple[float, float, float, float | None]:
    """Tokens per clip, PSNR in dB, perceptual distance, motion explained."""
    return quality["tokens_per_clip"], quality["psnr"], quality["perceptual"], quality["motion"]


def uniform_tokens_for(uniform: Sequence[Mapping[str, Any]], measure: Measure, value: float | None) -> float | None:
    """The tokens per clip at which the uniform curve first reaches `value` of a measure.

    Between two measured points the curve is straight over the logarithm of the tokens, as it is drawn.
    None where the curve never takes that value, or there is none."""
    if value is None:
        return None
    points = sorted((q["tokens_per_clip"], q[measure]) for q in uniform if q[measure] is not None)
    for (tokens_a, value_a), (tokens_b, value_b) in itertools.pairwise(points):
        if min(value_a, value_b) <= value <= max(value_a, value_b):
            share = (value - value_a) / (value_b - value_a) if value_b != value_a else 0.0
            return tokens_a * (tokens_b / tokens_a) ** share
    return points[0][0] if len(points) == 1 and points[0][1] == value else None


def describe(summary: Mapping[str, Any]) -> dict[str, str | None]:
    """The page's measured sentences, by the place where they stand. Better and worse are both said."""
    reconstruction, generation = summary["reconstruction"], summary["generation"]
    uniform, adaptive, final = (reconstruction[name] for name in ("uniform", "adaptive", "final"))
    at_equal: dict[Measure, float | None] = {m: uniform_tokens_for(uniform, m, adaptive[m]) for m in NAMES}
    compared: dict[str, str] = {m: _compare(adaptive, uniform, tokens, m) for m, tokens in at_equal.items()}
    clips = "clip" if generation["clips"] == 1 else "clips"
    headline = (
        f"In {format_duration(summary['total_seconds'])}, this run went from raw video through every "
        f"training stage to {format_count(generation['clips'])} generated {clips}. "
        f"{compared['perceptual']} "
        f"The final tokenizer reaches {final['psnr']:.2f} dB PSNR with "
        f"{format_count(final['tokens_per_clip'])} tokens per clip; the generator chose its own lengths, "
        f"{format_count(generation['tokens_per_clip'])} tokens per clip, and wrote "
        f"{_invalid(generation['invalid_sequences'])}."
    )
    equal = at_equal["perceptual"]
    return {
        "headline": headline,
        **compared,
        "uniform_tokens": None if equal is None else format_count(equal),
        "explained": _explained(final, reconstruction["final_longest"]),
        "final": _final_and_proxy(final, adaptive),
        "movement": _movement(generation["motion"], generation["moving_share"]),
        "frechet": _frechet(generation["frechet"]),
    }


def _explained(final: Mapping[str, Any], longest: Mapping[str, Any]) -> str:
    """How much of what moves the final tokenizer draws."""
    motion, at_longest = final["motion"], longest["motion"]
    if motion is None or at_longest is None:
        return f"{NOTHING_MOVES}."
    return (
        f"With the router’s lengths, {format_count(final['tokens_per_clip'])} tokens per clip, the final tokenizer "
        f"explains {_share_of(motion)} of the motion in the held-out clips; with the longest lengths, "
        f"{format_count(longest['tokens_per_clip'])} tokens, it explains {_share_of(at_longest)}. "
        f"A perfect copy gets 100\u202f%, a still picture of the background 0; below 0 is worse than a still picture."
    )


def _share_of(motion: float) -> str:
    return format_percent(motion) if motion >= 0 else f"none ({format_motion(motion)})"


def _final_and_proxy(final: Mapping[str, Any], proxy: Mapping[str, Any]) -> str:
    """In which measures the final tokenizer is better, and in which worse, at the same lengths."""
    verdicts: dict[str, list[str]] = {"better than": [], "worse than": [], "equal to": []}
    for measure, name in NAMES.items():
        if final[measure] is not None and proxy[measure] is not None:
            mine, other = (FORMATS[measure].format(q[measure]).replace("-", "−") for q in (final, proxy))
            is_better = (final[measure] > proxy[measure]) == (measure != "perceptual")
            verdict = "equal to" if mine == other else "better than" if is_better else "worse than"
            verdicts[verdict].append(f"{name} ({mine})" if mine == other else f"{name} ({mine}, proxy {other})")
    said = [f"{verdict} the proxy in {_listed(names)}." for verdict, names in verdicts.items() if names]
    return f"At the same lengths, the final tokenizer is {' It is '.join(said)}"


def _movement(motion: Mapping[str, Any], share: Mapping[str, Any]) -> str:
    """How the movement of generated clips compares with that of real ones."""
    if motion["ratio"] is None or share["ratio"] is None:
        return "Nothing moves in the real clips, so the movement of generated ones cannot be compared with theirs."
    change, places = _amount(motion["ratio"]), _amount(share["ratio"])
    if change == places:
        verdict = f"Generated clips move {change} real ones."
    else:
        verdict = (
            f"Generated clips move {change} real ones from frame to frame, and {places} real ones in how much of the "
            f"picture moves."
        )
    return (
        f"{verdict} They change {format_percent(motion['ratio'])} as much from frame to frame, and the moving part of "
        f"the picture is {format_percent(share['ratio'])} as large."
    )


def _amount(ratio: float) -> str:
    return "less than" if ratio < 1 - ALIKE else "more than" if ratio > 1 + ALIKE else "about as much as"


def _compare(
    adaptive: Mapping[str, Any], uniform: Sequence[Mapping[str, Any]], equal: float | None, measure: Measure
) -> str:
    if adaptive[measure] is None:
        return f"{NOTHING_MOVES}, and no points to draw."
    tokens, name = format_count(adaptive["tokens_per_clip"]), NAMES[measure]
    if equal is not None:
        return (
            f"With adaptive lengths a clip takes {tokens} tokens on average; uniform lengths need about "
            f"{format_count(equal)} for the same {name} ({_percent(adaptive['tokens_per_clip'], equal)})."
        )
    spans = [q["tokens_per_clip"] for q in uniform]
    range_of_tokens = " to ".join(format_count(t) for t in sorted({min(spans), max(spans)})) if spans else "no"
    return (
        f"With adaptive lengths a clip takes {tokens} tokens on average; its {name} lies outside "
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
    if not all(math.isfinite(number) for number in (value, untrained, real)) or untrained <= real:
        return "No comparison can be drawn from these values."
    share = (untrained - value) / (untrained - real)
    if share <= 0:
        return "Training has not brought the generated clips closer to real ones than an untrained generator."
    return (
        f"Training has covered {min(share, 1):.0%} of the way from an untrained generator "
        f"to the level of real clips.".replace("%", "\u202f%")
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def format_percent(share: float) -> str:
    return f"{100 * share:.0f}\u202f%"


def format_motion(motion: float | None) -> str:
    """Motion explained; a dash where nothing moves."""
    return "–" if motion is None else f"{motion:.2f}".replace("-", "−")


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


def format_memory(megabytes: float) -> str:
    """MB below a GB, then GB; 10^6 and 10^9 bytes."""
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"
