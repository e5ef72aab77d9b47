"""`evagen bench gpu` where there is no GPU: all its parts run on a pretended one."""

import itertools
import json
import shutil
import subprocess
import sys

import pytest
import torch

from evagen.bench import gpu, gpu_attention, gpu_commands
from evagen.commands import COMMANDS
from evagen.kernels.attention import planned_attention

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="a GPU is pretended with the help of a C++ compiler"),
]


PARTS = ("ceilings", "attention", "tokenizer", "training", "sampling", "drawing", "search", "same_as_cpu")


@pytest.fixture(scope="module")
def found() -> dict:
    done = subprocess.run([sys.executable, "-m", "evagen", "bench", "gpu", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_every_part_runs(found):
    assert found["failed"] == {}
    assert "pretended" in found["device"]
    assert "times mean nothing" in found["note"]
    assert {"ceilings", "attention", "tokenizer", "training", "sampling", "drawing", "search", "same_as_cpu"} <= set(
        found
    )


def test_what_does_not_depend_on_time_is_right(found):
    kernels = {(row["pattern"], row["kernel"], row["type"]): row for row in found["attention"]}
    patterns = {pattern for pattern, *_ in kernels}
    assert len(patterns) == 6
    for pattern, name in itertools.product(patterns, ("values", "of_queries", "of_keys", "of_values")):
        assert kernels[pattern, "flash", "bfloat16"][name] < 2e-2
        assert kernels[pattern, "efficient", "float32"][name] < 1e-5
        assert "error" in kernels[pattern, "xformers", "bfloat16"]  # its kernels cannot be pretended
    assert found["search"]["blocks_a_clip"] == 2 + 4 + 8 + 16
    assert found["same_as_cpu"]["codes_fp32"] == found["same_as_cpu"]["clips_fp32"] == 1
    assert found["same_as_cpu"]["codes_bf16"] > 0.9


def test_a_part_that_fails_is_named_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    for name in PARTS:
        monkeypatch.setattr(gpu, name, lambda *_, name=name: {"ran": name})

    def broken(*_):
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(gpu, "attention", broken)
    found = gpu.measure(gpu._tiny(), is_real=False)
    assert found["failed"] == {"attention": "RuntimeError: no such kernel"}
    assert [found[name]["ran"] for name in PARTS if name != "attention"] == [n for n in PARTS if n != "attention"]


@pytest.mark.parametrize("pattern", gpu_attention.patterns(1, 4), ids=lambda pattern: pattern.name)
def test_flex_attention_is_given_the_same_pattern(pattern):
    random = torch.Generator().manual_seed(0)
    rows = (sum(pattern.plan.query_lengths), pattern.keys, pattern.keys)
    inputs = [torch.randn(n, 2, 16, generator=random) for n in rows]
    expected = planned_attention(*inputs, pattern.plan)
    attend = gpu_attention.flex_attention_of(pattern.plan, pattern.keys, "cpu")
    torch.testing.assert_close(attend(*inputs), expected, atol=1e-5, rtol=1e-5)


def test_the_commands_that_a_gpu_is_tried_with_are_commands(tmp_path):
    """Each config loads with its overrides."""
    for _, command, config, *overrides in itertools.chain(*gpu_commands.jobs(tmp_path)):
        COMMANDS[command].load(config, overrides)
