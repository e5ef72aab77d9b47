"""Runs a block of shell lines in bash, while the programs that it calls are answered by this process.

Bash does what bash does: variables, quotes, loops, globs. A program of `PROGRAMS` is a function there, which sends its
arguments here and waits for a status. So `evagen` costs no new Python, and torch is imported once."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

PROGRAMS = (
    "evagen",
    "accelerate",
    "make",
    "pip",
    "python",
    ".venv/bin/python",
    "source",
    "tensorboard",
    "git",
    "ffmpeg",
    "hf",
)
HARMLESS = ("mkdir", "cat", "basename", "ls")
"""What bash itself may start; anything else is an error."""
PRELUDE = """\
set -eu
exec 3>&{asks} 4<&{answers}
ask() {{ printf '%s\\0' "$#" "$@" >&3; IFS= read -r status <&4; cat {output}; return "$status"; }}
"""
Answer = Callable[[Sequence[str]], str]
"""Arguments, the program first → what it prints. Raises what the test is to fail with."""


def run_block(text: str, folder: Path, answer: Answer) -> None:
    """Raises RuntimeError where bash fails, and whatever `answer` does."""
    asks_out, asks_in = os.pipe()
    answers_out, answers_in = os.pipe()
    output = folder / ".printed"
    prelude = PRELUDE.format(asks=asks_in, answers=answers_out, output=shlex.quote(str(output)))
    prelude += "".join(f'{name}() {{ ask {name} "$@"; }}\n' for name in PROGRAMS)
    bash = subprocess.Popen(
        [_found("bash"), "-c", prelude + text], cwd=folder, pass_fds=(asks_in, answers_out),
        stderr=subprocess.PIPE, text=True, env={"PATH": str(_only_harmless(folder))},
    )  # fmt: skip
    os.close(asks_in)
    os.close(answers_out)
    try:  # where an answer fails, bash finds its end of the pipe closed, and ends
        with os.fdopen(asks_out, "rb") as asked, os.fdopen(answers_in, "wb", buffering=0) as answers:
            while words := _next(asked):
                output.write_text(answer(words))
                answers.write(b"0\n")
    finally:
        errors = bash.communicate()[1]
        output.unlink(missing_ok=True)
    if bash.returncode:
        raise RuntimeError(f"bash ended with {bash.returncode}: {errors.strip()}")


def _next(asked: BinaryIO) -> list[str]:
    """The next program's words; none when bash has ended."""

    def word() -> bytes:
        letters = []
        while (letter := asked.read(1)) not in (b"\0", b""):
            letters.append(letter)
        return b"".join(letters)

    count = word()
    return [word().decode() for _ in range(int(count or 0))]


def _only_harmless(folder: Path) -> Path:
    path = folder / ".bin"
    path.mkdir(exist_ok=True)
    for name in HARMLESS:
        if not (path / name).exists():
            (path / name).symlink_to(_found(name))
    return path


def _found(program: str) -> str:
    path = shutil.which(program)
    assert path, f"{program} is needed"
    return path
