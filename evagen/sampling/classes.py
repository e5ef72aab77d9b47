"""Names of classes, checked without the imports that models need, so that a typo is told at once."""

import difflib
from collections.abc import Sequence

from evagen.errors import UserError
from evagen.kernels.files import read_json
from evagen.kernels.sources import CONFIG, locate


def label_of(name: str | None, known: Sequence[str]) -> int:
    """A class's label, -1 for None. Raises UserError with the nearest name for an unknown class."""
    if name is None:
        return -1
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        raise UserError(f"the generator knows no class {name!r}; the nearest are {', '.join(near) or 'none at all'}")
    return list(known).index(name)


def check_classes(model: str, names: Sequence[str]) -> None:
    """Raises UserError for a model that has no generator, and for names that its generator does not know. One that is
    not on this machine yet is left to whoever loads it."""
    try:
        folder = locate(model, "generator", only_cached=True).folder
    except FileNotFoundError as error:
        raise UserError(str(error)) from error
    if folder and (folder / CONFIG).exists():
        try:
            known = read_json(folder / CONFIG).get("class_names", [])
            if not isinstance(known, list) or not all(isinstance(each, str) for each in known):
                raise ValueError("class_names should be a list of names")
        except ValueError as error:
            raise UserError(f"{folder / CONFIG}: {error}") from error
        for name in names:
            label_of(name, known)
