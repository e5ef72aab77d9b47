"""Benchmarks: ratios and limits measured in one run on one machine. `evagen bench NAME [--json]` runs them.

Each is a module with a `run()` that returns figures by name: numbers, groups of them, and `rows`, a list of such.
"""

import contextlib
import ctypes
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

BENCHMARKS = ("attention", "fvd", "gpu", "loader", "longvideo", "memory", "packing", "sampling", "search", "tokenizer")

_OF_C = "ucrtbase" if os.name == "nt" else None
"""C's own library; None: elsewhere each program has it loaded."""


def run_benchmark(name: str) -> dict[str, Any]:
    """The figures of one benchmark. What it and the libraries below it write to standard output meanwhile, also past
    Python, goes to standard error, so that standard output holds the figures alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(f"evagen.bench.{name}").run()
    finally:
        sys.stdout.flush()
        ctypes.CDLL(_OF_C).fflush(None)  # what C libraries hold back
        os.dup2(kept, 1)
        os.close(kept)


def as_tables(result: dict[str, Any]) -> str:
    """Markdown, which is read on a terminal as it is: a table of the figures that stand alone, in which a group's name
    comes before a dot, and one for each list of rows, under its name."""
    parts: list[str] = []
    alone: list[dict[str, Any]] = []
    for name, value in _leaves(result):
        if isinstance(value, list):
            parts += [_table(alone)] * bool(alone) + [f"{name}:", _table(value)]
            alone = []
        else:
            alone.append({"what": name, "measured": _shown(value)})
    return "\n\n".join(parts + [_table(alone)] * bool(alone))


def _leaves(result: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in result.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _table(rows: list[dict[str, Any]]) -> str:
    """Columns named by the rows' keys, in the order in which they first occur; numbers to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    is_text = [any(isinstance(row.get(name), str) for row in rows) for name in names]
    cells = [names, *([_shown(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells)]
    rule = ["-" * width if text else "-" * (width - 1) + ":" for width, text in zip(widths, is_text)]
    padded = [
        [cell.ljust(width) if text else cell.rjust(width) for cell, width, text in zip(line, widths, is_text)]
        for line in (names, rule, *cells[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _shown(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")
