"""What an annotation says of a value: the types that it may have, and those of what is in it."""

from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin


def members(annotation: Any) -> list[Any]:
    """The types that a value may have: `list[int] | None` is a list or None."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for each in get_args(annotation) for member in members(each)]
    return [annotation]


def leaves(annotation: Any) -> list[Any]:
    """The types of what is within lists and mappings, at any depth; of anything else its own."""
    found = []
    for member in members(annotation):
        inner = () if get_origin(member) is Literal else [each for each in get_args(member) if each is not ...]
        found += [leaf for each in inner for leaf in leaves(each)] if inner else [member]
    return found


def holds(annotation: Any, wanted: Any) -> bool:
    """Whether a type, or what `Annotated` adds to one, stands anywhere in it."""
    inner = get_args(annotation)
    return annotation == wanted or any(holds(each, wanted) for each in inner)


def is_word(kind: Any) -> bool:
    """Whether values of a type are written as one word: a string, a path, one of some words; or None."""
    if get_origin(kind) is Literal:
        return all(isinstance(each, str) for each in get_args(kind))
    return kind in (str, Path, NoneType)
