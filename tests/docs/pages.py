"""The pages of the documentation, and the blocks that readers are meant to type."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import typer

from evagen import cli

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
assert _spec is not None
assert _spec.loader is not None
generate = importlib.util.module_from_spec(_spec)
"""`docs/generate.py`"""
_spec.loader.exec_module(generate)
COMMAND_NAMES = sorted(name for name, _ in generate.all_commands(typer.main.get_command(cli.app)))
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
"""Texts by their place in the tree."""


@dataclass(frozen=True)
class Block:
    """language: `bash`, `python` or another; line: of the page, where the text begins."""

    page: str
    line: int
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page."""
    found = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL):
        line = PAGES[page].count("\n", 0, match.start(2)) + 1
        found.append(Block(page, line, match[1], match[2]))
    return found


def without_blocks(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
