"""Training on a GPU: clips a second, memory, and the share of the device's peak, as it is and compiled; and how many
clips a second the loader gives to it."""

import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from evagen.ar_model import VideoGenerator
from evagen.ar_model.loss import next_token_loss
from evagen.bench import loader
from evagen.bench import tokenizer as tokenizer_speed
from evagen.bench.timing import seconds_of, timed
from evagen.data.clips import ClipDataset
from evagen.data.loader import train_loader
from evagen.data.sources import DataConfig
from evagen.kernels.files import num_cores
from evagen.training.operations import TRAINED, generator_forward, tokenizer_forward
from evagen.training.optimizers import adamw

LOADED_BATCHES, WORKERS = 24, 16


@dataclass(frozen=True)
class Training:
    """A model and its step, for one number of batches; operations: of a step."""

    model: nn.Module
    step: Callable[[int], None]
    clips: int
    operations: float


def measure(
    makers: dict[str, Callable[[], Training]], peak_tflops: float | None, compiles: bool, repeats: int
) -> list[dict]:
    """A row for each of the named trainings, in bf16: as it is and, where torch can, compiled."""
    rows = []
    for name, make in makers.items():
        for compiled in (False, True)[: 1 + compiles]:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            training = make()
            if compiled:
                training.model.compile_repeated_blocks(dynamic=True)  # type: ignore[operator]
            took = _seconds_a_step(training.step, repeats)
            row = {
                "training": name + " compiled" * compiled,
                "clips_per_second": training.clips / took,
                "milliseconds": 1e3 * took,
                "tflops": training.operations / took / 1e12,
                "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9,
            }
            rows.append(row | ({"share_of_peak": row["tflops"] / peak_tflops} if peak_tflops else {}))
            print(rows[-1], file=sys.stderr)  # lest a stop lose it
            del training
    return rows


def _seconds_a_step(step: Callable[[int], None], repeats: int) -> float:
    """The median of groups of four steps, which the host may run ahead of, after two groups to warm up."""

    def four() -> None:
        for number in range(4):
            step(number)

    times = [seconds_of(four, on_gpu=True) / 4 for _ in range(2 + repeats)]
    return statistics.median(times[2:])


def of_tokenizer(preset: tokenizer_speed.Preset, clips: int) -> Training:
    """A tokenizer's training as its benchmark has it, on clips with lengths as a router gives them."""
    torch.manual_seed(0)
    model = preset.make()[0].cuda()
    side = model.config.resolution
    video = torch.rand(clips, 3, model.config.num_frames, side, side, device="cuda") * 2 - 1
    batches = tokenizer_speed.assignments(model, preset.chosen, clips)
    step = tokenizer_speed.training_step(model, video)
    operations = TRAINED * clips * tokenizer_forward(model, torch.cat(batches).sum(1).double().mean().item())
    return Training(model, lambda number: step(batches[number % len(batches)]), clips, operations)


def of_generator(shape: dict[str, int], tokens: int, clips: int) -> Training:
    """A generator's training on clips of about so many tokens."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = VideoGenerator(8192, [32], 4, ["a"], **shape)
    lengths = [tokens - 8 + n % 17 for n in range(clips)]
    sequence = torch.randint(8192, (sum(lengths),), device="cuda")
    optimizer = adamw(model.parameters(), lr=1e-4)

    def step(_: int) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = next_token_loss(model(sequence, lengths), sequence, lengths, model.grammar).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    operations = TRAINED * sum(generator_forward(model, n) for n in lengths)
    return Training(model, step, clips, operations)


def loading(batches: int = LOADED_BATCHES) -> dict[str, float]:
    """Clips a second of the training loader with 16 workers, or one for each core, on files like UCF-101's, in pinned
    memory."""
    workers = min(WORKERS, num_cores())
    with tempfile.TemporaryDirectory() as folder:
        for number in range(loader.FILES):
            loader.write_ucf_like(Path(folder) / f"{number}.avi", loader.FRAMES_PER_FILE, number, key_frames_every=12)
        data = {"root": folder, "layout": "folder", "frames": loader.CLIP_FRAMES, "size": loader.SIZE}
        dataset = ClipDataset(DataConfig.model_validate(data))
        loaded = iter(train_loader(dataset, 32, seed=0, num_workers=workers))
        for _ in islice(loaded, workers):  # what is made while the workers start
            pass
        seconds, clips = timed(lambda: sum(len(batch) for batch in islice(loaded, batches)))
        return {"workers": workers, "clips_per_second": clips / seconds}
