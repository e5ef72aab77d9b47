"""YAML as configs have it: plain data, bounded, and nothing that changes in silence.

It is read as YAML 1.2 has it, so a date, `on`, `no` and `007` stay words; PyYAML follows YAML 1.1, where these are a
date, true, false and 7. All that `yaml.safe_dump` writes of plain values is read as the same values.
"""

import re
from typing import Any

import yaml

MAX_BYTES, MAX_DEPTH, MAX_VALUES = 250_000, 50, 20_000
"""Of a text, of groups in groups, and of all values when what `*name` stands for is counted wherever it stands. A
config of every key has some hundred values."""


class _Words(yaml.SafeLoader):
    """Every plain scalar is a string."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  # as PyYAML has it
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth == MAX_DEPTH:
            raise ValueError(f"it holds groups in groups, more than {MAX_DEPTH} deep")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, Any], int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                raise ValueError(f"the key {key.value!r} is there twice, on lines {lines[name]} and {line}")
            lines[name] = line
        return node


class _Loader(_Words):
    """And those that are null, a truth value or a number are that."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012


for _tag, _pattern, _begins in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"-?(?:0|[1-9][0-9]*)", list("-0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     list("-+0123456789.")),
    ("merge", "<<", ["<"]),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _begins)


def load_yaml(source: str | bytes, only_words: bool = False) -> Any:
    """The one document of a text (bytes: UTF-8) as plain values; None for an empty one. only_words: scalars without
    quotes are strings, whatever they look like.

    Raises ValueError for what is no YAML, or too large to be a config; for a key that is there twice in one group; and
    for a tag, which would ask for something else than plain values."""
    if len(source) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES:,} bytes, and no config is")
    try:
        loader = (_Words if only_words else _Loader)(
            source.decode("utf-8-sig") if isinstance(source, bytes) else source
        )
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no text in UTF-8 (byte {error.start})") from error


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """The values below a node, itself among them, what is named by `*name` as often as it is. counts: of nodes that
    have been counted, by identity; 0 while it is being done."""
    if id(node) in counts:
        if counts[id(node)] == 0:
            raise ValueError("a group holds itself")
        return counts[id(node)]
    counts[id(node)] = 0
    found = 1
    if isinstance(node, yaml.CollectionNode):
        for each in node.value:
            found += sum(_count(one, counts) for one in (each if isinstance(each, tuple) else (each,)))
    if found > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES:,} values")
    counts[id(node)] = found
    return found
