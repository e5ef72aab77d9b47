"""Every command on a pretended GPU: it runs there, gives what the CPU gives, and host and device meet seldom."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from tiny_models import tiny_teacher
from transformers import VideoMAEConfig, VideoMAEModel

from evagen.ar_model.sampler import STEPS_BETWEEN_LOOKS
from evagen.commands import benchmark, curate, decode, encode
from evagen.commands.benchmark import load_benchmark
from evagen.config import load_config
from evagen.data.corpus import read_corpus
from evagen.data.curation_record import read_record
from evagen.data.token_file import read_token_file
from evagen.data.video_writer import write_video
from evagen.scoring import record as scored
from evagen.training.metrics import read_metrics

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="a GPU is pretended with the help of a C++ compiler"),
]
COMMANDS = {
    "proxy": "train-tokenizer", "curation": "curate", "router": "train-router", "final": "train-tokenizer",
    "tokens": "tokenize", "generator": "train-generator", "samples": "sample",
}  # fmt: skip
TRAINED = [name for name, command in COMMANDS.items() if command.startswith("train-")]
STEPS = (1, 2)
MEETINGS_A_STEP = 4
"""Between log lines: the clips, what follows from their lengths, what was drawn, and a router's lengths."""
ALIGNED = "loss.alignment={weight: 0.7, teacher: %s, layer: 1}"
DISCRIMINATORS = {
    "patch": "loss.adversarial={discriminator: patch, adaptive: true, lecam: 0.01}",
    "transformer": "loss.adversarial={discriminator: transformer, transformer: {width: 32, depth: 1, heads: 2}, "
    "form: non_saturating, label_noise: 0.15}",
    "videomae": "loss.adversarial={discriminator: videomae, videomae: %s}",
}
EVERYTHING = ["run.gradient_checkpointing=true", "optimizer.accumulation=2", "optimizer.ema_decay=0.9"]
SCORED = {"larp-ucf101-recon": ["router"], "larp-ucf101-class2video": ["generator"]}
"""Protocols, and what they score beside the tokenizer."""
FEWER = {"curation": ["data.limit=4"]}
"""Clips, where a pretended GPU is slow."""
UNSEEN = ["run.log_every=1000", "run.save_every=1000"]


def in_precision(command: str, precision: str) -> str:
    name = "mixed_precision" if command.startswith("train-") else "precision"
    return f"run.{name}={'no' if (name, precision) == ('mixed_precision', 'fp32') else precision}"


def all_jobs(road: Path, out: Path) -> list[list[str]]:
    def job(name: str, stage: str, *overrides: str) -> list[str]:
        return [name, COMMANDS[stage], str(road / stage / "config.yaml"), f"run.out={out / name}", *overrides]

    jobs = [
        job(f"{stage} {precision}", stage, in_precision(command, precision), *FEWER.get(stage, []))
        for precision in ("fp32", "bf16")
        for stage, command in COMMANDS.items()
    ]
    for name, discriminator in DISCRIMINATORS.items():
        chosen = discriminator % (out / "videomae") if "%s" in discriminator else discriminator
        # Convolutions in bf16 take a CPU without it most of a minute a batch.
        is_slow = name == "patch" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
        aligned = [ALIGNED % (out / "teacher")] if name == "patch" else []
        jobs += [
            job(f"{name} {steps}", "proxy", f"optimizer.steps={steps}",
                f"run.mixed_precision={'no' if is_slow else 'bf16'}", *UNSEEN, *EVERYTHING, chosen, *aligned)
            for steps in STEPS
        ]  # fmt: skip
    jobs += [
        job(f"{stage} {steps}", stage, f"optimizer.steps={steps}", *UNSEEN) for stage in TRAINED for steps in STEPS
    ]
    jobs += [
        job(
            f"samples of {length}",
            "samples",
            "clips_per_class=1",
            f"lengths.forced={[length] * 4}",
            "run.precision=bf16",
        )
        for length in (1, 4)
    ]
    models = [f"--tokenizer={road / 'final'}", f"--router={road / 'router'}", "--clips-per-chunk=1"]
    for frames in (32, 64):
        video, tokens = str(out / f"{frames}.mkv"), str(out / f"{frames}.safetensors")
        jobs += [
            [f"encode {frames}", "encode", video, tokens, *models, "--no-score"],
            [f"encode within a budget {frames}", "encode", video, tokens, *models, "--no-score", "--mean-tokens=10"],
            [f"decode {frames}", "decode", tokens, str(out / f"{frames}_decoded.mkv"), models[0], models[2]],
        ]
    jobs.append(["reconstruct", "reconstruct", video, str(out / "beside.mp4"), *models])
    jobs += [[protocol, "benchmark", *score(road, out, protocol)] for protocol in SCORED]
    jobs.append(["fvd", "fvd", str(road / "arcade"), str(road / "arcade"), "--size=32", "--detector=offline"])
    jobs.append(["study", "study", "quality-cost", *study(road, out)])
    return jobs + remembering_jobs(road, out)


def study(road: Path, out: Path) -> list[str]:
    """The config of one of clips that were learnt, since it is not the figures that count."""
    settings = {
        "run": {"out": out / "study"}, "record": road / "curation", "held_out": {"a": road / "curation"},
        "proxy": road / "proxy", "final": road / "final", "router": road / "router", "num_preferences": 2,
    }  # fmt: skip
    (out / "study.yaml").write_text(json.dumps(settings, default=str))
    return [str(out / "study.yaml")]


def score(road: Path, out: Path, protocol: str) -> list[str]:
    """Of a few clips, by the network that comes as a package."""
    settings = {
        "run.out": out / protocol, "cache": out / "cache", "data.root": road / "arcade", "data.layout": "ucf101",
        "tokenizer": road / "final", "changes": "{dataset: arcade, size: 32, drawn: 8}", "detector": "offline",
        "certainty.resamples": 2, "batch_size": 4, **{name: road / name for name in SCORED[protocol]},
    }  # fmt: skip
    return [protocol, *(f"{key}={value}" for key, value in settings.items())]


def remembering_jobs(road: Path, out: Path) -> list[list[str]]:
    """The road of a tokenizer with a memory, one stage on what another left."""

    def job(name: str, stage: str, *overrides: str) -> list[str]:
        return [name, COMMANDS[stage], str(road / stage / "config.yaml"), f"run.out={out / name}", *overrides]

    tokenizer = f"tokenizer={out / 'remembers'}"
    live = [f"--tokenizer={out / 'remembers'}", "--precision=fp32"]
    return [
        job("remembers", "proxy", "model.memory_blocks=2", "pieces=[8, 16]"),
        job("states", "curation", tokenizer, "past=1", "future=1"),
        job("block_router", "router", f"record={out / 'states'}"),
        job("runs", "tokens", tokenizer, f"router={out / 'block_router'}", "flips=false"),
        job("endless", "generator", f"corpus={out / 'runs'}", "blocks=2"),
        job("long", "samples", f"generator={out / 'endless'}", tokenizer, "seconds=2", "clips_per_class=1"),
        *([f"encode live {frames}", "encode", str(out / f"{frames}.mkv"), str(out / f"live_{frames}.safetensors"),
           *live, f"--router={out / 'block_router'}", "--tokens-per-second=12", "--no-score"] for frames in (32, 64)),
        ["decode live", "decode", str(out / "live_64.safetensors"), str(out / "live.mkv"), *live],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def out(road, tmp_path_factory) -> Path:
    """A folder in which all jobs have been run, with what they met in results.json."""
    out = tmp_path_factory.mktemp("pretended")
    tiny_teacher().save_pretrained(out / "teacher")
    videomae = VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=8, hidden_size=24, num_hidden_layers=12, num_attention_heads=2,
        intermediate_size=48,
    )  # fmt: skip
    VideoMAEModel(videomae).save_pretrained(out / "videomae")
    for frames in (32, 64):
        pixels = np.random.default_rng(0).integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8)
        write_video(out / f"{frames}.mkv", pixels, 15)
    (out / "jobs.json").write_text(json.dumps(all_jobs(road, out)))
    command = [sys.executable, "-m", "evagen.bench.pretended", str(out / "jobs.json"), str(out / "results.json")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def results(out) -> dict[str, dict]:
    return json.loads((out / "results.json").read_text())


def test_every_command_runs_in_fp32_and_bf16_and_with_every_setting(results):
    assert not {name: each["error"][-1500:] for name, each in results.items() if each["error"]}
    assert len(results) == 14 + 6 + 8 + 2 + 6 + 1 + 2 + 2 + 9


@pytest.mark.parametrize("stage", TRAINED)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-2), ("bf16", 5e-2)])
def test_trainings_are_those_of_a_cpu(road, out, stage, precision, tolerance):
    """As closely as six steps of large size leave it; the first line as closely as the precision does."""
    on_cpu, on_gpu = read_metrics(road / stage), read_metrics(out / f"{stage} {precision}")
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # Muon's products are fp32 there, and bf16 on a GPU
        precision, tolerance = "bf16", 5e-2
    assert [line["step"] for line in on_gpu] == [line["step"] for line in on_cpu]
    for here, there in zip(on_cpu, on_gpu):
        assert there["loss"] == pytest.approx(here["loss"], rel=tolerance)
    assert on_gpu[0]["loss"] == pytest.approx(on_cpu[0]["loss"], rel=1e-5 if precision == "fp32" else 1e-2)


def test_curation_measures_what_it_measures_on_a_cpu(road, out, tmp_path):
    overrides = [*FEWER["curation"], f"run.out={tmp_path / 'curation'}"]
    on_cpu = read_record(curate.main(load_config(curate.Curation, road / "curation" / "config.yaml", overrides)))
    for precision, tolerance in (("fp32", 1e-4), ("bf16", 2e-2)):
        on_gpu = read_record(out / f"curation {precision}")
        for name in ("perceptual", "mse", "moving_mse"):
            here, there = getattr(on_cpu, name), getattr(on_gpu, name)
            torch.testing.assert_close(there, here, rtol=tolerance, atol=tolerance / 10)


def test_tokens_and_samples_are_those_of_a_cpu(road, out):
    ours, theirs = read_corpus(road / "tokens").table, read_corpus(out / "tokens fp32").table
    for here, there in zip(ours, theirs, strict=True):
        assert torch.equal(here["lengths"], there["lengths"])
        assert torch.equal(here["codes"], there["codes"])
    here, there = (
        [json.loads(line) for line in (folder / "tokens.jsonl").read_text().splitlines()]
        for folder in (road / "samples", out / "samples fp32")
    )
    assert [clip["codes"] for clip in here] == [clip["codes"] for clip in there]


@pytest.mark.filterwarnings("ignore::evagen.eval.frechet.FewSamplesWarning")
@pytest.mark.parametrize("protocol", SCORED)
def test_scores_are_those_of_a_cpu(road, out, tmp_path, protocol):
    name, *settings = score(road, tmp_path, protocol)
    here, there = (
        scored.read_record(folder) for folder in (benchmark.main(load_benchmark(name, settings)), out / protocol)
    )
    assert there.score.value == pytest.approx(here.score.value, rel=1e-3)
    assert there.tokens == here.tokens
    if here.reconstruction:
        for measure in ("psnr", "ssim", "perceptual", "motion"):
            assert getattr(there.reconstruction, measure) == pytest.approx(
                getattr(here.reconstruction, measure), abs=1e-3
            )


@pytest.mark.parametrize("name", [*TRAINED, *DISCRIMINATORS])
def test_host_and_device_meet_seldom_in_training(results, name):
    """What two steps have more than one, where nothing is logged: of one step, or two batches."""
    few, many = (
        {(kind, place): times for kind, place, times in results[f"{name} {steps}"]["meetings"]} for steps in STEPS
    )
    more = {key: times - few.get(key, 0) for key, times in many.items() if times != few.get(key, 0)}
    batches = 2 if name in DISCRIMINATORS else 1
    assert sum(more.values()) <= MEETINGS_A_STEP * batches, more
    waits = {kind for kind, _ in more} - {"to the device"}
    assert not waits or name == "final", more  # whose router chooses its lengths


def test_a_sampled_token_is_one_launch_and_waits_for_nothing(results):
    """Clips of 4 × (1 + 4) tokens against such of 4 × (1 + 1): twelve tokens more, which are one look of the host more,
    after sixteen steps."""
    short, long = (results[f"samples of {length}"] for length in (1, 4))
    writing = ("evagen/ar_model/sampler.py", "evagen/ar_model/decoding.py", "evagen/kernels/transfer.py")
    few, many = (
        sum(times for _, place, times in each["meetings"] if place.startswith(writing)) for each in (short, long)
    )
    assert many - few <= 1
    assert (
        long["launches"] - short["launches"] <= STEPS_BETWEEN_LOOKS + 30
    )  # of the look, and of longer clips' decoding


@pytest.mark.parametrize(
    ("what", "most"),
    [
        ("encode", 3),  # its frames, its lengths, and what follows from them
        ("encode within a budget", 3 + 2),  # its frames in three looks of the router; then frames and plan
        ("decode", 2),  # codes with their plan; frames
    ],
)
def test_host_and_device_meet_seldom_in_a_chunk(results, what, most):
    """What four chunks have more than two."""
    few, many = (
        Counter({(kind, place): times for kind, place, times in results[f"{what} {frames}"]["meetings"]})
        for frames in (32, 64)
    )
    assert (many - few).total() <= 2 * most, many - few


def test_a_block_that_goes_by_waits_for_its_length_alone(results):
    """What sixteen blocks have more than eight: their frames and plans go to the device, and the router's look comes
    back."""
    few, many = (
        Counter({(kind, place): times for kind, place, times in results[name]["meetings"]})
        for name in ("encode live 32", "encode live 64")
    )
    waits = {key: times for key, times in (many - few).items() if key[0] != "to the device"}
    assert sum(waits.values()) == 8, waits
    assert (many - few).total() <= 8 * 3, many - few


def test_a_stream_is_that_of_a_cpu(out, tmp_path):
    live = tmp_path / "live.safetensors"
    encode.main(
        out / "64.mkv", live, str(out / "remembers"), str(out / "block_router"), encode.Dials(tokens_per_second=12.0)
    )
    decode.main(live, tmp_path / "live.mkv", str(out / "remembers"))
    (here, about), (there, _) = (read_token_file(path) for path in (live, out / "live_64.safetensors"))
    assert about.blocks == 16
    assert torch.equal(here.lengths, there.lengths)
    assert torch.equal(here.codes, there.codes)
    ours, theirs = (iio.imread(path).astype(int) for path in (tmp_path / "live.mkv", out / "live.mkv"))
    assert abs(ours - theirs).max() <= 1
