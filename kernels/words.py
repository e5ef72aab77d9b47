"""Numbers in sentences."""


def counted(number: int, one: str, several: str | None = None) -> str:
    """`1 frame`, `2,000 frames`. several: what follows other numbers than 1, where that is not `one` with an s: its
    verb may be in both, `video is` and `videos are`."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def first_line(error: Exception) -> str:
    """Its kind and what it says first, at most 300 letters."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
