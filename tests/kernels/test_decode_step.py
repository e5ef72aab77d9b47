"""The compiled step: the same logits as torch's, and where there is none."""

import re
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_generator

from evagen.ar_model import ClipTokens
from evagen.ar_model.decoding import Decoder
from evagen.kernels import decode_step
from evagen.kernels.decode_step import can_compile


@pytest.mark.parametrize("num_rows", range(1, 9))
def test_compiled_steps_equal_those_in_torch(num_rows):
    if not can_compile(num_rows, 64, 64, 32):
        pytest.skip("there is no C compiler")
    model = tiny_generator()
    random = torch.Generator().manual_seed(num_rows)
    lengths = [[1, 3, 5][row % 3] for row in range(num_rows)]
    given = [ClipTokens(torch.randint(11, (n,), generator=random), torch.tensor([n])) for n in lengths]
    prompts = [model.grammar.prompt(0, clip) for clip in given]
    with torch.no_grad():
        ours, plain = Decoder(model, num_rows), Decoder(model, num_rows)
        plain._fused_step = None
        for decoder in (ours, plain):
            decoder.prefill(list(range(num_rows)), prompts)
        for _ in range(5):
            tokens = torch.randint(11, (num_rows,), generator=random)
            torch.testing.assert_close(ours.step(tokens), plain.step(tokens), atol=1e-4, rtol=1e-5)


def test_whole_numbers_have_64_bits_everywhere():
    """A `long` has 32 on Windows."""
    assert not re.search(r"\blong\b", Path(decode_step.__file__).with_name("decode_step.c").read_text(encoding="utf-8"))


def test_some_shapes_have_no_compiled_step():
    assert not can_compile(decode_step.MOST_ROWS + 1, 64, 64, 32)
    assert not can_compile(1, 96, 64, 32)
    assert not can_compile(1, 64, 64, 8)


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_working_compiler_there_is_no_compiled_step(compiler, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("EVAGEN_CACHE", str(tmp_path))
    with caplog.at_level("INFO", decode_step.__name__):
        assert decode_step._library.__wrapped__() is None
    assert "torch's" in caplog.text
    assert not list(tmp_path.iterdir())


def test_the_step_is_compiled_once_and_kept_in_the_cache_folder(monkeypatch, tmp_path):
    if not can_compile(1, 64, 64, 32):
        pytest.skip("there is no C compiler")
    monkeypatch.setenv("EVAGEN_CACHE", str(tmp_path / "cache"))
    assert decode_step._library.__wrapped__() is not None
    (kept,) = (tmp_path / "cache").iterdir()
    written = kept.stat().st_mtime_ns
    assert decode_step._library.__wrapped__() is not None
    assert kept.stat().st_mtime_ns == written
