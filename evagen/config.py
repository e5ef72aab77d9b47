"""Typed YAML configs with dotted overrides: one `Section` beside each component, unknown keys refused.

config = load_config(TokenizerTraining, "configs/quickstart/proxy.yaml", ["optimizer.steps=500"])
save_config(config, "runs/proxy")          # writes runs/proxy/config.yaml, complete and resolved
"""

import copy
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

import pydantic
import yaml

from evagen.annotations import holds, is_word, leaves, members
from evagen.errors import UserError
from evagen.kernels.files import expand, read_json, write_whole
from evagen.kernels.plain_yaml import MAX_BYTES, load_yaml

PLACE = "place"
"""In an annotation: the text is a path, or may be one."""
Place = Annotated[str, PLACE]
"""A path, or the name of something that is elsewhere, as a hub id is. `expand` is done to it, as it is to a `Path`."""

SEEDS = 2**32
"""So many numpy takes, from 0 on."""
Seed = Annotated[int, pydantic.Field(ge=0, lt=SEEDS)]
"""Of random numbers."""


class Section(pydantic.BaseModel):
    """A group of settings. Unknown keys are errors; values are checked and converted once, on loading."""

    model_config = pydantic.ConfigDict(
        extra="forbid", validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )
    component: ClassVar[Callable | None] = None
    """Whose arguments the keys are, where `section_of` made it."""

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _paths_as_people_write_them(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        is_place = any(holds(each, wanted) for each in (field.annotation, *field.metadata) for wanted in (Path, PLACE))
        return _expanded(value) if is_place else value


ConfigType = TypeVar("ConfigType", bound=Section)

ONLY_HOW = "only how"
"""In a field's `Annotated`: the setting says how a run is carried out, not what comes of it, so that a run that was
stopped may go on with another."""
MAY_GROW = "may grow"
"""In a field's `Annotated`: a run may be given a larger value than it had, to do more of the same."""


def section_of(component: Callable, *, leave_out: Sequence[str] = ()) -> type[Section]:
    """The config section whose keys are the arguments of a component's `__init__`, with its types and
    defaults, so that what a component takes is written down once. `leave_out` names arguments that
    the program fills in itself.

    Whole numbers are how many there are of something: none is negative, or 0 where the default is not."""
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(component).parameters.items():
        if name == "self" or name in leave_out:
            continue
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        counts = int in members(parameter.annotation)
        checks = pydantic.Field(ge=0 if default == 0 else 1) if counts else None
        fields[name] = (Annotated[parameter.annotation, checks], default)
    section = pydantic.create_model(f"{getattr(component, '__name__', 'Component')}Section", __base__=Section, **fields)
    section.component = component
    return section


def load_config(schema: type[ConfigType], path: str | Path, overrides: Sequence[str] = ()) -> ConfigType:
    """Reads a YAML file, applies `dotted.key=value` overrides (values are YAML), and checks the result.

    `path` is a file, or the name of a shipped config such as `quickstart/proxy`.
    Raises UserError for a missing file, broken YAML, an unknown key (naming the nearest known one)
    or a value of the wrong type."""
    source = find_config(path)
    return with_overrides(schema, read_values(source), overrides, str(source))


def read_text(path: Path) -> str:
    """A config file's text. Raises UserError for what is no text, or too long to be a config."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is longer than {MAX_BYTES:,} bytes, and no config is")
        return data.decode("utf-8-sig")
    except ValueError as error:
        raise UserError(f"{path} is no config: {error}") from error


def read_described(path: Path) -> dict[str, Any]:
    """The object in a JSON file that describes others, such as a model's config.json. Raises UserError for a file that
    cannot be read, or holds something else."""
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def read_values(path: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
    """The plain values of a YAML file. With `base: NAME` they are laid over those of another one, a file of that name
    beside it or else a shipped config: groups of settings are merged, all other values replaced.

    `above`: the files whose bases led here. Raises UserError for broken YAML, and for a base that is missing or that
    comes back to itself."""
    try:
        values = load_yaml(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold `key: value` lines, not a {type(values).__name__}")
    name = values.pop("base", None)
    if name is None:
        return values
    if not isinstance(name, str):
        raise UserError(f"{path}: base: {name!r} should be the name of a config")
    beside = path.parent / f"{name}.yaml"
    base = beside if _is_file(beside) else find_config(name)
    above = (path, *above)
    if base.resolve() in {each.resolve() for each in above}:
        raise UserError(f"{path}: base: {name} comes back to the file itself")
    return _merged(read_values(base, above), values)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {key for key, value in above.items() if isinstance(value, dict) and isinstance(below.get(key), dict)}
    return below | above | {key: _merged(below[key], above[key]) for key in both}


@dataclass(frozen=True)
class Header:
    """What the comment lines of a config say. about: the first line; command, target (the figure it should reach),
    hardware, hours (of training, as published): what follows `# command:` and so on, empty where there is none."""

    about: str = ""
    command: str = ""
    target: str = ""
    hardware: str = ""
    hours: str = ""

    @property
    def num_gpus(self) -> int | None:
        """How many GPUs `hardware` begins with, one process on each; None where it begins with something else."""
        found = re.match(r"(one|\d+) GPUs?\b", self.hardware)
        return int(found[1].replace("one", "1")) if found else None


def read_header(path: Path) -> Header:
    """The header of a YAML file."""
    lines = [line.removeprefix("#").strip() for line in read_text(path).splitlines() if line.startswith("#")]
    found = {"about": lines[0] if lines else ""}
    for line in lines:
        key, separator, value = line.partition(":")
        if separator and key in ("command", "target", "hardware", "hours"):
            found[key] = value.strip()
    return Header(**found)


def with_overrides(
    schema: type[ConfigType], values: dict[str, Any], overrides: Sequence[str], source: str
) -> ConfigType:
    """Plain values with `dotted.key=value` overrides, checked as `load_config` does; `source` is what errors name."""
    values = copy.deepcopy(values)
    for override in overrides:
        _apply_override(schema, values, override)
    return check_config(schema, values, source, overrides)


def check_config(
    schema: type[ConfigType], values: dict[str, Any], source: str, overrides: Sequence[str] = ()
) -> ConfigType:
    """Validates plain values against a schema; raises UserError with one line for each problem, below the override that
    brought the value, or else `source`."""
    try:
        return schema.model_validate(values)
    except pydantic.ValidationError as error:
        lines: dict[str, list[str]] = {}
        for problem in error.errors():
            blamed = [each for each in overrides if _is_within(problem["loc"], each.partition("=")[0])]
            where = f"override {_shown(repr(blamed[-1]))}" if blamed else source
            lines.setdefault(where, []).append(_explain(schema, problem))
        text = "\n".join(f"{where}:\n" + "\n".join(f"  {line}" for line in found) for where, found in lines.items())
        raise UserError(text) from error


def _is_within(location: Sequence[str | int], key: str) -> bool:
    return f"{'.'.join(map(str, location))}.".startswith(f"{key}.")


def save_config(config: Section, folder: str | Path) -> Path:
    """Writes the resolved config as `config.yaml` into `folder`; loading it gives the same config."""
    path = Path(folder) / "config.yaml"
    write_whole(path, format_values(config.model_dump(mode="json")))  # a run that is killed here must find it again
    return path


def format_values(values: dict[str, Any]) -> str:
    """Plain values as YAML."""
    return yaml.safe_dump(values, sort_keys=False)


def differences(config: Section, other: Section) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both; without those of `ONLY_HOW`, and of `MAY_GROW`
    where ours is the larger. The two are of one class."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, field in type(config).model_fields.items():
        ours, theirs = getattr(config, name), getattr(other, name)
        if ours == theirs or ONLY_HOW in field.metadata or (MAY_GROW in field.metadata and ours > theirs):
            continue
        if isinstance(ours, Section) and type(ours) is type(theirs):
            found |= {f"{name}.{key}": values for key, values in differences(ours, theirs).items()}
        else:
            found[name] = (ours, theirs)
    return found


def changed(config: Section, prefix: str = "") -> dict[str, Any]:
    """Dotted keys whose values are not their sections' defaults, and those that have no default, with the values."""
    found: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Section):
            found |= changed(value, f"{prefix}{name}.")
        elif field.is_required() or value != field.get_default(call_default_factory=True):
            found[prefix + name] = value
    return found


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values in groups, by their dotted keys."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


@functools.cache
def shipped_configs() -> dict[str, Path]:
    """The configs that come with the toolkit, by name (`quickstart/proxy`)."""
    root = Path(str(resources.files("evagen.configs").joinpath("")))
    paths = (path for path in sorted(root.rglob("*.yaml")) if path.parent.name != "accelerate")  # those are not ours
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in paths}


def find_config(path: str | Path) -> Path:
    """A config file by path or by shipped name. Raises UserError with the nearest shipped names."""
    if _is_file(Path(path)):
        return Path(path)
    shipped = shipped_configs()
    name = Path(path).as_posix().removeprefix("configs/").removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=3, cutoff=0.3) or list(shipped)
    raise UserError(f"no config file at {path}; shipped configs with a similar name: {', '.join(near)}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or that no file can have
        return False


def _expanded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _expanded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_expanded(each) for each in value]
    return expand(str(value)) if isinstance(value, (str, Path)) else value


def _apply_override(schema: type[Section], values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"override {override!r} should read key=value, for instance optimizer.steps=500")
    if not text:
        raise UserError(f"override {override!r} gives no value; {key}=null means none, where a key may have none")
    value = _typed(_annotation_at(schema, key.split(".")), key, text)
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents, start=1):
        place = ".".join(parents[:depth])
        if any(get_origin(each) is list for each in members(_annotation_at(schema, parents[:depth]))):
            whole = f"'[{{{last}: …}}, …]'" if last.isidentifier() else "[one, two]"
            raise UserError(f"override {override!r}: {place!r} is a list, and is given whole: {place}={whole}")
        if values.get(parent) is None:  # as resolved configs have a group that is not used
            values[parent] = {}
        if not isinstance(values[parent], dict):
            raise UserError(f"override {override!r}: {place!r} is a value, not a group of settings")
        values = values[parent]
    values[last] = value


def _typed(annotation: Any, key: str, text: str) -> Any:
    """What an override gives. The key's type decides: a word, a path or a number is what stands there, to the letter;
    lists and groups are YAML, and their members are to the letter where all of them are words."""
    kinds = members(annotation)
    if text == "null" and type(None) in kinds:
        return None
    if all(is_word(kind) or kind in (int, float, bool) for kind in kinds):
        return text
    try:
        return load_yaml(text, only_words=all(map(is_word, leaves(annotation))))
    except ValueError as error:
        raise UserError(
            f"the value in override {_shown(repr(f'{key}={text}'))} is not valid YAML, as a list or a group has to be: "
            f"{error}\nFor the shell, quotes stand around all of it; within, around what holds a comma or a bracket: "
            f"'{key}=[\"one, two\", three]'"
        ) from error


def _annotation_at(schema: type[Section], location: Sequence[str | int]) -> Any:
    """The type of a key; None where there is no such key."""
    annotation: Any = schema
    for part in location:
        fields = getattr(section_in(annotation), "model_fields", {})
        mappings = [each for each in members(annotation) if get_origin(each) is dict]
        if part in fields:
            annotation = fields[part].annotation
        elif mappings:
            annotation = get_args(mappings[0])[1]
        elif isinstance(part, str):
            return None
    return annotation


def _shown(text: str) -> str:
    """In an error: short."""
    return text if len(text) <= 200 else f"{text[:200]}…"


def _explain(schema: type[Section], problem: Any) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return unknown_key(location, known_keys(schema))
    if problem["type"] == "missing":
        inner = section_in(_annotation_at(schema, problem["loc"]))
        needed = _required(inner, f"{location}.") if inner else []
        return "; ".join(f"{key!r} is missing" for key in needed or [location])
    message, value = problem["msg"], problem["input"]
    if problem["type"] in ("string_type", "path_type") and isinstance(value, (bool, int, float)):
        message += "; in a file a word that looks like something else stands in quotes"
    if problem["type"] in ("list_type", "tuple_type"):
        message += f"; one is written in brackets, {location}=[one, two]"
    is_number = problem["type"].startswith(("greater_than", "less_than"))  # though it was typed
    shown = _shown(str(value) if is_number else repr(value))
    return f"{location!r} is {shown}: {message[0].lower()}{message[1:]}"


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Words for a key that is none of those known."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"unknown key {key!r}" + (f"; the nearest known key is {near[0]!r}" if near else "")


def known_keys(schema: type[Section], prefix: str = "") -> list[str]:
    """Dotted keys of a section and of those in it."""
    keys = []
    for name, field in schema.model_fields.items():
        keys.append(prefix + name)
        inner = section_in(field.annotation)
        if inner is not None:
            keys += known_keys(inner, f"{prefix}{name}.")
    return keys


def _required(schema: type[Section], prefix: str) -> list[str]:
    """Dotted keys of a section, and of those in it, that have no default."""
    keys = []
    for name, field in schema.model_fields.items():
        if field.is_required():
            inner = section_in(field.annotation)
            keys += _required(inner, f"{prefix}{name}.") if inner else [prefix + name]
    return keys


def section_in(annotation: Any) -> type[Section] | None:
    """The section that a field is, or may be; None for a plain value."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if inspect.isclass(candidate) and issubclass(candidate, Section):
            return candidate
    return None
