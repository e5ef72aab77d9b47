"""Triton's kernels without a GPU: Triton's interpreter runs them, in a process of its own, since Triton asks for it
when it is imported."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not (HAS_TRITON and INTERPRETED), reason="for Triton's interpreter alone")
not_interpreted = pytest.mark.skipif(not HAS_TRITON or INTERPRETED, reason="Triton is not installed, or runs already")
on_gpu = pytest.mark.skipif(
    not (HAS_TRITON and torch.cuda.is_available()) or INTERPRETED, reason="needs CUDA and Triton"
)


def run_in_interpreter(file: str) -> None:
    """The tests of this file that are marked `interpreted`."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", file]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture(autouse=True)
def loops_up_to_a_loaded_number(monkeypatch):
    """Triton's interpreter turns a loop's bound into an integer in a way that numpy 2.4 refuses."""
    if HAS_TRITON and INTERPRETED:
        from triton.runtime import interpreter

        patch = interpreter._patch_lang_tensor

        def with_index(tensor, scope):
            patch(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

        monkeypatch.setattr(interpreter, "_patch_lang_tensor", with_index)
