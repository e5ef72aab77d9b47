"""Every block of the documentation does what it says: bash and Python, page by page, in order, in a small form."""

import os
import re
import runpy
import shutil
from pathlib import Path
from string import Template
from typing import Any

import pytest
from pages import PAGES, ROOT, Block, blocks
from prepared import prepare
from shell import run_block
from small import PYTHON_BEGINS, PYTHON_NOT_RUN, PYTHON_SWAPS
from typed import answer

from evagen.kernels import sources

pytestmark = [pytest.mark.filterwarnings("ignore")]

ENDS = {
    "README.md": ["boxing.mp4", "runs/mine/proxy/config.json", "side_by_side.mp4", "runs/mine/llama/config.json"],
    "CONTRIBUTING.md": [],  # checks, not files
    "docs/configs.md": ["runs/mine/levels/config.yaml"],
    "docs/demo.md": [],  # a page that does not end
    "docs/hub.md": ["runs/mine/pipeline/README.md", "runs/mine/published/README.md", "holiday.safetensors"],
    "docs/watching.md": [
        "runs/mine/watched-generator/metrics.jsonl",
        "runs/mine/watched/best/score.json",
        "both.mp4",
        "runs/mine/runs.html",
    ],
    "docs/evaluation.md": [
        "runs/rfvd/record.json",
        "runs/gfvd/record.json",
        "runs/theirs/record.json",
        "davis/bear.mkv",
    ],
    "docs/five-minutes.md": ["boxing.mp4", "my_decoded.mp4", "side_by_side.mp4", "few.safetensors"],
    "docs/install.md": ["runs/quickstart/router/config.yaml"],
    "docs/library.md": ["runs/by-hand/tokenizer/config.json", "runs/by-hand/generator/config.json"],
    "docs/llama.md": ["runs/mine/llama/model.safetensors", "runs/mine/generator-again/config.json"],
    "docs/long-videos.md": ["game_decoded.mp4", "game.png", "runs/mine/long-continued/manifest.json"],
    "docs/method.md": ["method_lengths.png", "method_dial.png", "method_writing.png"],
    "docs/paper.md": ["runs/ucf101_k600/gfvd/record.json", "runs/ucf101_k600/fvd/record.json"],
    "docs/peers.md": ["runs/larp/record.json"],
    "docs/results.md": ["runs/arcade-nano/gfvd/record.json", "runs/generation/rfvd-uniform/record.json"],
    "docs/sampling.md": ["runs/mine/two/manifest.json", "runs/mine/from-python/model_index.json"],
    "docs/tokens.md": ["holiday_decoded.mp4", "side_by_side.mp4", "mine.safetensors"],
    "docs/your-own-videos.md": ["runs/mine/samples/manifest.json", "holiday_beside.mp4", "runs/mine/tuned/config.json"],
}
"""Files that the commands of a page leave."""
BEFORE = (
    "evagen data arcade --out runs/quickstart/arcade --size 64",
    "evagen curate quickstart/curation",
    "evagen tokenize quickstart/tokens",
    "evagen sample quickstart/sample",
)
"""What `make quickstart` leaves beside its models."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A folder as readers have it after `make quickstart`."""
    root, before = tmp_path_factory.mktemp("begun"), Path.cwd()
    prepare(root)
    os.chdir(root)
    try:
        for command in BEFORE:
            answer(command.split())
    finally:
        os.chdir(before)
    return root


@pytest.fixture
def folder(begun, tmp_path, monkeypatch) -> Path:
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "BOX", tmp_path / "box")
    return tmp_path


def run_python(block: Block, variables: dict[str, Any]) -> None:
    text = block.text
    for there, here in PYTHON_SWAPS.get(block.page, ()):
        assert there in PAGES[block.page]
        text = text.replace(there, here)
    code = compile(text, f"{block.page}, line {block.line}", "exec")
    if not any(words in text for words in PYTHON_NOT_RUN):
        exec(code, variables)


TYPED = [page for page in PAGES if blocks(page) and not page.startswith("docs/reference/")]
"""The examples of the reference are parsed by `test_reference.py`."""


@pytest.mark.parametrize("page", TYPED)
def test_what_a_page_says_can_be_typed(page, folder):
    assert page in ENDS, "say in ENDS which files the commands of the page leave"
    variables: dict[str, Any] = {}
    known = ""
    exec(PYTHON_BEGINS.get(page, ""), variables)
    for block in blocks(page):
        try:
            if block.language == "bash":
                run_block(known + block.text, folder, answer)
                known += "".join(re.findall(r"^[A-Z]+=.*\n", block.text, re.MULTILINE))  # a shell goes on
            elif block.language == "python":
                run_python(block, variables)
        except Exception as error:
            raise AssertionError(f"{page}, line {block.line}: {error}") from error
    assert [name for name in ENDS[page] if not (folder / name).exists()] == []


def test_pages_do_not_meet_in_a_run_folder():
    """A run folder belongs to one config: whoever reads page after page in one folder would be refused."""
    writers: dict[str, set[str]] = {}
    for page in TYPED:
        variables: dict[str, str] = {}
        for line in "\n".join(block.text for block in blocks(page)).replace("\\\n", " ").splitlines():
            line = Template(line).safe_substitute(variables)
            variables |= {name: value.strip('"') for name, value in re.findall(r'\b([A-Z])=("[^"]*"|\S+)', line)}
            if found := re.search(r"\brun\.out=(\S+)|\bexport \w+ (\S+)", line):
                command = " ".join(line.partition(" #")[0].split())
                writers.setdefault(found[1] or found[2], set()).add(command)
    assert len(writers) > 60
    assert {out: commands for out, commands in writers.items() if len(commands) > 1} == {}


@pytest.mark.parametrize(
    ("command", "leaves"),
    [
        ("python examples/sample.py Boxing 1", "Boxing_cheapest_0.mp4"),
        ("python examples/three_budgets.py my.mp4", "budgets.png"),
        ("python examples/fine_tune.py videos 2", "runs/fine-tuned/config.json"),
    ],
)
def test_the_examples_run(command, leaves, folder):
    assert answer(command.split())
    assert (folder / leaves).stat().st_size > 0


@pytest.mark.parametrize("name", ["fine_tune.py", "three_budgets.py"])
def test_an_example_without_a_video_says_how_it_is_called(name, monkeypatch):
    monkeypatch.setattr("sys.argv", [name])
    with pytest.raises(SystemExit, match=f"python examples/{name}"):
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_every_example_is_run_and_short():
    scripts = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    assert scripts == ["fine_tune.py", "sample.py", "three_budgets.py"]
    assert all(len((ROOT / "examples" / name).read_text().splitlines()) < 60 for name in scripts)


def test_a_command_without_a_plan_is_an_error():
    with pytest.raises(LookupError, match="has no plan"):
        answer(["evagen", "unheard-of"])


def test_a_wrong_command_fails_its_page(folder):
    for wrong in ("evagen info nothing.mp4", "evagen encode my.mp4", "rm -r videos", "false"):
        with pytest.raises((AssertionError, RuntimeError)):
            run_block(wrong + "\n", folder, answer)
