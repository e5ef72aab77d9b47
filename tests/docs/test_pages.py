"""Every block of the documentation does what it says: bash and Python, page by page, in order, in a small form."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from pages import PAGES, Block, blocks
from prepared import prepare, write_table
from shell import run_block
from small import PYTHON_BEGINS, PYTHON_NOT_RUN, PYTHON_SWAPS
from typed import answer

from evagen.kernels import sources

pytestmark = [pytest.mark.filterwarnings("ignore")]

ENDS = {
    "README.md": ["runs/mine/proxy/config.json", "side_by_side.mp4", "runs/mine/llama/config.json"],
}
"""Files that the last commands of a page leave."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A folder as readers have it after `make quickstart`."""
    root = tmp_path_factory.mktemp("begun")
    prepare(root)
    return root


@pytest.fixture
def folder(begun, tmp_path, monkeypatch) -> Path:
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "box", lambda: {"evagen/arcade": tmp_path / "box"})
    return tmp_path


def run_python(block: Block, variables: dict[str, Any]) -> None:
    text = block.text
    for there, here in PYTHON_SWAPS.get(block.page, ()):
        assert there in text
        text = text.replace(there, here)
    code = compile(text, f"{block.page}, line {block.line}", "exec")
    if not any(words in text for words in PYTHON_NOT_RUN):
        exec(code, variables)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_what_a_page_says_can_be_typed(page, folder):
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
    assert [name for name in ENDS.get(page, []) if not (folder / name).exists()] == []
