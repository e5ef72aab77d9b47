"""What is made from the code is current, and every command's help ends in an example that can be typed."""

import re
import shlex

import pytest
from pages import COMMAND_NAMES, PAGES, generate
from typed import command_of
from typer.testing import CliRunner

from evagen import cli
from evagen.commands import COMMANDS
from evagen.commands.benchmark import load_benchmark


@pytest.mark.parametrize("path", generate.pages(), ids=lambda path: path.name)
def test_made_pages_are_current(path):
    assert path.read_text() == generate.pages()[path], "`make docs` writes it anew"


def test_pages_for_readers_show_no_class_of_python():
    assert [path.name for path, text in generate.pages().items() if "<class" in text] == []


def test_every_public_name_says_what_it_is():
    page = generate.python_page()
    parts = re.split(r"^### (\w+)$", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S), flags=re.M)[1:]
    about = dict(zip(parts[::2], parts[1::2]))
    assert len(about) > 100
    silent = [name for name, text in about.items() if not re.match(r"\s+\S.{10}", text)]
    assert silent == [], "each needs a docstring, or a text below the line that sets it"


def test_every_page_is_in_the_contents():
    listed = {f"docs/{name}" for names in generate.CONTENTS.values() for name in names}
    assert {name for name in PAGES if name.startswith("docs/")} - {"docs/README.md"} <= listed


@pytest.mark.parametrize("name", COMMAND_NAMES)
def test_the_help_of_a_command_ends_in_an_example(name):
    shown = CliRunner().invoke(cli.app, [*name.split(), "--help"], env={"COLUMNS": "200"}).output
    example = re.findall(rf"Example: evagen ({name}.*)", shown)
    assert len(example) == 1, f"`evagen {name} --help` should show one example: give it in evagen/commands/examples.py"
    words = shlex.split(example[-1])
    context = command_of(words)
    assert context.command_path == f"evagen {name}"
    if context.params.get("config") and name in COMMANDS:
        assert COMMANDS[name].load(context.params["config"], context.params["overrides"])
    if name == "benchmark":
        assert load_benchmark(context.params["protocol"], context.params["overrides"])
