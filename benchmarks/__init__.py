"""Benchmarks: ratios and limits measured in one run on one machine. `evagen bench NAME [--json]` runs them."""

from typing import Any

BENCHMARKS = ("attention",)


def print_table(result: dict[str, Any], prefix: str = "") -> None:
    """A line for each figure."""
    for key, value in result.items():
        if isinstance(value, dict):
            print_table(value, f"{prefix}{key}.")
        else:
            print(f"{prefix + key:45s} {value:.4g}" if isinstance(value, float) else f"{prefix + key:45s} {value}")
