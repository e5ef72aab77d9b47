"""What every run is refused, before it has begun."""

import os
import subprocess
import sys

import pytest

from evagen.commands.sample import Sampling
from evagen.config import check_config
from evagen.errors import UserError
from evagen.kernels.folder_lock import lock_folder, locks_end
from evagen.run import _compare_gpus, claim_folder, refuse_unheard, start_accelerator
from evagen.training.checkpoints import final_weights


def test_gpus_that_would_compute_in_different_precisions_are_refused(caplog):
    _compare_gpus([("A100", True), ("A100", True)])
    _compare_gpus([("T4", False), ("T4", False)])
    assert not caplog.records
    with pytest.raises(UserError, match="A100, T4, and T4 has no bf16: choose GPUs of one kind with CUDA_VISIBLE"):
        _compare_gpus([("A100", True), ("T4", False), ("A100", True)])


def test_other_differences_are_told(caplog):
    _compare_gpus([("A100", True), ("H100", True)])
    assert "A100, H100" in caplog.text


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "unset it; a training takes optimizer.accumulation"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "a run computes in no (fp32), bf16 or fp16"),
        ({"ACCELERATE_DYNAMO_BACKEND": "inductor"}, "give run.compile=true"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "by DDP or FSDP 2 alone"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "1"}, "by DDP or FSDP 2 alone"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP_VERSION=1: version 2 is needed"),
    ],
)
def test_what_accelerate_is_asked_for_and_a_run_would_not_do_is_refused(tmp_path, monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        start_accelerator(check_config(Sampling, SAMPLING, "test"), tmp_path / "run")
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_command_is_refused_as_such(tmp_path):
    (tmp_path / "config.yaml").write_text("record: runs/curation\nheld_out: 0.1\n")
    claim_folder(check_config(Sampling, SAMPLING, "test"), tmp_path)  # of a try that left nothing else
    (tmp_path / "config.yaml").write_text("record: runs/curation\nheld_out: 0.1\n")
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UserError) as caught:
        claim_folder(check_config(Sampling, SAMPLING, "test"), tmp_path)
    said = f"{tmp_path} holds a run of another command, or of another version of evagen (unknown key 'record'"
    assert str(caught.value).startswith(said)
    assert "choose another run folder" in str(caught.value)


def test_what_agrees_with_a_run_is_heard(monkeypatch):
    for name, value in {
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_USE_DEEPSPEED": "false", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    refuse_unheard(4)
    with pytest.raises(UserError, match=r"ACCUMULATION_STEPS=4 in the environment, and .* gradients of 1"):
        refuse_unheard(1)


SAMPLING = {"run": {"out": "x"}, "generator": "g", "tokenizer": "t"}


HOLDS_A_FOLDER = """
import sys
from pathlib import Path
from evagen.kernels.folder_lock import lock_folder

assert lock_folder(Path(sys.argv[1])) is None
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("claim", [True, False])
def test_a_folder_in_which_another_process_is_at_work_is_refused(tmp_path, claim):
    """Whether the folder's config counts or not: two that write into one would delete each other's files."""
    command = [sys.executable, "-c", HOLDS_A_FOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=rf"is at work: process {other.pid} on .* has it; wait for its end"):
            start_accelerator(check_config(Sampling, SAMPLING, "test"), tmp_path, claim=claim)
        other.communicate()


ASKS_FOR_A_FOLDER = """
import sys
from pathlib import Path
from evagen.kernels.folder_lock import lock_folder

print(lock_folder(Path(sys.argv[1])))
"""


def test_a_finished_run_still_has_its_folder_to_itself(tmp_path):
    """A lock is gone as soon as its process closes the locked file, whatever it had opened it for."""
    with locks_end():
        assert lock_folder(tmp_path) is None
        final_weights(tmp_path, lambda folder: (folder / "config.json").write_text("{}"))
        command = [sys.executable, "-c", ASKS_FOR_A_FOLDER, str(tmp_path)]
        other = subprocess.run(command, capture_output=True, text=True, check=True)
    assert other.stdout.startswith(f"process {os.getpid()} on ")


def test_a_run_folder_whose_tables_and_weights_nobody_could_read_is_refused():
    out = os.fsdecode(b"runs/x\xe9")
    with pytest.raises(UserError, match=r"'run.out' is .* names in UTF-8 alone, which runs/x\\xe9 is not"):
        check_config(Sampling, SAMPLING | {"run": {"out": out}}, "test")
