"""How fast clips become tokens and tokens become clips, at the quickstart's size and at the paper's.

Weights are random, so a router's choices would mean nothing: it is timed, and the clips are encoded with assignments
like those that trained routers give. Encoding is the router and the tokenizer's `encode` together.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from evagen.bench.timing import seconds_of
from evagen.config import find_config, read_values
from evagen.eval import PerceptualDistance
from evagen.kernels.packed_linear import pack_linears
from evagen.tokenizer import LossWeights, Router, VideoTokenizer, tokenizer_loss
from evagen.training.optimizers import adamw

WEIGHTS = LossWeights(l1=1.0, l2=1.0, perceptual=0.1)
FRAMES_COMPARED = 2
"""Frames of each clip that the perceptual term of a training step looks at."""


@dataclass(frozen=True)
class Preset:
    """A size to measure. name: in the results; make: its tokenizer and router, on the CPU; chosen: assignments as a
    router gives them, as numbers of levels, used in turn; clips: in a batch, by kind of device; repeats: of each
    measurement, half as many of training steps, likewise."""

    name: str
    make: Callable[[], tuple[VideoTokenizer, Router]]
    chosen: list[list[int]]
    clips: dict[str, int]
    repeats: dict[str, int]


def _quickstart() -> tuple[VideoTokenizer, Router]:
    tokenizer, router = (read_values(find_config(f"quickstart/{name}")) for name in ("proxy", "router"))
    shape = {"num_frames": tokenizer["data"]["frames"], "resolution": tokenizer["data"]["size"]}
    model = VideoTokenizer(**tokenizer["model"], **shape)
    levels = list(model.assignments.levels)
    return model, Router(levels, temporal_patch=model.config.temporal_patch, **router["model"], **shape)


def _small_base() -> tuple[VideoTokenizer, Router]:
    levels = [32, 64, 128, 256, 512]
    return VideoTokenizer(levels), Router(levels)


PRESETS = [
    # 67 tokens a clip on average, most of them for the first block, as in docs/results.md
    Preset(
        "quickstart", _quickstart, [[3, 0, 1, 0], [2, 0, 1, 0], [2, 0, 2, 0], [3, 0, 0, 0]],
        clips={"cpu": 8, "cuda": 128}, repeats={"cpu": 7, "cuda": 10},
    ),
    # 776 tokens a clip on average; published are 774 on UCF-101
    Preset(
        "s-b", _small_base, [[4, 2, 1, 1], [3, 3, 2, 2], [4, 1, 2, 1], [3, 3, 3, 0]],
        clips={"cpu": 1, "cuda": 32}, repeats={"cpu": 3, "cuda": 10},
    ),
]  # fmt: skip


def run() -> dict:
    """Keys: rows, a list with preset, device, encode_clips_per_second, decode_clips_per_second,
    train_clips_per_second, router_share (the router's part of the time to encode), clips_in_batch, tokens_per_clip,
    and the parameters of both in millions."""
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    return {"rows": [measure(preset, torch.device(device)) for preset in PRESETS for device in devices]}


def measure(preset: Preset, device: torch.device) -> dict:
    """One row. On CUDA under bf16 autocast, on a CPU in fp32."""
    torch.manual_seed(0)
    tokenizer, router = (pack_linears(model.to(device).eval()) for model in preset.make())
    clips, repeats = preset.clips[device.type], preset.repeats[device.type]
    shape = (3, tokenizer.config.num_frames, tokenizer.config.resolution, tokenizer.config.resolution)
    video = torch.rand(clips, *shape, device=device) * 2 - 1  # B C F H W
    batches = assignments(tokenizer, preset.chosen, clips)
    with _precision(device):
        router_seconds = _seconds(lambda _: router.assign(video), batches, repeats, device)
        encode_seconds = _seconds(lambda lengths: tokenizer.encode(video, lengths), batches, repeats, device)
        tokens = {id(lengths): tokenizer.encode(video, lengths) for lengths in batches}
        decode_seconds = _seconds(lambda lengths: tokenizer.decode(tokens[id(lengths)]), batches, repeats, device)
    train_seconds = _seconds(training_step(tokenizer, video), batches, max(1, repeats // 2), device)
    return {
        "preset": preset.name,
        "device": device.type,
        "encode_clips_per_second": clips / (router_seconds + encode_seconds),
        "decode_clips_per_second": clips / decode_seconds,
        "train_clips_per_second": clips / train_seconds,
        "router_share": router_seconds / (router_seconds + encode_seconds),
        "clips_in_batch": clips,
        "tokens_per_clip": torch.cat(batches).sum(1).double().mean().item(),
        "tokenizer_million": tokenizer.num_parameters() / 1e6,
        "router_million": router.num_parameters() / 1e6,
    }


def assignments(tokenizer: VideoTokenizer, chosen: list[list[int]], clips: int) -> list[Tensor]:
    """Batches of lengths (clips, T) in which every assignment occurs equally often."""
    lengths = torch.tensor(tokenizer.assignments.levels)[torch.tensor(chosen)]  # (·, T)
    return list(lengths.repeat(max(1, clips // len(chosen)), 1).split(clips))


def training_step(tokenizer: VideoTokenizer, video: Tensor) -> Callable[[Tensor], None]:
    """Forward, loss, backward and AdamW's update for a batch, as a function of its lengths."""
    tokenizer.train()
    optimizer = adamw(tokenizer.parameters(), lr=1e-4)
    perceptual = PerceptualDistance().to(video.device)
    perceptual.is_exact = False
    frames = torch.randperm(len(video) * video.shape[2])[: FRAMES_COMPARED * len(video)].to(video.device)

    def step(lengths: Tensor) -> None:
        with _precision(video.device):
            loss, _ = tokenizer_loss(tokenizer(video, lengths), video, WEIGHTS, perceptual, frames)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@contextmanager
def _precision(device: torch.device) -> Iterator[None]:
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        yield


def _seconds(work: Callable[[Tensor], object], batches: list[Tensor], repeats: int, device: torch.device) -> float:
    """The mean over the batches of the median time of each, after one call to warm up."""
    on_gpu = device.type == "cuda"
    work(batches[0])
    return statistics.mean(
        statistics.median(seconds_of(lambda some=lengths: work(some), on_gpu) for _ in range(repeats))
        for lengths in batches
    )
