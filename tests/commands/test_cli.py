"""The command line as people type it: real processes, what they print, how they fail."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from evagen import cli
from evagen.commands import doctor
from evagen.commands.cli_errors import explained_errors


def evagen(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from evagen.cli import main; main()", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    )


CRASHES = """
import os, sys
if sys.argv[0] == "-c":  # asked for alone, as the doctor asks in a process of its own
    os._exit(3)
raise ImportError
"""


def test_the_doctor_says_what_is_missing_and_what_to_type(tmp_path, monkeypatch):
    weights = tmp_path / "i3d.pt"
    weights.touch()
    monkeypatch.setenv("EVAGEN_I3D", str(weights))
    monkeypatch.setenv("EVAGEN_VGG16", str(tmp_path / "nowhere.pth"))
    healthy = CliRunner().invoke(cli.app, ["doctor"])
    assert healthy.exit_code == 0, healthy.output
    lines = healthy.stdout.splitlines()
    assert any(line.startswith("ok") and "I3D" in line and str(weights) in line for line in lines)
    assert any(
        line.startswith("optional") and "VGG16" in line and "nowhere.pth (EVAGEN_VGG16)" in line for line in lines
    )

    (tmp_path / "torchvision.py").write_text(CRASHES)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "evagen", "doctor"]
    crashes = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "cannot be imported by `accelerate launch`: Python ended with status 3" in crashes.stdout, crashes.stderr

    (tmp_path / "torchvision.py").write_text("raise ImportError('operator torchvision::nms does not exist')")
    environment["CC"] = "no-such-compiler"
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 1, result.stderr
    assert "missing   torchvision" in result.stdout
    assert "nms does not exist" in result.stdout
    assert "→ install evagen again" in result.stdout
    assert "optional  C compiler" in result.stdout


def test_help_lists_every_command():
    done = evagen("--help")
    assert done.returncode == 0
    for command in ("train-tokenizer", "curate", "train-router", "tokenize", "train-generator", "sample", "quickstart"):
        assert command in done.stdout


def test_arcade_by_name_says_what_it_wrote_and_goes_on(tmp_path):
    arguments = ["data", "arcade", "--out", str(tmp_path / "a"), "--games", "pong,boxing", "--clips-per-game", "8"]
    arguments += ["--size", "32", "--workers", "1"]
    first, second = evagen(*arguments), evagen(*arguments)
    assert "2 classes, 12 training and 4 test clips" in first.stdout
    assert "(16 written, 0 already there)" in first.stdout
    assert "(0 written, 16 already there)" in second.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "arcade", "--out", "x", "--games", "pongg"], "pong"),
        (["sample", "quickstart/sample", "option.top_p=1"], "the nearest known key is 'options"),
        (["curate", "quickstart/curation", "tokenizer=nowhere", "run.out={tmp}"], "no VideoTokenizer at nowhere"),
        (["bench", "attentio"], "no benchmark 'attentio'; there are: attention"),
    ],
)
def test_bad_input_is_one_message_and_status_two(tmp_path, arguments, message):
    done = evagen(*(argument.replace("{tmp}", str(tmp_path / "run")) for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_bench_prints_one_json_object_and_nothing_else():
    done = evagen("bench", "attention", "--json")
    result = json.loads(done.stdout)
    assert result["max_abs_difference"] < 1e-5
    assert {"speedup_forward", "speedup_backward", "peak_mb_packed", "peak_mb_padded"} <= set(result)


def test_doctor_says_why_torch_does_not_see_a_gpu(tmp_path, monkeypatch):
    """A CPU build, or a driver that is too old for this one."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A100 (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    found = doctor._torch()
    assert (found.state, found.found.partition("; ")[2].partition("; ")[2]) == (
        "optional", "a GPU is there, but this torch is a CPU build",
    )  # fmt: skip

    def too_old():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12040).\nPlease update it")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", too_old)
    found = doctor._torch()
    assert found.found.endswith(
        "torch for CUDA 13.0 says: The NVIDIA driver on your system is too old (found version 12040)."
    )
    assert "a newer driver" in found.advice
    tool.write_text("#!/bin/sh\necho 'No devices were found'\n")
    assert doctor._torch().state == "ok"


@pytest.fixture
def gpu(monkeypatch):
    """A GPU to the doctor, who is told that FlashAttention works in half precision."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(doctor, "has_bf16", lambda _: True)
    monkeypatch.setattr(doctor, "backend_for", lambda _, dtype, *__: "efficient" if dtype is torch.float32 else "flash")
    return "bf16 and fp16 by FlashAttention; fp32 by torch's memory-efficient kernel; "


def test_doctor_says_which_kernels_attend_and_that_xformers_is_not_there(gpu, monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: None)
    found = doctor._attention()
    assert (found.state, found.found) == ("optional", gpu + "xformers is not installed")


def test_doctor_says_why_xformers_does_not_load(gpu, monkeypatch):
    monkeypatch.setattr(doctor, "xformers_trouble", lambda: "it was built for torch 2.10.0+cu128, and this is 2.13.0")
    assert doctor._attention().found == gpu + (
        "xformers does not load, it was built for torch 2.10.0+cu128, and this is 2.13.0"
    )
    monkeypatch.setattr(doctor, "xformers_trouble", lambda: None)
    monkeypatch.setattr(doctor, "xformers_works", lambda *_: False)
    assert doctor._attention().found == gpu + "xformers has no kernels for this GPU"
    monkeypatch.setattr(doctor, "xformers_works", lambda _, dtype: dtype is torch.float32)
    assert doctor._attention() == doctor.Finding("attention", "ok", gpu + "xformers works in fp32")


@pytest.mark.parametrize(
    ("command", "error", "words"),
    [
        (
            "encode",
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            "2.00 GiB.*clips-per-chunk",
        ),
        ("curate", RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "lower max_segments"),
        ("demo", MemoryError(), r"suffice \(MemoryError\): close other programs that hold it$"),
    ],
)
def test_too_little_memory_is_one_message_that_says_what_to_lower(monkeypatch, capsys, command, error, words):
    monkeypatch.setattr(sys, "argv", ["evagen", command, "x"])
    with pytest.raises(SystemExit, match="2"), explained_errors():
        raise error
    assert re.search(words, capsys.readouterr().err.strip())
    with pytest.raises(RuntimeError, match="shapes do not fit"), explained_errors():
        raise RuntimeError("shapes do not fit")


def test_a_wrong_name_of_a_config_is_told_before_anything_slow_is_imported():
    code = (
        "import sys; from evagen.cli import main\n"
        "sys.argv = ['evagen', 'sample', 'quickstart/sampel']\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "quickstart/sample" in done.stderr
