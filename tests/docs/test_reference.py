"""What is made from the code is current, and every command's help ends in an example that can be typed."""

import importlib
import inspect
import re
import shlex

import pytest
from pages import COMMAND_NAMES, PAGES, generate
from typed import command_of
from typer.testing import CliRunner

from evagen import ar_model, cli, eval, tokenizer
from evagen.commands import COMMANDS
from evagen.commands.benchmark import load_benchmark

MADE = generate.pages()
PYTHON_PAGE = MADE[generate.DOCS / "reference" / "python.md"]


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name)
def test_made_pages_are_current(path):
    assert path.read_text() == MADE[path], "`make docs` writes it anew"


def test_pages_for_readers_show_no_class_of_python():
    assert [path.name for path, text in MADE.items() if "<class" in text] == []


def test_every_public_name_says_what_it_is():
    page = PYTHON_PAGE
    parts = re.split(r"^### (\w+)$", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S), flags=re.M)[1:]
    about = dict(zip(parts[::2], parts[1::2]))
    assert len(about) > 100
    silent = [name for name, text in about.items() if not re.match(r"\s+\S.{10}", text)]
    assert silent == [], "each needs a docstring, or a text below the line that sets it"


def test_the_page_of_python_has_all_that_the_libraries_offer_and_every_method_says_what_it_does():
    for library in (tokenizer, ar_model, eval):
        listed = [name for modules in generate.PYTHON.values() for name in modules.get(library.__name__, ())]
        assert sorted(listed) == sorted(library.__all__)
    silent = []
    for modules in generate.PYTHON.values():
        for each in (getattr(importlib.import_module(module), name) for module in modules for name in modules[module]):
            for method, raw in vars(each).items() if inspect.isclass(each) else ():
                function = raw.fget if isinstance(raw, property) else getattr(raw, "__func__", raw)
                if not method.startswith("_") and method not in generate.INSIDE and inspect.isfunction(function):
                    silent += [f"{each.__name__}.{method}"] * (not function.__doc__)
    assert silent == []


def test_signatures_are_python_as_it_is_written():
    page = PYTHON_PAGE
    assert 'output_type: Literal["np", "pt", "pil", "latent"] = "np",' in page
    assert "Callable[[VideoPipeline, int, ClipTokens], object]" in page
    assert max(len(line) for line in page.splitlines() if line.startswith(("    ", "      "))) < 200


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
