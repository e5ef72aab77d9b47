"""What only a GPU can show, in one command of a few minutes: what works there, and how near it comes to its limits.

Each part is tried by itself, and one that fails is named with its error while the others go on. Without a GPU the same
parts run at tiny sizes on a pretended one (`evagen.bench.pretended`), where times mean nothing.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evagen.ar_model import (
    ClipRequest,
    LengthConstraints,
    SamplingOptions,
    SequenceGrammar,
    VideoGenerator,
    sample_in_order,
)
from evagen.ar_model.drawing import Slots, draw_in_torch, draw_in_triton, triton_draws
from evagen.ar_model.sizes import shape_of
from evagen.bench import gpu_attention, gpu_commands, gpu_training
from evagen.bench import tokenizer as tokenizer_speed
from evagen.bench.timing import gpu_seconds
from evagen.errors import UserError
from evagen.kernels.replay import Replayed
from evagen.kernels.words import first_line
from evagen.models.inference import HALF
from evagen.run import versions
from evagen.tokenizer import CandidateSearch, VideoTokenizer

PRETENDED = "pretended GPU"
LEVELS = [32, 64, 128, 256, 512]


@dataclass(frozen=True)
class Scale:
    """Sizes of what is measured: copied bytes; width of a square product; clips of an attention call, and patches of
    each of their blocks; the tokenizer's preset, and clips of a batch in training; the generator's shape, the tokens of
    a clip that it is trained on, and the level of those it writes; slots that it samples at; clips of one search, and
    the tokenizer that it searches with."""

    copied: int
    product: int
    attention_clips: int
    patches: int
    preset: tokenizer_speed.Preset
    trained_clips: int
    generator: dict[str, int]
    trained_tokens: int
    sampled_level: int
    slots: tuple[int, ...]
    searched: int
    tokenizer: dict[str, Any]
    repeats: int


REAL = Scale(
    copied=2**31, product=8192, attention_clips=32, patches=256, preset=tokenizer_speed.PRESETS[1], trained_clips=32,
    generator=shape_of("L-plus"), trained_tokens=780, sampled_level=128, slots=(1, 16, 64), searched=4,
    tokenizer={"levels": LEVELS}, repeats=20,
)  # fmt: skip
TINY_TOKENIZER = {
    "levels": [2, 8], "resolution": 32, "encoder_width": 32, "encoder_depth": 1, "encoder_heads": 2,
    "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2, "codebook_size": 64, "code_width": 4,
}  # fmt: skip


def _tiny() -> Scale:
    preset = replace(tokenizer_speed.PRESETS[0], clips={"cuda": 4}, repeats={"cuda": 1})
    return Scale(
        copied=2**12, product=64, attention_clips=1, patches=4, preset=preset, trained_clips=1,
        generator={"width": 32, "depth": 1, "num_heads": 2}, trained_tokens=20, sampled_level=8, slots=(1, 3),
        searched=1, tokenizer=TINY_TOKENIZER, repeats=1,
    )  # fmt: skip


def run() -> dict:
    """Keys: device, versions, failed (by part: the first line of its error), and for each part that ran its figures:
    ceilings, attention, tokenizer, training, sampling, drawing, search, same_as_cpu, and on a real GPU doctor, loading
    and commands. Without one: of the pretended GPU, and a note that says so."""
    if not torch.cuda.is_available():
        return _pretended()
    is_real = torch.cuda.get_device_name() != PRETENDED
    return measure(REAL if is_real else _tiny(), is_real)


def measure(scale: Scale, is_real: bool) -> dict:
    """All parts, at a scale."""
    result: dict[str, Any] = {"device": torch.cuda.get_device_name(), "versions": versions(), "failed": {}}
    parts: dict[str, Callable[[], Any]] = {
        "ceilings": lambda: ceilings(scale),
        "attention": lambda: attention(scale, is_real),
        "tokenizer": lambda: tokenizer(scale),
        "training": lambda: training(scale, result.get("ceilings", {}).get("bf16_tflops"), is_real),
        "sampling": lambda: sampling(scale, result.get("ceilings", {}).get("copy_gb_s")),
        "drawing": lambda: drawing(scale),
        "search": lambda: search(scale),
        "same_as_cpu": lambda: same_as_cpu(),
    }
    if is_real:
        parts = {"doctor": doctor, **parts, "loading": gpu_training.loading, "commands": gpu_commands.run_all}
    for name, part in parts.items():
        started = time.perf_counter()
        try:
            result[name] = part()
        except Exception as error:
            result["failed"][name] = first_line(error)
        found = json.dumps(result.get(name, result["failed"].get(name)))
        print(f"{name}, {time.perf_counter() - started:.0f} s: {found}", file=sys.stderr)  # lest a stop lose it
    return result


def _pretended() -> dict:
    """The same parts at tiny sizes in a process in which a GPU is pretended. Raises UserError where it cannot be."""
    with tempfile.TemporaryDirectory() as folder:
        jobs, results = Path(folder) / "jobs.json", Path(folder) / "results.json"
        jobs.write_text(json.dumps([["gpu", "bench", "gpu", "--json"]]), encoding="utf-8")
        command = [sys.executable, "-m", "evagen.bench.pretended", str(jobs), str(results)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or json.loads(results.read_bytes())["gpu"]["error"]:
            raise UserError(f"there is no GPU here, and none could be pretended: {done.stderr.strip()[-500:]}")
        found = json.loads(done.stdout.strip().splitlines()[-1])
    return {"note": "no GPU on this machine: tiny sizes on a pretended one, whose times mean nothing", **found}


def ceilings(scale: Scale) -> dict[str, float]:
    """What the device reaches at its best: GB/s read and written by a copy, TFLOP/s of a square product in bf16."""
    source = torch.zeros(scale.copied, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    left = torch.randn(scale.product, scale.product, device="cuda", dtype=torch.bfloat16)
    copied = gpu_seconds(lambda: target.copy_(source), scale.repeats)
    multiplied = gpu_seconds(lambda: left @ left, scale.repeats)
    return {"copy_gb_s": 2 * scale.copied / copied / 1e9, "bf16_tflops": 2 * scale.product**3 / multiplied / 1e12}


def attention(scale: Scale, compiles: bool) -> list[dict]:
    """`gpu_attention`'s rows."""
    return gpu_attention.measure(scale.attention_clips, scale.patches, compiles, scale.repeats)


def doctor() -> list[dict]:
    """What `evagen doctor` says, a row for each line."""
    said = subprocess.run([sys.executable, "-m", "evagen", "doctor"], capture_output=True, text=True).stdout
    return [{"doctor": line} for line in said.splitlines()]


def tokenizer(scale: Scale) -> dict:
    """`bench tokenizer`'s row."""
    return tokenizer_speed.measure(scale.preset, torch.device("cuda"))


def training(scale: Scale, peak_tflops: float | None, compiles: bool) -> list[dict]:
    """A row for the tokenizer's and for the generator's training, each as it is and compiled."""
    makers = {
        "tokenizer": lambda: gpu_training.of_tokenizer(scale.preset, scale.trained_clips),
        "generator": lambda: gpu_training.of_generator(scale.generator, scale.trained_tokens, scale.trained_clips),
    }
    return gpu_training.measure(makers, peak_tflops, compiles, scale.repeats // 4 or 1)


def sampling(scale: Scale, copy_gb_s: float | None) -> list[dict]:
    """A row for each number of slots: tokens a second in bf16, and the share of the limit that reading the weights and
    the written half of the cache sets at a copy's speed. They are of the second and third clip of each slot; what the
    first one takes more, for the weights to be laid out and a step to be recorded, is told apart."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = VideoGenerator(8192, [scale.sampled_level], 4, ["a"], **scale.generator).eval()
    config, new = model.config, 4 * (1 + scale.sampled_level)
    weights = 2 * (model.num_parameters() - model.embed_tokens.weight.numel())
    cache = 2 * 2 * config.width * config.depth * new / 2  # keys and values in bf16, of half of the tokens

    def took(slots: int, clips_a_slot: int) -> float:
        constraints = LengthConstraints([scale.sampled_level] * 4)
        requests = [ClipRequest(number, 0, constraints=constraints) for number in range(slots * clips_a_slot)]
        return gpu_seconds(lambda: sample_in_order(model, requests, SamplingOptions(), slots, HALF["bf16"]), repeats=1)

    rows = []
    for slots in scale.slots:
        once = took(slots, 1)
        a_clip = (took(slots, 3) - once) / 2
        row = {
            "slots": slots, "tokens_per_second": slots * new / a_clip, "milliseconds_a_step": 1e3 * a_clip / new,
            "seconds_to_begin": once - a_clip,
        }  # fmt: skip
        if copy_gb_s:
            row["share_of_limit"] = (weights + slots * cache) / (copy_gb_s * 1e9) / (a_clip / new)
        rows.append(row)
    return rows


def drawing(scale: Scale) -> list[dict]:
    """A row for each number of slots: microseconds that drawing their tokens takes, recorded as a graph, as torch's
    operations and as a Triton kernel, None where that does not work."""
    grammar, device = SequenceGrammar(8192, [scale.sampled_level], 4, 1), torch.device("cuda", 0)
    ways = {"torch": draw_in_torch, "triton": draw_in_triton}
    rows = []
    for options, count in product((SamplingOptions(), SamplingOptions(top_p=0.9)), scale.slots):
        logits = torch.randn(count, grammar.vocabulary_size, device=device)
        places = torch.ones(count, dtype=torch.int64, device=device)
        slots = Slots.empty(count, count, grammar, device)
        row: dict[str, Any] = {"slots": count, "top_p": options.top_p, "triton": None}
        for name, draw_all in ways.items():
            if name == "torch" or triton_draws(device, grammar.vocabulary_size, options):
                draws = partial(Replayed(device), partial(draw_all, logits, places, slots, grammar, options))
                draws()
                took = gpu_seconds(lambda draws=draws: [draws() for _ in range(scale.repeats)], scale.repeats)
                row[name] = 1e6 * took / scale.repeats
        rows.append(row)
    return rows


def search(scale: Scale) -> dict:
    """Every candidate of some clips, measured by their mean squared error, in bf16: seconds a clip."""
    torch.manual_seed(0)
    model = VideoTokenizer(**scale.tokenizer).cuda().eval()
    side, frames = model.config.resolution, model.config.num_frames
    video = torch.rand(scale.searched, 3, frames, side, side, device="cuda") * 2 - 1

    def error(blocks: Tensor, clips: Tensor, t: int) -> dict[str, Tensor]:
        step = model.config.temporal_patch
        return {"mse": (blocks - video[clips][:, :, t * step : (t + 1) * step]).square().flatten(1).mean(1)}

    searched = CandidateSearch(model, error)
    with torch.autocast("cuda", torch.bfloat16):
        took = gpu_seconds(lambda: searched.all_distances(video), repeats=1)
    return {"seconds_a_clip": took / scale.searched, "blocks_a_clip": searched.block_evaluations // 2 // scale.searched}


def same_as_cpu() -> dict[str, float]:
    """Shares of codes, in fp32 and bf16, and of sampled tokens, in fp32, that are the CPU's; small random models."""
    torch.manual_seed(0)
    model = VideoTokenizer(**TINY_TOKENIZER).eval()
    video = torch.rand(16, 3, 16, 32, 32) * 2 - 1
    lengths = model.assignments.random(16, torch.Generator().manual_seed(0))
    generator = VideoGenerator(64, [2, 8], 4, ["a"], 32, 2, 2).eval()
    requests = [ClipRequest(seed, 0) for seed in range(8)]
    codes, written = model.encode(video, lengths).codes, sample_in_order(generator, requests)
    model, generator, video = model.cuda(), generator.cuda(), video.cuda()

    def same(precision: str) -> float:
        with torch.autocast("cuda", HALF.get(precision), enabled=precision in HALF):
            return (model.encode(video, lengths).codes.cpu() == codes).double().mean().item()

    again = sample_in_order(generator, requests)
    equal = [len(a.codes) == len(b.codes) and bool((a.codes == b.codes).all()) for a, b in zip(written, again)]
    return {"codes_fp32": same("fp32"), "codes_bf16": same("bf16"), "clips_fp32": statistics.mean(map(float, equal))}
