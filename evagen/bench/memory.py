"""The memory of every long command over its time: each runs for half a minute or more in a process of its own, with the
models in the box, and what it holds in the first quarter of its work is compared with the last."""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from evagen.data.arcade import build_arcade

GAMES = ["boxing", "enduro", "freeway", "skiing"]
CLIPS_PER_GAME = 256
SECONDS_BETWEEN = 0.25
WARM = 0.35
"""Share of a command's time that is left out: programs start, and allocators find out how much they need."""


def run() -> dict[str, list[dict]]:
    """A row for each command: seconds, megabytes in the first and in the last quarter of its work, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        build_arcade(root / "arcade", GAMES, CLIPS_PER_GAME, size=64)
        return {"rows": [_watched(name, arguments) for name, arguments in _commands(root).items()]}


def _commands(root: Path) -> dict[str, list[str]]:
    """Arguments of `evagen` by name. Later ones use what earlier ones left in `root`."""
    data = f"data.root={root / 'arcade'}"
    models = ["tokenizer=evagen/arcade", "router=evagen/arcade"]

    def command(name: str, config: str, *arguments: str) -> list[str]:
        return [name, config, f"run.out={root / name}", *arguments]

    arcade = ["changes.dataset=arcade", "changes.size=64", "changes.split=test", "data.layout=ucf101", data]
    training = ["optimizer.steps=100", "optimizer.batch_size=4", "held_out.every=1000"]
    generator = [
        f"corpus={root / 'tokenize'}",
        "optimizer.steps=150",
        "optimizer.tokens_per_batch=1000",
        "samples.every=1000",
    ]
    return {
        "train-tokenizer": command("train-tokenizer", "box_arcade/proxy", data, *training),
        "curate": command("curate", "box_arcade/curation", data, models[0], "data.limit=48"),
        "tokenize": command("tokenize", "box_arcade/tokens", data, *models, "data.clip=random", "epochs=12"),
        "train-generator": command("train-generator", "box_arcade/generator", *generator),
        "sample": command("sample", "box_arcade/sample", "generator=evagen/arcade", models[0], "clips_per_class=12"),
        "benchmark": command("benchmark", "larp-ucf101-recon", *arcade, "detector=offline", *models),
    }


def _watched(name: str, arguments: list[str]) -> dict:
    """Raises RuntimeError with what the command said where it fails."""
    started, held = time.perf_counter(), []
    with tempfile.TemporaryFile() as said:
        running = psutil.Popen([sys.executable, "-m", "evagen", *arguments], stdout=said, stderr=said)
        while running.poll() is None:
            held.append(_megabytes(running))
            time.sleep(SECONDS_BETWEEN)
        if running.returncode:
            said.seek(0)
            raise RuntimeError(f"{name} failed: {said.read().decode(errors='replace')[-1000:]}")
    work = held[int(WARM * len(held)) : -1]
    quarter = len(work) // 4 or 1
    first, last = statistics.mean(work[:quarter]), statistics.mean(work[-quarter:])
    row = {
        "command": name,
        "seconds": time.perf_counter() - started,
        "first_mb": first,
        "last_mb": last,
        "ratio": last / first,
    }
    print(row, file=sys.stderr)  # lest a stop lose it
    return row


def _megabytes(running: psutil.Popen) -> float:
    try:
        return running.memory_info().rss / 1e6
    except psutil.Error:  # it has just ended
        return 0.0
