"""How a command fails: in words."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from evagen.errors import UserError
from evagen.kernels.surroundings import in_words


@contextmanager
def explained_errors() -> Iterator[None]:
    """Prints a UserError, and what the system would not let us do with a file, as one message without a traceback, and
    exits with status 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        words = in_words(error)
        if words is None:
            raise
        print(f"error: {words}", file=sys.stderr)
        sys.exit(2)


def refuse_empty(arguments: Sequence[str]) -> None:
    """Raises UserError where one says nothing. As a path it would mean the folder at hand, and who has typed
    `--out "$OUT"` did not mean that."""
    for number, argument in enumerate(arguments, start=1):
        if re.fullmatch(r"(--[\w-]+=)?\s*", argument):
            raise UserError(
                f"argument {number}, {argument!r}, is empty: is a variable of the shell not set? Leave an option away "
                "to have what it is without; the folder at hand is ."
            )
