"""Writes what follows from the code and from the other pages: `docs/reference/` and the table of contents in
`docs/README.md`. `make docs` runs it; a test fails where a page is not what this would write."""

import inspect
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import typer

from evagen.cli import app
from evagen.commands import COMMANDS, KEYS
from evagen.commands.keys import Key, keys_of_class
from evagen.config import Section, known_keys
from evagen.scoring.config import Benchmark

DOCS = Path(__file__).parent
MADE = "Made from the code by `make docs`; to change it, change the code."
HEAD_OF_KEYS = f"""\
# Keys of configs

Every key that a config may have: its type, what it is if not given, and what it does. {MADE}

`evagen configs NAME --keys` says the same of one config, with its values. How a config works:
[configs.md](../configs.md).
"""
CONTENTS = {
    "Begin": ["five-minutes.md", "install.md", "demo.md", "method.md"],
    "Use": ["tokens.md", "sampling.md", "long-videos.md", "hub.md", "llama.md"],
    "Train": ["your-own-videos.md", "configs.md", "watching.md", "paper.md", "recipe.md"],
    "Measure": ["evaluation.md", "results.md", "peers.md"],
    "Look up": ["reference/commands.md", "reference/configs.md"],
    "Understand": ["design.md", "log.md"],
}
"""The pages by what a reader wants. Those that are not there are left out."""


def pages() -> dict[Path, str]:
    """The text of every page that is made here, and of the list of keys that commands are checked by."""
    made = {DOCS / "reference" / "commands.md": commands_page(), DOCS / "reference" / "configs.md": configs_page()}
    keys = {name: known_keys(command.schema_class()) for name, command in COMMANDS.items()}
    return made | {DOCS / "README.md": contents_page(made), KEYS: json.dumps(keys, indent=1) + "\n"}


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()).replace(" ", "-")


def contents_page(made: dict[Path, str]) -> str:
    lines = ["# Documentation", "", "All pages, by what you want to do. New here? Take the first.", ""]
    for title, names in CONTENTS.items():
        lines += [f"## {title}", ""]
        for name in names:
            path = DOCS / name
            if path not in made and not path.exists():
                continue
            text = made.get(path) or path.read_text(encoding="utf-8")
            heading, about = re.findall(r"^# (.+)\n\n((?:.+\n)+)", text, re.MULTILINE)[0]
            about = re.split(r"(?<=[.:]) ", about.replace("\n", " ").strip())[0].rstrip(":.")
            about = re.sub(r"^This page \w+,? ", "", about)
            lines.append(f"- [{heading}]({name}): {about}.")
            parts = re.findall(r"^## (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.MULTILINE)
            if parts and name != "log.md":
                lines.append("  " + " · ".join(f"[{part}]({name}#{slug(part)})" for part in parts))
        lines.append("")
    lines.append("To change something: [CONTRIBUTING.md](../CONTRIBUTING.md).")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Every command with its arguments, options and an example."""
    commands = dict(all_commands(typer.main.get_command(app)))
    lines = ["# Commands", "", f"Every command, its arguments and options, and an example. {MADE}", ""]
    lines += [f"- [`evagen {name}`](#{slug(f'evagen {name}')}): {_cell(each.help)}" for name, each in commands.items()]
    for name, command in commands.items():
        lines += ["", f"## evagen {name}", "", inspect.cleandoc(command.help or ""), ""]
        if command.epilog:
            lines += ["```bash", command.epilog.removeprefix("Example: "), "```", ""]
        if any("=" in (each.metavar or "") for each in command.params):
            lines += [f"Keys: [configs.md](configs.md#{slug(f'evagen {name}')}).", ""]
        lines += ["| | takes | if not given | meaning |", "|---|---|---|---|"]
        lines += [_parameter(each) for each in command.params]
    return "\n".join(lines) + "\n"


def all_commands(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, f"{above}{name} ")
        else:
            yield above + name, command


KINDS = {str: "text", int: "whole number", float: "number", Path: "path", bool: ""}


def _parameter(parameter: Any) -> str:
    annotation = parameter.type_descriptor.annotation
    if parameter.param_type_name == "option":
        names = [*parameter.opts, *parameter.secondary_opts]
    else:
        names = [parameter.metavar or parameter.name.upper()]
    if get_origin(annotation) is list:
        kind = KINDS[get_args(annotation)[0]]
    else:
        kind = KINDS.get(annotation, " or ".join(f"`{choice}`" for choice in get_args(annotation)))
    if parameter.nargs == -1:
        kind = "one or more" if parameter.required else "any number"
    default = f"`{parameter.default}`" if parameter.default not in (None, False, "") else ""
    default = "needed" if parameter.required else default
    return f"| {', '.join(f'`{name}`' for name in names)} | {kind} | {default} | {_cell(parameter.help)} |"


def configs_page() -> str:
    """Every key of every command's config; groups that several commands have, once."""
    schemas = {name: command.schema_class() for name, command in COMMANDS.items()} | {"benchmark": Benchmark}
    places: dict[type[Section], list[str]] = defaultdict(list)
    users: dict[type[Section], set[str]] = defaultdict(set)
    for name, schema in schemas.items():
        for group, inner in groups(schema):
            users[inner].add(name)
            if group not in places[inner]:
                places[inner].append(group)
    titles = {each: " or ".join(f"`{name}`" for name in names) for each, names in places.items()}
    shared = {each: f"The group {titles[each]}" for each in users if len(users[each]) > 1}
    lines = [HEAD_OF_KEYS]
    for name, schema in schemas.items():
        lines += [f"## evagen {name}", "", *_table(schema, shared), ""]
    for inner, title in shared.items():
        of = ", ".join(f"`{name}`" for name in schemas if name in users[inner])
        lines += [f"## {title}", "", f"Of {of}.", "", *_table(inner, shared), ""]
    return "\n".join(lines).rstrip() + "\n"


def groups(schema: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Every section within a section, dotted."""
    for key, inner in keys_of_class(schema):
        if inner is not None:
            yield prefix + key.name, inner
            yield from groups(inner, f"{prefix}{key.name}.")


def _table(schema: type[Section], shared: dict[type[Section], str]) -> list[str]:
    return ["| key | type | if not given | meaning |", "|---|---|---|---|", *_rows(schema, shared, "")]


def _rows(schema: type[Section], shared: dict[type[Section], str], prefix: str) -> Iterator[str]:
    for key, inner in keys_of_class(schema):
        name = prefix + key.name
        if inner is None:
            yield f"| `{name}` | {_kind(key)} | {_default(key.value)} | {_cell(key.about)} |"
        elif inner in shared:
            kind = "several groups" if key.kind.startswith("list") else "group" + ", or none" * ("None" in key.kind)
            yield f"| `{name}` | {kind} | | {_cell(key.about)} [Its keys](#{slug(shared[inner])}) |"
        else:
            yield from _rows(inner, shared, f"{name}.")


def _kind(key: Key) -> str:
    return "`" + key.kind.replace("|", "\\|") + "`"


def _default(value: Any) -> str:
    if value is None:
        return "none"
    return value if value == "needed" else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").replace("|", "\\|").strip()


if __name__ == "__main__":
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
