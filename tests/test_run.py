"""What every run is refused, before it has begun."""

import pytest

from evagen.errors import UserError
from evagen.run import _compare_gpus


def test_gpus_that_would_compute_in_different_precisions_are_refused(caplog):
    _compare_gpus([("A100", True), ("A100", True)])
    _compare_gpus([("T4", False), ("T4", False)])
    assert not caplog.records
    with pytest.raises(UserError, match="A100, T4, and T4 has no bf16: choose GPUs of one kind with CUDA_VISIBLE"):
        _compare_gpus([("A100", True), ("T4", False), ("A100", True)])


def test_other_differences_are_told(caplog):
    _compare_gpus([("A100", True), ("H100", True)])
    assert "A100, H100" in caplog.text
