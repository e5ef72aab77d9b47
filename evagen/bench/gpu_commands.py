"""Two steps of every command at the quickstart's sizes on this machine's GPU, each in a process of its own."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from evagen.data.arcade import build_arcade

TRAININGS = {
    "fp32": ["run.mixed_precision=no"],
    "bf16": ["run.mixed_precision=bf16"],
    "checkpointing": ["run.mixed_precision=bf16", "run.gradient_checkpointing=true"],
    "compiled": ["run.mixed_precision=bf16", "run.compile=true"],
}
"""Ways in which a tokenizer and a generator are trained."""


def jobs(root: Path) -> list[list[str]]:
    """What is run in turn: a name, and the arguments of `evagen`. Later ones use what earlier ones left in `root`."""

    def out(name: str) -> str:
        return f"run.out={root / name}"

    data = f"data.root={root / 'arcade'}"
    steps = ["optimizer.steps=2", "optimizer.warmup_steps=1", "run.log_every=1"]
    models = [f"tokenizer={root / 'proxy bf16'}", f"router={root / 'router'}"]
    listed = [
        [f"proxy {way}", "train-tokenizer", "quickstart/proxy", out(f"proxy {way}"), data, *steps, *settings]
        for way, settings in TRAININGS.items()
    ]
    listed += [
        ["curation", "curate", "quickstart/curation", out("curation"), data, models[0], "data.limit=8"],
        ["router", "train-router", "quickstart/router", out("router"), f"record={root / 'curation'}", *steps],
        ["final", "train-tokenizer", "quickstart/final", out("final"), data, models[1], *steps],
        ["tokens", "tokenize", "quickstart/tokens", out("tokens"), data, *models],
    ]
    listed += [
        [f"generator {way}", "train-generator", "quickstart/generator", out(f"generator {way}"),
         f"corpus={root / 'tokens'}", *steps, *settings]
        for way, settings in TRAININGS.items()
    ]  # fmt: skip
    sampled = ["clips_per_class=2", f"generator={root / 'generator bf16'}", models[0]]
    return [*listed, ["samples", "sample", "quickstart/sample", out("samples"), *sampled]]


def run_all() -> list[dict]:
    """A row for each: its name, seconds, start of the program included, and its error, if there was one."""
    with tempfile.TemporaryDirectory() as folder:
        root, rows = Path(folder), []
        games = ["frogger", "frostbite", "skiing", "time_pilot"]
        build_arcade(root / "arcade", games, clips_per_game=8, size=64, test_fraction=0.25)
        for name, *arguments in jobs(root):
            started = time.perf_counter()
            done = subprocess.run([sys.executable, "-m", "evagen", *arguments], capture_output=True, text=True)
            lines = done.stderr.strip().splitlines() or ["no message"]
            error = lines[-1][:200] if done.returncode else ""
            rows.append({"command": name, "seconds": time.perf_counter() - started, "error": error})
        return rows
