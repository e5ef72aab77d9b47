"""How a command fails: in words."""

import sys
from collections.abc import Iterator
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
