"""Benchmarks: ratios and limits measured in one run on one machine. `evagen bench NAME [--json]` runs them.

Each is a module with a `run()` that returns figures by name: numbers, groups of them, and `rows`, a list of such.
"""

import contextlib
import ctypes
import importlib
import os
import sys
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


def print_table(result: dict[str, Any], prefix: str = "") -> None:
    """A line for each figure, and a table for each list of rows."""
    for key, value in result.items():
        if isinstance(value, dict):
            print_table(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            _print_rows(value)
        else:
            print(f"{prefix}{key}".ljust(45), _shown(value))


def _print_rows(rows: list[dict[str, Any]]) -> None:
    """Columns named by the rows' keys, in the order in which they first occur; numbers to the right."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = [names, *([_shown(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    is_text = [any(isinstance(row.get(name), str) for row in rows) for name in names]
    for line in table:
        cells = (cell.ljust(w) if text else cell.rjust(w) for cell, w, text in zip(line, widths, is_text))
        print("  ".join(cells).rstrip())


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
