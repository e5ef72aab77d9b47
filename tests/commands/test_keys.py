"""`evagen configs NAME --keys`: nothing that a config may say is left unexplained."""

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from evagen import cli
from evagen.commands import COMMANDS
from evagen.commands.keys import describe, keys_of, keys_of_class
from evagen.config import Section, find_config, known_keys, read_header, read_values, section_of, shipped_configs
from evagen.errors import UserError


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_every_key_of_every_shipped_config_is_explained(name):
    config = COMMANDS[read_header(find_config(name)).command].load(name)
    keys = list(keys_of(config))
    assert [key.name for key in keys if not key.about] == []
    assert not any("FieldInfo" in key.kind or "typing" in key.kind for key in keys)
    assert len({key.name for key in keys}) == len(keys)


def test_values_defaults_and_types():
    config = COMMANDS["train-tokenizer"].load("quickstart/proxy")
    keys = {key.name: key for key in keys_of(config)}
    given = read_values(find_config("quickstart/proxy"))
    assert keys["optimizer.steps"].value == given["optimizer"]["steps"]
    assert not keys["optimizer.steps"].is_default
    assert keys["optimizer.gradient_clip"].is_default
    assert keys["pieces"].kind == "tuple[int, ...]"
    assert keys["run.mixed_precision"].kind == "Literal['no', 'bf16', 'fp16'] | None"
    assert "nearest" in keys["model.decoder_start"].kind  # an argument of the tokenizer's, explained in its docstring


class Parts:
    """Something with arguments.

    Args:
        a, b: told
            together.
        c: (of another) kind.

    Raises nothing."""

    def __init__(self, a: int, b: int, c: str = "x"): ...


class Whole(Section):
    parts: section_of(Parts)
    d: int = 1
    """Beneath."""
    e: int = 2


def test_where_explanations_come_from():
    keys = {key.name: key.about for key in keys_of(Whole(parts={"a": 1, "b": 2}))}
    assert keys.pop("parts.a") == keys.pop("parts.b") == "told together."
    assert keys == {"parts.c": "(of another) kind.", "d": "Beneath.", "e": ""}


def test_the_keys_of_a_class_have_its_defaults():
    (parts, inner), (d, none), _ = keys_of_class(Whole)
    assert (parts.name, parts.value, none) == ("parts", "needed", None)
    assert (d.kind, d.value, d.about) == ("int", 1, "Beneath.")
    assert [key.value for key, _ in keys_of_class(inner)] == ["needed", "needed", "x"]


def test_the_command(tmp_path):
    result = CliRunner().invoke(cli.app, ["configs", "quickstart/router", "--keys"])
    assert result.exit_code == 0
    assert "for `evagen train-router`" in result.output
    assert "record = runs/quickstart/curation" in result.output
    (tmp_path / "mine.yaml").write_text("run: {out: x}\n")
    with pytest.raises(UserError, match="does not say which command"):
        describe(str(tmp_path / "mine.yaml"))
    (tmp_path / "holiday.mp4").write_bytes(b"\xff\xfb")
    for arguments, message in (
        ([str(tmp_path / "holiday.mp4")], "holiday.mp4 is no config: "),
        (["--keys"], "--keys is of one config: give its name"),
        (["--resolved"], "--resolved is of one config: give its name"),
    ):
        with pytest.raises(UserError, match=message):
            CliRunner().invoke(cli.app, ["configs", *arguments], catch_exceptions=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_names_of_keys_are_checked_before_anything_is_imported(name):
    command = COMMANDS[name]
    config = next(each for each, path in shipped_configs().items() if read_header(path).command == name)
    for key in known_keys(command.schema_class()):
        command.check_names(config, [f"{key}=1"])
        with pytest.raises(UserError, match=re.escape(f"unknown key '{key}z'")):
            command.check_names(config, [f"{key}z=1"])


@pytest.mark.parametrize("name", shipped_configs())
def test_a_config_of_another_command_is_told(name):
    its = read_header(shipped_configs()[name]).command
    COMMANDS[its].check_names(name, [])
    other = next(each for each in COMMANDS if each != its)
    with pytest.raises(UserError, match=f"{name} is for `evagen {its}`; for `evagen {other}` there are "):
        COMMANDS[other].check_names(name, [])


def test_a_wrong_key_costs_no_import_of_torch():
    program = (
        "import sys; from evagen.commands import COMMANDS\n"
        "try: COMMANDS['train-tokenizer'].load('quickstart/proxy', ['optimizer.stepz=3'])\n"
        "except Exception as error: print(error, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert "the nearest known key is 'optimizer.steps' False" in said
