"""Two steps of every command at the quickstart's sizes on this machine's GPU, each in a process of its own, up to four
of them at once."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evagen.data.arcade import build_arcade

TRAININGS = {
    "fp32": ["run.mixed_precision=no"],
    "bf16": ["run.mixed_precision=bf16"],
    "checkpointing": ["run.mixed_precision=bf16", "run.gradient_checkpointing=true"],
    "compiled": ["run.mixed_precision=bf16", "run.compile=true"],
}
"""Ways in which a tokenizer and a generator are trained."""

RESUMED = "proxy resumed"
"""A job that is killed at its first checkpoint and begun again."""
AT_ONCE = 4
COUNTING = (
    "import runpy, torch; torch.cuda.set_sync_debug_mode('warn'); runpy.run_module('evagen', run_name='__main__')"
)
"""Runs `evagen` with a warning whenever the host waits for the device."""
WAITED = "called a synchronizing CUDA operation"


def jobs(root: Path) -> list[list[list[str]]]:
    """Groups that are run in turn, of jobs that may run at once: a name, and the arguments of `evagen`. Later ones use
    what earlier ones left in `root`."""

    def out(name: str) -> str:
        return f"run.out={root / name}"

    data = f"data.root={root / 'arcade'}"
    steps = ["optimizer.steps=2", "optimizer.warmup_steps=1", "run.log_every=1"]
    models = [f"tokenizer={root / 'learnt'}", f"router={root / 'router bf16'}"]

    def trainings(name: str, *arguments: str, ways: Iterable[str]) -> list[list[str]]:
        """The same command in several ways."""
        return [[f"{name} {way}", *arguments, out(f"{name} {way}"), *steps, *TRAININGS[way]] for way in ways]

    curation = ["curation", "curate", "quickstart/curation", out("curation"), data, models[0], "data.limit=8"]
    final = ["final", "train-tokenizer", "quickstart/final", out("final"), data, models[1], *steps]
    tokens = ["tokens", "tokenize", "quickstart/tokens", out("tokens"), data, *models]
    sampled = ["clips_per_class=2", f"generator={root / 'generator bf16'}", models[0]]
    proxy = ("proxy", "train-tokenizer", "quickstart/proxy", data)
    learnt = ["learnt", *proxy[1:], out("learnt"), "optimizer.steps=60", *TRAININGS["bf16"]]
    generator = ("generator", "train-generator", "quickstart/generator", f"corpus={root / 'tokens'}")
    at_once = ("fp32", "bf16", "checkpointing")
    resumed = [RESUMED, *proxy[1:], out(RESUMED), "optimizer.steps=60", "run.save_every=5"]
    return [
        [*trainings(*proxy, ways=at_once), learnt],
        [curation],
        trainings("router", "train-router", "quickstart/router", f"record={root / 'curation'}", ways=("fp32", "bf16")),
        [final, tokens],
        trainings(*generator, ways=at_once),
        [["samples", "sample", "quickstart/sample", out("samples"), *sampled], resumed],
        [*trainings(*proxy, ways=("compiled",)), *trainings(*generator, ways=("compiled",))],
    ]


def run_all() -> list[dict]:
    """A row for each, as `run_one` gives it."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        root = Path(folder)
        games = ["frogger", "frostbite", "skiing", "time_pilot"]
        build_arcade(root / "arcade", games, clips_per_game=8, size=64, test_fraction=0.25)
        return [row for group in jobs(root) for row in pool.map(run_one, group)]


def run_one(job: list[str]) -> dict:
    """A job's name, its seconds, start of the program included, how often the host waited for the device, and its
    error, if there was one."""
    name, *arguments = job
    started = time.perf_counter()
    if name == RESUMED:
        _kill_at_first_checkpoint(arguments)
    done = subprocess.run([sys.executable, "-W", "always", "-c", COUNTING, *arguments], capture_output=True, text=True)
    lines = done.stderr.strip().splitlines() or ["no message"]
    error = lines[-1][:200] if done.returncode else ""
    if name == RESUMED and "resuming" not in done.stdout:
        error = error or "began anew"
    row = {
        "command": name,
        "seconds": time.perf_counter() - started,
        "waits": sum(WAITED in line for line in lines),
        "error": error,
    }
    print(row, file=sys.stderr)  # lest a stop lose it
    return row


def _kill_at_first_checkpoint(arguments: list[str]) -> None:
    folder = next(Path(each.removeprefix("run.out=")) for each in arguments if each.startswith("run.out="))
    with subprocess.Popen(
        [sys.executable, "-m", "evagen", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and not list(folder.glob("checkpoints/step_*/complete")):
            time.sleep(0.05)
        process.kill()
