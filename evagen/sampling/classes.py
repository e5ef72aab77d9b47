"""Names of classes, checked without the imports that models need, so that a typo is told at once."""

import difflib
from collections.abc import Sequence

from evagen.errors import UserError
from evagen.kernels.files import read_json
from evagen.kernels.names import as_argument
from evagen.kernels.sources import CONFIG, locate

MOST_NAMED = 32
"""Classes that are named all."""


def label_of(name: str | None, known: Sequence[str]) -> int:
    """A class's label, -1 for None. Raises UserError with the nearest names, or if they are few with all, for an
    unknown class."""
    if name is None:
        return -1
    if name not in known:
        if not known:
            raise UserError(f"the generator knows no class {name!r}: it learnt none")
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        others = f"; there are {', '.join(known)}" if len(known) <= MOST_NAMED else f", of {len(known)}"
        raise UserError(f"the generator knows no class {name!r}; the nearest are {', '.join(near)}{others}")
    return list(known).index(name)


def check_classes(model: str, names: Sequence[str]) -> None:
    """Raises UserError for a model that has no generator, and for names that its generator does not know. One that is
    not on this machine yet is left to whoever loads it."""
    known = _classes_of(model)
    if known is not None:
        for name in names:
            label_of(name, known)


def check_no_class(word: str, model: str) -> None:
    """Raises UserError where a class of a model stands in place of a config, spelt in whatever letters."""
    for name in _classes_of(model) or ():
        if name.casefold() == word.casefold():
            raise UserError(
                f"{word} is a class, and a config stands there; clips of it: evagen sample --class {as_argument(name)}"
            )


def _classes_of(model: str) -> list[str] | None:
    """That its generator knows; None for a model that is not on this machine yet."""
    try:
        folder = locate(model, "generator", only_cached=True).folder
    except FileNotFoundError as error:
        raise UserError(str(error)) from error
    if not folder or not (folder / CONFIG).exists():
        return None
    try:
        config = read_json(folder / CONFIG)
        known = config.get("class_names", [])
        if (kind := config.get("_class_name")) != "VideoGenerator":
            raise ValueError(f"a {kind}, where a generator is needed")
        if not isinstance(known, list) or not all(isinstance(each, str) for each in known):
            raise ValueError("class_names should be a list of names")
    except ValueError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from error
    return known
