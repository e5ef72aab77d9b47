"""What the pages point at is there: files, headings, commands, options, keys of configs."""

import re
from functools import cache

import pytest
import typer
from pages import COMMAND_NAMES, PAGES, ROOT, generate, without_blocks

from evagen import cli
from evagen.bench import BENCHMARKS
from evagen.commands import COMMANDS
from evagen.commands.keys import keys_of_class
from evagen.scoring.config import Benchmark

OTHERS_OPTIONS = {
    "--multi_gpu", "--num_processes", "--config_file", "--num_machines", "--machine_rank", "--main_process_ip",
    "--main_process_port", "--logdir", "--det", "--global", "--cpu",
}  # fmt: skip
"""Of accelerate, tensorboard, LARP's scripts and git."""
THEIRS = {"model.init_args"}
"""Keys of peers' configs."""
WRITTEN = [name for name in PAGES if not name.startswith("docs/reference/")]


@cache
def anchors(page: str) -> set[str]:
    text = without_blocks(page) if page in PAGES else (ROOT / page).read_text()
    return {generate.slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(page)):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        name = path.relative_to(ROOT).as_posix()
        if not path.exists() or (anchor and anchor not in anchors(name)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("page", WRITTEN)
def test_commands_that_are_named_exist(page):
    names = {*COMMAND_NAMES, *(name.split()[0] for name in COMMAND_NAMES)}
    words = re.findall(r"`evagen ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", without_blocks(page))
    wrong = [f"{first} {second}".strip() for first, second in words if first not in names]
    groups = {name.split()[0] for name in COMMAND_NAMES if " " in name}
    wrong += [f"{a} {b}" for a, b in words if a in groups and b and f"{a} {b}" not in names]
    wrong += [f"bench {b}" for a, b in words if a == "bench" and b and b not in BENCHMARKS]
    assert wrong == []


@pytest.mark.parametrize("page", WRITTEN)
def test_options_that_are_named_exist(page):
    known = OTHERS_OPTIONS | {"--help"}
    for _, command in generate.all_commands(typer.main.get_command(cli.app)):
        for parameter in command.params:
            known |= {*parameter.opts, *parameter.secondary_opts}
    named = {option for code in re.findall(r"`([^`\n]+)`", PAGES[page]) for option in _options(code)}
    assert named - known - {"--version"} == set()


def _options(code: str) -> list[str]:
    return re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", code)


def test_a_config_that_a_page_shows_is_the_shipped_one():
    shown = re.findall(r"^```yaml\n(.*?)^```", PAGES["docs/configs.md"], re.MULTILINE | re.DOTALL)
    assert shown == [(ROOT / "configs" / "quickstart" / "final.yaml").read_text()]


@pytest.mark.parametrize("page", WRITTEN)
def test_keys_that_are_named_exist(page):
    """Dotted names within backticks whose first part is a group of a command's config."""
    keys, groups = _all_keys()
    named = set()
    for code in re.findall(r"`([^`\n]+)`", without_blocks(page)):
        named |= set(re.findall(r"(?<![\w/.=-])([a-z_]+(?:\.[a-z_0-9]+)+)(?![\w/.(])", code))
    named = {name for name in named - THEIRS if name.rpartition(".")[2] not in ("py", "json", "safetensors", "yaml")}
    assert {name for name in named if name.split(".")[0] in groups} - keys == set()


@cache
def _all_keys() -> tuple[set[str], set[str]]:
    schemas = [command.schema_class() for command in COMMANDS.values()] + [Benchmark]
    keys: set[str] = set()
    for schema in schemas:
        keys |= {key.name for key, _ in keys_of_class(schema)}
        for group, inner in generate.groups(schema):
            keys |= {group, *(f"{group}.{key.name}" for key, _ in keys_of_class(inner))}
    return keys, {key.split(".")[0] for key in keys if "." in key}
