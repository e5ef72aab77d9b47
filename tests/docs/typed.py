"""Carries out what a reader types: `evagen` in this process, other programs as `small.py` says."""

import io
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import typer
import yaml
from accelerate.commands.launch import launch_command_parser
from datasets import load_from_disk
from pages import ROOT
from PIL import Image
from small import plan_of, small_form

from evagen import cli
from evagen.commands import COMMANDS
from evagen.data.video_writer import write_video
from evagen.tokenizer import AssignmentSpace


def answer(words: Sequence[str]) -> str:
    """What a command prints. Raises AssertionError where it fails, with what was typed and what was run."""
    ways = {
        "run": evagen, "parse": parse, "script": script, "launch": launch, "target": make, "extras": pip,
        "environment": source, "pytest": pytest_file, "ffmpeg": ffmpeg, "folder": tensorboard, "clone": clone,
        "login": login,
    }  # fmt: skip
    return ways[plan_of(words).how](words)


def evagen(words: Sequence[str]) -> str:
    """The command in its small form, through the command line."""
    _, *arguments = small_form(words)
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            cli.app(args=arguments, prog_name="evagen", standalone_mode=False)
    except Exception as error:
        raise AssertionError(f"{' '.join(words)}\nas: evagen {' '.join(arguments)}\n{error}") from error
    if arguments[0] == "curate":
        _make_tokens_worth_it(Path(printed.getvalue().split()[-1]) / "record")
    return printed.getvalue()


def parse(words: Sequence[str]) -> str:
    """Arguments and options are those of the command, and its config can be read with these overrides."""
    context = command_of(words[1:])
    if context.params.get("config"):
        COMMANDS[context.command_path.removeprefix("evagen ")].load(
            context.params["config"], context.params["overrides"] or []
        )
    return ""


def command_of(arguments: Sequence[str]) -> Any:
    """The context of the command that these arguments call, parsed. Raises click's UsageError for unknown ones."""
    command, rest, context = typer.main.get_command(cli.app), list(arguments), None
    while True:
        context = command.make_context(command.name or "evagen", rest, parent=context)
        if not hasattr(command, "commands"):
            return context
        _, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])


def launch(words: Sequence[str]) -> str:
    """`accelerate launch … -m evagen …` or `python -m evagen …`."""
    if words[0] == "accelerate":
        given = launch_command_parser().parse_args(list(words[2:]))
        assert (given.module, given.training_script) == (True, "evagen"), words
        if given.config_file:
            assert "distributed_type" in yaml.safe_load((ROOT / given.config_file).read_text())
    return answer(["evagen", *words[list(words).index("evagen") + 1 :]])


def script(words: Sequence[str]) -> str:
    """`python docs/….py …`: a script of this tree."""
    printed, before = io.StringIO(), sys.argv
    sys.argv = [*words[1:]]
    try:
        with redirect_stdout(printed):
            runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    finally:
        sys.argv = before
    return printed.getvalue()


def make(words: Sequence[str]) -> str:
    return subprocess.check_output(["make", "-n", "-C", str(ROOT), *words[1:]], text=True)


def pip(words: Sequence[str]) -> str:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for constraints in re.findall(r"-c (\S+)", " ".join(words)):
        assert (ROOT / constraints).exists(), words
    for names in re.findall(r"(?:\.|evagen)\[(.+?)\]", " ".join(words)):
        assert set(names.split(",")) <= set(extras), words
    return ""


def login(words: Sequence[str]) -> str:
    assert list(words) == ["hf", "auth", "login"]
    return ""


def clone(words: Sequence[str]) -> str:
    (address,) = [word for word in words if "//" in word]
    assert address.startswith("https://github.com/"), words
    return ""


def source(words: Sequence[str]) -> str:
    assert words[1] == ".venv/bin/activate"
    assert "VENV := .venv" in (ROOT / "Makefile").read_text()
    return ""


def pytest_file(words: Sequence[str]) -> str:
    assert all((ROOT / word).exists() for word in words[3:]), words
    return ""


def tensorboard(words: Sequence[str]) -> str:
    (shown,) = re.findall(r"--logdir[ =](\S+)", " ".join(words))
    assert Path(shown).is_dir(), words
    return ""


def ffmpeg(words: Sequence[str]) -> str:
    """Pictures of a numbered pattern into a lossless video, as the command asks for."""
    pattern, out = words[words.index("-i") + 1], words[-1]
    pictures = sorted(Path(pattern).parent.glob("*.jpg"))
    assert pictures[0] == Path(pattern % 0), words
    write_video(out, np.stack([np.asarray(Image.open(picture)) for picture in pictures]), 24)
    return ""


def _make_tokens_worth_it(record: Path) -> None:
    """Two steps teach a tokenizer nothing about lengths, and no router learns from such a record: distances are made
    to fall with the tokens."""
    about = (record / "about.json").read_text()
    contents = json.loads(about)["contents"]
    table = load_from_disk(str(record), keep_in_memory=True).with_format("numpy")
    tokens = AssignmentSpace(contents["levels"], contents["num_blocks"]).table().sum(-1).numpy()
    distances = [1 / tokens + np.random.default_rng(row).random(len(tokens)) / 1e5 for row in range(len(table))]
    for column in ("perceptual", "mse", "moving_mse"):
        table = table.remove_columns(column).add_column(column, distances)
    os.rename(record, record.with_name("measured"))
    table.save_to_disk(str(record))
    (record / "about.json").write_text(about)
