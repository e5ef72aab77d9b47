"""What befalls a training from outside is said in words, and one process at a time is at work in a folder."""

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_training import linear, start

from evagen.errors import UserError
from evagen.kernels.folder_lock import lock_folder
from evagen.training.failures import explained

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

HOLDS = """
import sys
from pathlib import Path
from evagen.kernels.folder_lock import lock_folder
assert lock_folder(Path(sys.argv[1])) is None
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), r"memory does not suffice \(MemoryError\): lower optimizer\.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "lower optimizer.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "run.gradient_checkpointing=true"),
        (OSError(errno.ENOSPC, "No space left on device"), "no room is left on the disk"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), "is not there any more"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "must be one that can be written to"),
        (torch.distributed.DistBackendError("NCCL error: remote process exited"), "another process of this training"),
    ],
)
def test_what_comes_from_outside_is_said_in_words(tmp_path, error, words):
    @explained
    def main(config):
        raise error

    with pytest.raises(UserError, match=words):
        main(SimpleNamespace(run=SimpleNamespace(out=tmp_path / "run")))


def test_what_is_our_own_fault_keeps_its_traceback(tmp_path):
    @explained
    def main(config):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        main(SimpleNamespace(run=SimpleNamespace(out=tmp_path)))


def test_two_runs_in_one_folder_the_second_is_refused_until_the_first_ends(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "locked\n"
    with pytest.raises(UserError, match=rf"is at work: process {first.pid} on .*choose another run folder"):
        start(tmp_path, linear())
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    first.kill()
    first.wait()
    start(tmp_path, linear(), learning_rate=0.5)
    start(tmp_path, linear(), learning_rate=0.25)  # this process again, which had left nothing but its config


def test_a_folder_can_be_locked_again_after_it_was_deleted(tmp_path):
    for _ in range(2):
        (tmp_path / "run").mkdir()
        assert lock_folder(tmp_path / "run") is None
        (tmp_path / "run" / ".lock").unlink()
        Path(tmp_path / "run").rmdir()
