"""`evagen bench`: what it prints, and that the figures are of what they say."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import warm
from tiny_models import tiny_router, tiny_tokenizer

from evagen.bench import BENCHMARKS, as_tables, attention, loader, longvideo, packing, search
from evagen.bench import tokenizer as speed
from evagen.bench.shapes import moving_shapes

NOISY = """
import ctypes, importlib, os, sys, types
def run():
    print("a library talks")
    os.write(1, b"past Python\\n")
    ctypes.CDLL(None).puts(b"held back by C")
    sys.__stdout__.write("to the stream that was there before\\n")
    return {"speedup": 2.5, "equal": True, "rows": [{"preset": "tiny", "seconds": 0.25}]}
sys.modules["evagen.bench.attention"] = types.SimpleNamespace(run=run)
from evagen.cli import main
main()
"""


def bench(*arguments: str) -> subprocess.CompletedProcess:
    """The command in a process of its own, with a benchmark that takes no time and writes wherever it can."""
    return subprocess.run(
        [sys.executable, "-c", NOISY, "bench", *arguments],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_json_is_one_object_whatever_libraries_print():
    done = bench("attention", "--json")
    assert json.loads(done.stdout) == {
        "speedup": 2.5, "equal": True, "rows": [{"preset": "tiny", "seconds": 0.25}]
    }  # fmt: skip
    for text in ("a library talks", "past Python", "held back by C", "to the stream that was there before"):
        assert text in done.stderr


def test_unknown_benchmark_names_the_known_ones():
    done = bench("attentoin", "--json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert all(name in done.stderr for name in BENCHMARKS)


def test_figures_are_tables_of_markdown():
    rows = [{"preset": "quickstart", "clips": 12.5}, {"preset": "s|b", "clips": 1.0, "note": "slow"}]
    tables = as_tables({"seconds": 2.0, "search": {"equal": True}, "rows": rows, "last": None, "failed": {}})
    assert tables.splitlines() == [
        "| what         | measured |",
        "| ------------ | -------- |",
        "| seconds      | 2        |",
        "| search.equal | True     |",
        "",
        "rows:",
        "",
        "| preset     | clips | note |",
        "| ---------- | ----: | ---- |",
        "| quickstart |  12.5 |      |",
        "| s\\|b       |     1 | slow |",
        "",
        "| what | measured |",
        "| ---- | -------- |",
        "| last |          |",
    ]


def test_attention_is_compared_in_turns():
    done = []
    taken = attention._seconds(lambda: done.append("packed"), lambda: done.append("padded"), repeats=3)
    assert done == ["packed", "padded"] * 5  # two to warm up
    assert len(taken) == 2


def test_search_benchmark_on_a_tiny_model(monkeypatch):
    def untrained(perceptual):
        return tiny_tokenizer(num_frames=16, resolution=64)

    monkeypatch.setattr(search, "train_tiny_tokenizer", untrained)
    monkeypatch.setattr(search, "NUM_CLIPS", 2)
    monkeypatch.setattr(search.RewardScale, "of", lambda d, space: search.RewardScale.min_max(space, 0.0, 1.0))
    found = json.loads(json.dumps(search.run()))
    assert found["argmax_equal"] is True
    assert found["max_abs_difference"] < 1e-5
    assert found["speedup"] == pytest.approx(found["seconds_brute_force"] / found["seconds_shared"])
    assert found["block_evaluations_per_clip"] == 3 + 9 + 27 + 81
    assert found["autoregressive"]["block_evaluation_ratio"] == (3 + 9 + 15 + 15) / (81 * 4)
    assert 0 <= found["autoregressive"]["reward_ratio"] <= 1
    assert 0 < found["autoregressive"]["reward_ratio_of_one_for_all"] <= 1


def test_long_video_benchmark_in_little(monkeypatch):
    monkeypatch.setattr(longvideo, "subprocess", SimpleNamespace(run=warm.run))

    def untrained(perceptual, memory_blocks):
        return tiny_tokenizer(num_frames=16, resolution=64, memory_blocks=memory_blocks)

    monkeypatch.setattr(longvideo, "train_tiny_tokenizer", untrained)
    monkeypatch.setattr(longvideo, "SECONDS", {"10s": 8, "10min": 9})
    monkeypatch.setattr(longvideo, "BLOCKS", (4, 8))
    monkeypatch.setattr(longvideo.RewardScale, "of", lambda d, space: search.RewardScale.min_max(space, 0.0, 1.0))
    found = json.loads(json.dumps(longvideo.run()))
    for work in ("encode", "decode", "generate"):
        assert found[work]["peak_rss_mb_10min"] > 100
        assert found[work]["frames_per_second_last"] > 0
    assert found["streamed"] == {"blocks": 225, "codes_equal": True, "max_abs_difference": pytest.approx(0, abs=1e-5)}
    assert list(found["search"]["seconds_by_blocks"]) == ["4", "8"]
    assert found["search"]["block_evaluation_ratio"] == (3 + 9 + 15 + 15) / (81 * 4)


def test_tokenizer_benchmark_on_a_tiny_model():
    preset = speed.Preset(
        "tiny", lambda: (tiny_tokenizer(), tiny_router()), [[2, 0], [1, 1]], clips={"cpu": 2}, repeats={"cpu": 1}
    )
    row = speed.measure(preset, torch.device("cpu"))
    assert row["tokens_per_clip"] == (8 + 2 + 4 + 4) / 2
    assert all(row[f"{what}_clips_per_second"] > 0 for what in ("encode", "decode", "train"))
    assert 0 < row["router_share"] < 1


def test_loader_benchmark_on_a_few_short_files(monkeypatch):
    for name, value in {"FILES": 2, "FRAMES_PER_FILE": 40, "BATCH_SIZE": 2, "BATCHES": 1, "TURNS": 1}.items():
        monkeypatch.setattr(loader, name, value)
    cores = os.sched_getaffinity(0)
    found = json.loads(json.dumps(loader.run()))
    assert set(found["rivals"]) | set(found["rivals_absent"]) == {"imageio", "decord", "torchcodec"}
    assert found["rivals"]["imageio"] > 0  # which is always installed
    assert found["speedup"] == pytest.approx(found["clips_per_second"] / max(found["rivals"].values()))
    assert 0 < found["mean_difference"] < 5  # all of them read the same frames
    assert os.sched_getaffinity(0) == cores


@pytest.mark.parametrize(("name", "tokens"), [("quickstart", 67), ("s-b", 774)])
def test_presets_spend_as_many_tokens_as_trained_routers_do(name, tokens):
    preset = next(preset for preset in speed.PRESETS if preset.name == name)
    with torch.device("meta"):
        tokenizer, router = preset.make()
    levels = torch.tensor(tokenizer.assignments.levels)
    assert levels[torch.tensor(preset.chosen)].sum(1).double().mean().item() == pytest.approx(tokens, rel=0.01)
    assert router.assignments.levels == tokenizer.assignments.levels


def test_made_clips_repeat_and_some_stand_still():
    clips = moving_shapes(24, seed=3)
    assert torch.equal(clips, moving_shapes(24, seed=3))
    assert clips.abs().max() <= 1
    moves = (clips[:, :, 1:] != clips[:, :, :-1]).any(dim=(1, 3, 4))  # (B, F - 1)
    late = moves[:, :7].any(1), moves[:, 8:].any(1)  # in the first half, in the second
    assert {(bool(a), bool(b)) for a, b in zip(*late)} == {(True, True), (False, True), (False, False)}


def test_the_benchmarks_padded_batches_hold_the_same_clips_and_have_the_same_loss():
    lengths = torch.tensor([[64, 32, 32, 64], [32, 32, 32, 32], [128, 32, 32, 32]])
    packed, padded = packing.batches(lengths, seed=0)
    assert packed.sequence_lengths == [134, 198, 230]
    assert padded.sequence_lengths == [230] * 3
    losses = [packing.training_step()(batch) for batch in (packed, padded)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
