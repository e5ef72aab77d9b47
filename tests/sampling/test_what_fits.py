"""What a GPU decides: how many clips are written side by side, and in which precision."""

import logging
from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_generator

from evagen.errors import UserError
from evagen.models.inference import precision_on
from evagen.sampling.clips import MOST_SLOTS, SHARE_FOR_SLOTS, slots_that_fit

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def on_gpu(model, free: int, monkeypatch):
    """The same model, said to be on a GPU with so many bytes free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))
    return SimpleNamespace(device=GPU, config=model.config, grammar=model.grammar, dtype=model.dtype)


@pytest.mark.parametrize(
    ("guided", "dtype", "halves"), [(False, None, 0), (True, None, 1), (False, torch.bfloat16, -1)]
)
def test_slots_follow_from_free_memory(guided, dtype, halves, monkeypatch):
    model = tiny_generator()
    cache = 2 * model.config.depth * model.grammar.max_sequence_length * model.config.width * 4  # of one clip in fp32
    of_slot = cache * 2**halves
    free = int(5.5 * of_slot / SHARE_FOR_SLOTS)
    assert slots_that_fit(on_gpu(model, free, monkeypatch), guided, dtype) == 5
    assert slots_that_fit(on_gpu(model, 100 * free, monkeypatch), guided, dtype) == MOST_SLOTS
    with pytest.raises(UserError, match=r"free GB are less: .* or guidance_scale in Python"):
        slots_that_fit(on_gpu(model, of_slot, monkeypatch), guided, dtype)
    assert slots_that_fit(model, guided, dtype) == MOST_SLOTS  # on a CPU


def test_precision_is_what_the_device_has(monkeypatch, caplog):
    assert [precision_on(asked, CPU) for asked in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old GPU")
    for has in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert precision_on("fp16", GPU) == "fp16"
        with caplog.at_level(logging.WARNING):
            assert precision_on("auto", GPU) == ("bf16" if has else "fp32")
    assert "an old GPU has no bf16: computing in fp32" in caplog.text
    with pytest.raises(UserError, match="an old GPU has no bf16; give fp16, or fp32"):
        precision_on("bf16", GPU)
