"""Processes that begin where another has imported everything: imports take longer than most of what tests ask of them.
What they run is a program all the same, with an environment, words and a status of its own."""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(
    [f"evagen.commands.{name}" for name in ("benchmark", "curate", "sample", "train_generator", "train_tokenizer")]
)
SECONDS = 240
"""After which processes are taken to wait for each other for ever."""


def run(command: Sequence[str], **_: object) -> subprocess.CompletedProcess:
    """In the place of `subprocess.run` of a Python program whose words are wanted as text."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = _start(command[1:], os.environ, out, err)
        _await([process])
        return subprocess.CompletedProcess(command, process.exitcode, out.read_text(), err.read_text())


def run_ranks(count: int, program: Sequence[str], environment: Mapping[str, str]) -> list[tuple[int, str]]:
    """Statuses and words of processes that find each other, as `torchrun` would start them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    with tempfile.TemporaryDirectory() as folder:
        words = [Path(folder) / str(rank) for rank in range(count)]
        ranks = [
            _start(program, {**environment, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, file, file)
            for rank, file in enumerate(words)
        ]
        _await(ranks)
        return [(rank.exitcode, file.read_text()) for rank, file in zip(ranks, words)]


def _start(program: Sequence[str], environment: Mapping[str, str], out: Path, err: Path) -> ForkServerProcess:
    """program: a file, or -m and a module, and its arguments, as `python` takes them."""
    for file in (out, err):
        file.touch()
    process = WARM.Process(target=_run, args=(list(program), dict(environment), out, err))
    process.start()
    return process


def _await(processes: Sequence[ForkServerProcess]) -> None:
    """Kills those that do not end."""
    until = time.monotonic() + SECONDS
    for process in processes:
        process.join(max(0, until - time.monotonic()))
    for process in processes:
        process.kill()
        process.join()


def _run(program: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for file, stream in ((out, sys.stdout), (err, sys.stderr)):
        with file.open("ab") as opened:
            os.dup2(opened.fileno(), stream.fileno())
    if program[0] == "-m":
        sys.argv = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        runpy.run_path(program[0], run_name="__main__")
