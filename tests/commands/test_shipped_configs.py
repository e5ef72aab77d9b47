"""Every shipped config is complete, fits the others of its folder, and has the size it claims."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from evagen.commands import COMMANDS, Command
from evagen.commands.configs import cost_of, describe, format_costs, format_table, list_configs
from evagen.config import Header, read_header, shipped_configs
from evagen.training.shipped_models import build_model

NAMES = sorted(shipped_configs())


def load(name: str):
    return COMMANDS[describe(name).header.command].load(name)


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_with_the_schema_of_its_command_and_its_model_builds(name):
    config, described = load(name), describe(name)
    model = build_model(name)
    assert (model is None) == (described.parameters is None)
    if model is not None:
        assert all(parameter.is_meta for parameter in model.parameters())
    if hasattr(config, "data"):
        assert described.clip == (config.data.frames, config.data.size, config.data.size)


@pytest.mark.parametrize("name", NAMES)
def test_what_it_reads_is_what_another_config_of_its_folder_writes(name):
    folder = name.rpartition("/")[0]
    written = {str(load(other).run.out) for other in NAMES if other.startswith(f"{folder}/")}
    config = load(name)
    read = {getattr(config, key, None) for key in ("tokenizer", "router", "record", "corpus", "generator", "proxy")}
    assert {str(path) for path in read if path} <= written
    assert len(written) == len([other for other in NAMES if other.startswith(f"{folder}/")])


PAPER = ["ucf101_k600", "webvid"]


@pytest.mark.parametrize("folder", PAPER)
def test_sizes_are_the_published_ones(folder):
    millions = {name.rpartition("/")[2]: (describe(name).parameters or 0) / 1e6 for name in NAMES if folder in name}
    for stage in ("proxy", "final"):
        assert millions[stage] == pytest.approx(145, rel=0.0106)  # 143.48: docs/recipe.md
    assert millions["router"] == pytest.approx(19.9, rel=0.01)
    assert millions.get("generator", 633) == pytest.approx(633, rel=0.01)


@pytest.mark.parametrize(
    ("name", "millions", "giga_tokens", "published_gpu_hours"),
    [
        ("ucf101_k600/proxy", 51.2, None, 116 * 64),
        ("webvid/proxy", 51.2, None, 116 * 64),
        ("ucf101_k600/router", 6.4, None, 5 * 32),
        ("webvid/router", 6.4, None, 5 * 32),
        ("ucf101_k600/final", 128.0, None, 347 * 64),
        ("webvid/final", 128.0, None, 347 * 64),
        ("ucf101_k600/generator", 28.6, 28.608 * (774 + 6) / 1000, 88 * 64),
        ("ucf101_k600/prediction_generator", 28.8, 28.8 * (862 + 6 + 512 + 128 + 3) / 1000, 140 * 64),
    ],
)
def test_what_the_papers_trainings_see(name, millions, giga_tokens, published_gpu_hours):
    """arXiv 2603.12267, section H and table 7: batch 128 everywhere, and steps or epochs. On H100s they take less than
    the paper's V100s, whose peak is an eighth."""
    cost, header = cost_of(name), describe(name).header
    assert cost.clips_per_step == 128
    assert cost.clips / 1e6 == pytest.approx(millions, abs=0.05)
    assert (cost.tokens and cost.tokens / 1e9) == (giga_tokens and pytest.approx(giga_tokens))
    hours, gpus = re.fullmatch(r"([\d.]+) on (\d+) V100", header.hours).groups()
    assert float(hours) * int(gpus) == published_gpu_hours
    assert 0 < cost.hours * header.num_gpus < published_gpu_hours / 8


def test_the_estimate_worked_out_by_hand():
    """The generator: 6 operations a weight and token; attention's two products of 1280 numbers a pair of tokens, each
    token with those up to itself, in 30 layers, forward and twice backward. On 8 GPUs at 40% of 989 TFLOP/s."""
    cost, width, tokens = cost_of("ucf101_k600/generator"), 1280, 780
    weights = 30 * (4 * width**2 + 3 * width * 3584) + width * (8192 + 5 + 3)
    by_hand = 6 * weights * tokens + 3 * 30 * 2 * 2 * width * tokens * (tokens + 1) / 2
    assert cost.operations == pytest.approx(by_hand, rel=1e-12)
    assert cost.hours == pytest.approx(223_500 * 128 * by_hand / (8 * 0.4 * 989e12) / 3600)


@pytest.mark.parametrize("name", NAMES)
def test_only_what_trains_costs_and_only_gpus_are_estimated(name):
    described = describe(name)
    cost = described.cost
    assert (cost is None) == (described.parameters is None)
    if cost is not None:
        optimizer = load(name).optimizer
        assert cost.clips == cost.clips_per_step * optimizer.steps
        assert (cost.hours is None) == (not described.header.hardware.startswith(("one GPU", "8 GPUs")))
        assert (cost.tokens is not None) == ("generator" in name)


def test_a_budget_of_tokens_says_how_many_clips(monkeypatch):
    name = "quickstart/generator"
    one, load_config = cost_of(name), COMMANDS["train-generator"].load
    budget = load_config(name, ["optimizer.batch_size=null", "optimizer.tokens_per_batch=1140"])
    monkeypatch.setattr(Command, "load", lambda self, name: budget)
    found = cost_of.__wrapped__(name)
    assert found.tokens == pytest.approx(budget.optimizer.steps * 1140)
    assert one.tokens / one.clips == pytest.approx(found.tokens / found.clips)


@pytest.mark.parametrize("folder", PAPER)
def test_the_papers_tokenizers(folder):
    """arXiv 2603.12267, section H and table 7."""
    proxy, final = (load(f"{folder}/{stage}") for stage in ("proxy", "final"))
    assert (proxy.optimizer.steps, final.optimizer.steps) == (400_000, 1_000_000)
    for config in (proxy, final):
        optimizer = config.optimizer
        assert (optimizer.schedule, optimizer.learning_rate, optimizer.final_learning_rate) == ("cosine", 1e-4, 1e-6)
        assert config.model.levels == [32, 64, 128, 256, 512]
        assert config.restart_codes_after is None
        assert config.model.encoder_self_attention == "causal"
        assert config.data.frames_per_second == {"ucf101_k600": None, "webvid": 3}[folder]
        assert (config.loss.alignment.weight, config.loss.alignment.projection) == (0.7, "teacher")
        assert (config.loss.entropy, config.loss.compare.network) == (0.02, "lpips")
    assert proxy.model.codebook_size == 16384
    assert final.model.codebook_size == {"ucf101_k600": 8192, "webvid": 16384}[folder]  # §4.1
    discriminators = [config.loss.adversarial.discriminator for config in (proxy, final)]
    assert discriminators == ["transformer", "videomae"]


@pytest.mark.parametrize("folder", PAPER)
def test_the_papers_router(folder):
    curation, router, final = (load(f"{folder}/{stage}") for stage in ("curation", "router", "final"))
    assert (curation.data.limit, curation.compare.network) == (100_000, "lpips")
    assert curation.data.frames_per_second == final.data.frames_per_second
    assert (router.optimizer.steps, router.optimizer.batch_size) == (50_000, 128)
    assert (router.reward_scale, router.preference_range) == ("z-score", (1.2, 1.2))
    assert final.preference == 1.2


@pytest.mark.parametrize(
    ("stage", "key"),
    [("final", "router"), ("tokens", "router"), ("prediction_tokens", "router"), ("prediction_sample", "given.router")],
)
def test_webvids_router_serves_ucf101_as_in_the_paper(stage, key):
    """arXiv 2603.12267, section 4.2 and table 7: one router, of WebVid."""
    webvid, ours = (describe(f"{folder}/router") for folder in ("webvid", "ucf101_k600"))
    assert webvid.clip == ours.clip
    assert build_model("webvid/router").config == build_model("ucf101_k600/router").config
    name = f"ucf101_k600/{stage}"
    config = COMMANDS[describe(name).header.command].load(name, [f"{key}=runs/webvid/router"])
    for part in key.split("."):
        config = getattr(config, part)
    assert str(config) == str(load("webvid/router").run.out)


def test_the_papers_generators():
    for name in ("generator", "prediction_generator"):
        optimizer = load(f"ucf101_k600/{name}").optimizer
        assert (optimizer.schedule, optimizer.decay_share, optimizer.final_learning_rate) == ("wsd", 0.2, 0)
    assert load("ucf101_k600/sample").options.guidance == 1.75
    assert load("ucf101_k600/prediction_sample").options.guidance == 1
    assert load("ucf101_k600/prediction_tokens").prefix == (512, 128)
    assert load("ucf101_k600/prediction_sample").given.prefix == (512, 128)


@pytest.mark.parametrize("folder", sorted({name.rpartition("/")[0] for name in NAMES}))
def test_proxy_and_final_tokenizer_are_the_same_model_on_the_same_clips(folder):
    proxy, final = load(f"{folder}/proxy"), load(f"{folder}/final")
    if folder == "ucf101_k600":  # whose final codebook is as small as that of the tokenizers it is compared with
        final = final.model_copy(update={"model": final.model.model_copy(update={"codebook_size": 16384})})
    assert proxy.model == final.model
    assert proxy.data == final.data


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("quickstart", "arcade_nano"))])
def test_it_says_what_it_is_and_what_it_should_reach(name):
    header = describe(name).header
    assert header.about
    assert header.target
    assert header.hardware


def test_header(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("# What it is.\n# hardware: one GPU: any\n# target:  FVD 9\n# Else.\nrun: {out: x}  # target: no\n")
    assert read_header(path) == Header("What it is.", target="FVD 9", hardware="one GPU: any")
    path.write_text("run: {out: x}\n")
    assert read_header(path) == Header()


@pytest.mark.parametrize(
    ("hardware", "number"),
    [
        ("8 GPUs; one GPU with …", 8),
        ("one GPU, or several", 1),
        ("16 GPUs", 16),
        ("two CPU cores, one GPU", None),
        ("", None),
    ],
)
def test_the_gpus_of_a_header(hardware, number):
    assert Header(hardware=hardware).num_gpus == number


def test_the_table_has_a_line_for_each():
    lines = [line for line in format_table(list_configs()).splitlines() if line]
    assert sorted(line.split()[0] for line in lines[1:]) == NAMES
    assert next(line for line in lines if line.startswith("ucf101_k600/final")).split()[1:4] == [
        "train-tokenizer", "143.5M", "16×128×128",
    ]  # fmt: skip
    costs = [line for line in format_costs(list_configs()).splitlines() if line]
    trains_or_took = [name for name in NAMES if describe(name).parameters or describe(name).header.hours]
    assert sorted(line.split()[0] for line in costs[1:]) == trains_or_took
    final = next(line for line in costs if line.startswith("ucf101_k600/final"))
    assert re.fullmatch(r"\S+ +1,000,000 +128 +128.0M +[\d.]+ +\d+ on 8 H100 +347 on 64 V100", final)
    assert next(line for line in costs if line.startswith("webvid/curation")).split()[1:4] == ["12.5", "on", "4"]
    stages = [line.split()[0].partition("/")[2] for line in lines if line.startswith("quickstart/")]
    assert stages == ["proxy", "curation", "router", "final", "tokens", "generator", "sample", "fixed_against_adaptive"]


def test_the_command_prints_one_config_or_says_which_are_near():
    def configs(*arguments):
        command = [sys.executable, "-m", "evagen", "configs", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"})

    assert configs("webvid/proxy").stdout == shipped_configs()["webvid/proxy"].read_text()
    resolved = yaml.safe_load(configs("webvid/proxy", "--resolved").stdout)
    assert (resolved["data"]["root"], resolved["data"]["size"]) == ("data/webvid", 128)
    wrong = configs("webvid/prox")
    assert (wrong.returncode, "webvid/proxy" in wrong.stderr) == (2, True)
