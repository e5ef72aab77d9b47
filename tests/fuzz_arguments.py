"""Gives every command wrong arguments, and prints what does not end in words.

python tests/fuzz_arguments.py 500 0     # how many command lines, drawn with which seed; from each command at least one
"""

import contextlib
import io
import os
import random
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import typer

os.environ["HF_HUB_OFFLINE"] = "1"  # before it is imported: no word here is a model of somebody's

from evagen.cli import app
from evagen.commands.cli_errors import explained_errors, refuse_empty

WRONG = [
    "",
    "nowhere/at all",
    "x" * 300,
    "-1",
    "0",
    "nan",
    "1e999",
    "9" * 30,
    "file",
    "file/below",
    "folder",
    "é\udcff",
]
"""In a folder that holds `file`, which is text, and `folder`, which is empty."""
MORE = {
    "data arcade": ["--games", "pong", "--clips-per-game", "1"],
    "data natural": ["--clips", "1", "--test-clips", "1"],
}
"""What else a command is given, so that it cannot begin something long."""
NEEDED = {"quickstart": "--videos", "demo": "--model", "sample": "--model"}
"""The option without which a command would really run."""
RUN_AS_THEY_ARE = ("doctor", "bench", "push", "configs", "protocols")


def wrong_arguments() -> Iterator[tuple[str, ...]]:
    """Command lines: each argument and option of each command given each wrong value, all others in the same breath."""
    group = typer.main.get_command(app)

    def commands(group, name: str) -> Iterator[tuple[str, object]]:
        for each, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, f"{each} ")
            else:
                yield name + each, command

    for name, command in commands(group, ""):
        if name in RUN_AS_THEY_ARE:
            continue
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        options = [each for each in command.params if each.param_type_name == "option" and not each.is_flag]
        for wrong in WRONG:
            if name in MORE and wrong.isdecimal():
                continue  # so many frames would be made
            given = ["--", *(wrong for _ in arguments)] if arguments else []
            needed = [[each.opts[0], wrong] for each in options if each.required or each.opts[0] == NEEDED.get(name)]
            always = [*name.split(), *MORE.get(name, []), *(part for pair in needed for part in pair)]
            yield (*always, *given)
            for option in options:
                if option.opts[0] not in ("--help", "--dry-run", "--port"):
                    yield (*always, option.opts[0], wrong, *given)


def outcome(arguments: tuple[str, ...]) -> str | None:
    """What was wrong; None where the command ended with a status and words."""
    said = io.StringIO()
    status: object = 0
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said), explained_errors():
            refuse_empty(arguments)
            app(list(arguments))
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        return traceback.format_exc()
    return None if status in (0, 2) and said.getvalue().strip() else f"status {status}: {said.getvalue()}"


def fuzz(count: int, seed: int) -> dict[tuple[str, ...], str]:
    """What was wrong, by command line, of a draw of so many; to be called in a folder that `prepare` made."""
    lines = list(wrong_arguments())
    random.Random(seed).shuffle(lines)
    first = {tuple(part for part in line[:2] if part.isalpha()): line for line in lines}  # one of each command
    drawn = dict.fromkeys([*first.values(), *lines])
    chosen = list(drawn)[: max(count, len(first))]
    found = {line: outcome(line) for line in chosen}
    return {line: wrong for line, wrong in found.items() if wrong is not None}


def prepare(folder: Path) -> None:
    (folder / "file").write_text("text")
    (folder / "folder").mkdir()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        os.chdir(folder)
        found = fuzz(int(sys.argv[1]), int(sys.argv[2]))
    for line, wrong in found.items():
        print(line, wrong[-1500:], sep="\n")
    print(f"{len(found)} did not end in words")
    sys.exit(bool(found))
