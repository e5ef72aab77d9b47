"""How a command fails: in words."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from evagen.errors import UserError
from evagen.kernels.surroundings import in_words, is_out_of_memory

CHUNKS = "--clips-per-chunk, or, of encode and reconstruct, --short-side"
HOLDS_LESS = {
    "encode": CHUNKS, "decode": CHUNKS, "reconstruct": CHUNKS, "fvd": "--batch-size", "sample": "slots",
    "curate": "max_segments, with which the same command goes on, or batch_size of another record",
    "tokenize": "batch_size", "benchmark": "batch_size",
    "study": "batch_size",
}  # fmt: skip
"""What to lower where a command's memory does not suffice. Trainings say for themselves."""


@contextmanager
def explained_errors() -> Iterator[None]:
    """Prints a UserError, what the system would not let us do with a file, and that the memory does not suffice, as one
    message without a traceback, and exits with status 2."""
    try:
        yield
    except UserError as error:
        _end(str(error))
    except OSError as error:
        words = in_words(error)
        if words is None:
            raise
        _end(words)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _end(_about_memory(error))


def _end(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _about_memory(error: BaseException) -> str:
    said = " ".join(str(error).split())[:300] or "MemoryError"
    what = next((HOLDS_LESS[each] for each in sys.argv[1:2] if each in HOLDS_LESS), None)
    return f"the memory does not suffice ({said}): close other programs that hold it" + (
        f", or lower {what}" if what else ""
    )


def refuse_empty(arguments: Sequence[str]) -> None:
    """Raises UserError where one says nothing. As a path it would mean the folder at hand, and who has typed
    `--out "$OUT"` did not mean that."""
    for number, argument in enumerate(arguments, start=1):
        if re.fullmatch(r"(--[\w-]+=)?\s*", argument):
            raise UserError(
                f"argument {number}, {argument!r}, is empty: is a variable of the shell not set? Leave an option away "
                "to have what it is without; the folder at hand is ."
            )
