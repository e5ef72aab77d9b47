"""fp32 without the shorter numbers that may be computed in its place."""

import warnings

import pytest
import torch

from evagen.kernels.fp32 import in_fp32

OPERATIONS = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul)


@pytest.mark.parametrize("asked", ["none", "tf32", "ieee", "legacy"])
def test_autocast_and_tf32_are_off_within_and_come_back_whatever_they_were(asked):
    before = [each.fp32_precision for each in OPERATIONS]
    try:
        if asked == "legacy":
            torch.set_float32_matmul_precision("high")
        else:
            for each in OPERATIONS:
                each.fp32_precision = asked
        given = [each.fp32_precision for each in OPERATIONS]
        with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
            warnings.simplefilter("error")
            with pytest.raises(KeyError), in_fp32(torch.device("cpu")):  # noqa: PT012
                assert [each.fp32_precision for each in OPERATIONS] == ["ieee"] * 3
                assert not torch.is_autocast_enabled("cpu")
                raise KeyError
            assert torch.is_autocast_enabled("cpu")
        assert [each.fp32_precision for each in OPERATIONS] == given
    finally:
        torch.set_float32_matmul_precision("highest")
        for each, precision in zip(OPERATIONS, before):
            each.fp32_precision = precision
