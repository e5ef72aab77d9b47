"""Typed YAML configs with dotted overrides: one `Section` beside each component, unknown keys refused.

config = load_config(TokenizerTraining, "configs/quickstart/proxy.yaml", ["optimizer.steps=500"])
save_config(config, "runs/proxy")          # writes runs/proxy/config.yaml, complete and resolved
"""

import copy
import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pydantic
import yaml

from evagen.errors import UserError
from evagen.kernels.files import atomic_write


class Section(pydantic.BaseModel):
    """A group of settings. Unknown keys are errors; values are checked and converted once, on loading."""

    model_config = pydantic.ConfigDict(extra="forbid", validate_default=True, protected_namespaces=())
    component: ClassVar[Callable | None] = None
    """Whose arguments the keys are, where `section_of` made it."""


ConfigType = TypeVar("ConfigType", bound=Section)

ONLY_HOW = "only how"
"""In a field's `Annotated`: the setting says how a run is carried out, not what comes of it, so that a run that was
stopped may go on with another."""
MAY_GROW = "may grow"
"""In a field's `Annotated`: a run may be given a larger value than it had, to do more of the same."""


def section_of(component: Callable, *, leave_out: Sequence[str] = ()) -> type[Section]:
    """The config section whose keys are the arguments of a component's `__init__`, with its types and
    defaults, so that what a component takes is written down once. `leave_out` names arguments that
    the program fills in itself."""
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(component).parameters.items():
        if name == "self" or name in leave_out:
            continue
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        fields[name] = (parameter.annotation, default)
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


def read_values(path: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
    """The plain values of a YAML file. With `base: NAME` they are laid over those of another one, a file of that name
    beside it or else a shipped config: groups of settings are merged, all other values replaced.

    `above`: the files whose bases led here. Raises UserError for broken YAML, and for a base that is missing or that
    comes back to itself."""
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold `key: value` lines, not a {type(values).__name__}")
    name = values.pop("base", None)
    if name is None:
        return values
    beside = path.parent / f"{name}.yaml"
    base = beside if beside.is_file() else find_config(name)
    if base in (path, *above):
        raise UserError(f"{path}: base: {name} comes back to the file itself")
    return _merged(read_values(base, (path, *above)), values)


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
    lines = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
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
        _apply_override(values, override)
    return check_config(schema, values, source)


def check_config(schema: type[ConfigType], values: dict[str, Any], source: str) -> ConfigType:
    """Validates plain values against a schema; raises UserError with one line for each problem."""
    try:
        return schema.model_validate(values)
    except pydantic.ValidationError as error:
        lines = [_explain(schema, problem) for problem in error.errors()]
        raise UserError(f"{source}:\n" + "\n".join(f"  {line}" for line in lines)) from error


def save_config(config: Section, folder: str | Path) -> Path:
    """Writes the resolved config as `config.yaml` into `folder`; loading it gives the same config."""
    path = Path(folder) / "config.yaml"
    with atomic_write(path) as unfinished:  # a run that is killed here must find its config again
        unfinished.write_text(format_values(config.model_dump(mode="json")))
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


def shipped_configs() -> dict[str, Path]:
    """The configs that come with the toolkit, by name (`quickstart/proxy`)."""
    root = Path(str(resources.files("evagen.configs").joinpath("")))
    paths = (path for path in sorted(root.rglob("*.yaml")) if path.parent.name != "accelerate")  # those are not ours
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in paths}


def find_config(path: str | Path) -> Path:
    """A config file by path or by shipped name. Raises UserError with the nearest shipped names."""
    if Path(path).is_file():
        return Path(path)
    shipped = shipped_configs()
    name = str(path).removeprefix("configs/").removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=3, cutoff=0.3) or list(shipped)
    raise UserError(f"no config file at {path}; shipped configs with a similar name: {', '.join(near)}")


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"override {override!r} should read key=value, for instance optimizer.steps=500")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"the value in override {override!r} is not valid YAML: {error}") from error
    *parents, last = key.split(".")
    for parent in parents:
        below = values.setdefault(parent, {})
        if not isinstance(below, dict):
            raise UserError(f"override {override!r}: {parent!r} is a value, not a group of settings")
        values = below
    values[last] = value


def _explain(schema: type[Section], problem: Any) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return unknown_key(location, known_keys(schema))
    if problem["type"] == "missing":
        return f"{location!r} is missing: {_type_name(schema, problem['loc'])} is needed"
    return f"{location!r} is {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


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


def section_in(annotation: Any) -> type[Section] | None:
    """The section that a field is, or may be; None for a plain value."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if inspect.isclass(candidate) and issubclass(candidate, Section):
            return candidate
    return None


def _type_name(schema: type[Section], location: tuple) -> str:
    annotation: Any = schema
    for part in location:
        fields = getattr(section_in(annotation), "model_fields", {})
        annotation = fields[part].annotation if part in fields else None
    return getattr(annotation, "__name__", str(annotation))
