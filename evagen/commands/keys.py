"""`evagen configs NAME --keys`: every key that a config may have, with its type, its value there and what it does, read
from the code that takes it."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from evagen.commands import COMMANDS
from evagen.config import PLACE, Section, find_config, read_header, section_in
from evagen.errors import UserError


@dataclass(frozen=True)
class Key:
    """name: dotted, as overrides have it; kind: its type, as written; value: in the config; is_default: whether the
    config leaves it out; about: what it does, empty where nothing is said."""

    name: str
    kind: str
    value: Any
    is_default: bool
    about: str


def describe(name: str) -> str:
    """All keys of a config, for the terminal. Raises UserError for a config that does not say its command."""
    path = find_config(name)
    command = COMMANDS.get(read_header(path).command)
    if command is None:
        raise UserError(f"{path} does not say which command it is for: a line `# command: train-tokenizer` should")
    config = command.load(name)
    lines = [f"{name}: for `evagen {command.name}`, {read_header(path).about}", ""]
    for key in keys_of(config):
        value = "" if key.value is None else f" = {key.value}"
        lines.append(f"{key.name}{value}  ({key.kind}{', as it is by default' * key.is_default})")
        lines += textwrap.wrap(key.about, 110, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def keys_of(section: Section, prefix: str = "", given: bool = True) -> Iterator[Key]:
    """The keys of a section and of those within it, in their order."""
    about = explanations(type(section))
    for name, field in type(section).model_fields.items():
        value, is_given = getattr(section, name), given and name in section.model_fields_set
        if isinstance(value, Section):
            yield from keys_of(value, f"{prefix}{name}.", is_given)
        else:
            yield Key(prefix + name, _kind(field), value, not is_given, about.get(name, ""))


def keys_of_class(section: type[Section]) -> list[tuple[Key, type[Section] | None]]:
    """The keys of a section by its class alone, with their defaults (`needed` where there is none), each beside the
    section that it is, if it is one; those are not gone into."""
    about, found = explanations(section), []
    for name, field in section.model_fields.items():
        inner = section_in(field.annotation)
        default = "needed" if field.is_required() else field.get_default(call_default_factory=True)
        found.append((Key(name, _kind(field), default, True, about.get(name, "")), inner))
    return found


def explanations(section: type[Section]) -> dict[str, str]:
    """What is written about each key: beneath it in the class, or of the argument that it becomes."""
    found: dict[str, str] = {}
    component = getattr(section, "component", None)
    for each in (*reversed(section.__mro__), component):
        if inspect.isclass(each) and each not in (object, BaseModel):
            found |= _of_arguments(each) | beneath_attributes(each)
    return found


def beneath_attributes(kind: type) -> dict[str, str]:
    """What stands below each annotated attribute of a class."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError):  # made by a program
        return {}
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:]):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = _one_line(str(below.value.value))  # type: ignore[attr-defined]
    return found


def _of_arguments(kind: type) -> dict[str, str]:
    """From the block `Args:` of a docstring; several names may share a line."""
    text = inspect.cleandoc(kind.__doc__ or "")
    block = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
    found: dict[str, str] = {}
    if block is None:
        return found
    for entry in re.split(r"\n(?=\S)", textwrap.dedent(block[1])):
        names, _, about = entry.partition(":")
        found |= {name.strip(): _one_line(about) for name in names.split(",")}
    return found


def _kind(field: FieldInfo) -> str:
    annotation = field.annotation
    text = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    text = re.sub(r"\b(?:typing|pathlib|collections\.abc|evagen\.[a-z_.]+)\.", "", text)
    text = text.replace(f"Annotated[str, {PLACE!r}]", "str")
    text = re.sub(r"Annotated\[(\w+), FieldInfo\(.*?\)\]\)\]", r"\1", text)
    return re.sub(r"Optional\[(.*)\]$", r"\1 | None", text).replace("NoneType", "None")


def _one_line(text: str) -> str:
    return " ".join(text.split())
