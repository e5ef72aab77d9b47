"""Kills tiny trainings of every stage at random moments, again and again, and compares what they leave with what
trainings leave that nobody disturbs.

    python tests/faults/soak.py SECONDS [SEED]          # or: make soak SECONDS=3600

Prints kills, resumes and differences, of which there should be none; the status is 1 where there are some.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
os.environ["OMP_NUM_THREADS"] = "1"  # a process with more threads cannot be forked

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny_corpus import write_corpus  # noqa: E402
from tiny_curation import made_up_record, routing, write_inputs  # noqa: E402

from evagen.commands import train_generator, train_router, train_tokenizer  # noqa: E402
from evagen.config import Section, check_config  # noqa: E402
from evagen.tokenizer.discriminators import PatchDiscriminator3D  # noqa: E402
from evagen.training.checkpoints import WEIGHTS  # noqa: E402
from evagen.training.metrics import read_metrics  # noqa: E402

PatchDiscriminator3D.__init__.__defaults__ = ((8, 8, 8, 8),)  # the usual ones would take most of a step
RUN = {"tracker": "none", "log_every": 3, "save_every": 4}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def tokenizer(root: Path, out: Path) -> Section:
    """With a discriminator, dead codes, an average, and batches that are gathered to steps."""
    values = {
        "run": {"out": out, **RUN},
        "data": {"root": root / "videos", "layout": "folder", "frames": 8, "size": 32, "crop": "random"},
        "model": {
            "levels": [1, 4], "encoder_width": 32, "encoder_depth": 1, "encoder_heads": 2, "decoder_width": 32,
            "decoder_depth": 1, "decoder_heads": 2, "codebook_size": 32, "code_width": 4,
        },
        "loss": {"adversarial": {"discriminator": "patch", "every": 2, "ramp_steps": 2, "lecam": 0.01}},
        "optimizer": {
            "steps": 14, "batch_size": 2, "accumulation": 2, "matrices": "muon", "learning_rate": 0.01,
            "ema_decay": 0.9,
        },
        "restart_codes_after": 3,
    }  # fmt: skip
    return check_config(train_tokenizer.TokenizerTraining, values, "soak")


def router(root: Path, out: Path) -> Section:
    optimizer = {"steps": 30, "batch_size": 4, "learning_rate": 0.001}
    return routing(root / "record", out, run={"out": str(out), **RUN}, optimizer=optimizer)


def generator(root: Path, out: Path) -> Section:
    """With dropout, whose numbers are torch's own."""
    values = {
        "run": {"out": out, **RUN},
        "corpus": root / "corpus",
        "model": {"width": 32, "depth": 2, "num_heads": 2, "hidden_width": 48, "residual_dropout": 0.2},
        "optimizer": {
            "steps": 40, "tokens_per_batch": 70, "accumulation": 2, "learning_rate": 0.01, "schedule": "wsd",
            "ema_decay": 0.9,
        },
    }  # fmt: skip
    return check_config(train_generator.GeneratorTraining, values, "soak")


STAGES: dict[str, tuple[Callable[[Path, Path], Section], Callable]] = {
    "tokenizer": (tokenizer, train_tokenizer.main),
    "router": (router, train_router.main),
    "generator": (generator, train_generator.main),
}


def started(work: Callable[[], object]) -> int:
    """The number of a forked process that does something, in silence. This one must not have trained itself."""
    process = os.fork()
    if process:
        return process
    status, aloud = 1, os.dup(sys.stderr.fileno())
    try:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        work()
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except KeyboardInterrupt:  # before the training took the signal for its own
        status = 130
    except BaseException:
        os.write(aloud, traceback.format_exc().encode())
    finally:
        os._exit(status)


def is_done(process: int, seconds: float | None = None) -> bool:
    """Waits for a process, at most so long. Raises RuntimeError for one that failed."""
    until = time.monotonic() + (seconds if seconds is not None else 1e9)
    while time.monotonic() < until:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            if os.waitstatus_to_exitcode(status):
                raise RuntimeError(f"a training ended with status {os.waitstatus_to_exitcode(status)}")
            return True
        time.sleep(0.005)
    return False


def prepare(root: Path) -> None:
    write_inputs(root)
    made_up_record(root)
    write_corpus(root / "corpus", num_clips=30)


def outcome(out: Path) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """The weights and the log, without times."""
    log = [{key: value for key, value in line.items() if key != "clips_per_second"} for line in read_metrics(out)]
    return load_file(out / WEIGHTS), log


def is_same(out: Path, other: Path) -> bool:
    (mine, my_log), (theirs, their_log) = outcome(out), outcome(other)
    return my_log == their_log and all(torch.equal(mine[name], theirs[name]) for name in theirs)


def soak(root: Path, seconds: float, seed: int) -> Counter[str]:
    """Each stage in turn, until the time is over and every stage was killed. Counts kills, by signal, and the rest."""
    draws, counts = random.Random(seed), Counter[str]()
    is_done(started(lambda: prepare(root)))
    took: dict[str, float] = {}
    for name, (make, main) in STAGES.items():
        begin = time.monotonic()
        is_done(started(lambda make=make, main=main, name=name: main(make(root, root / f"{name}_straight"))))
        took[name] = time.monotonic() - begin
    until = time.monotonic() + seconds
    while time.monotonic() < until or not all(counts[f"killed {name}"] for name in STAGES):
        for name, (make, main) in STAGES.items():
            out = root / f"{name}_killed"
            shutil.rmtree(out, ignore_errors=True)
            while True:
                process = started(lambda make=make, main=main, out=out: main(make(root, out)))
                if is_done(process, draws.uniform(0, 1.2) * took[name]):
                    break
                number = draws.choice(SIGNALS)
                os.kill(process, number)
                os.waitpid(process, 0)
                counts[number.name] += 1
                counts[f"killed {name}"] += 1
            counts["trainings"] += 1
            counts["differences"] += not is_same(out, root / f"{name}_straight")
    return counts


def main() -> None:
    seconds, seed = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        counts = soak(Path(folder), seconds, seed)
    signals = ", ".join(f"{counts[name]} {name}" for name in sorted({each.name for each in SIGNALS}))
    kills = sum(counts[name] for name in {each.name for each in SIGNALS})
    stages = ", ".join(f"{counts[f'killed {name}']} of a {name}" for name in STAGES)
    print(
        f"{kills} kills ({signals}; {stages}), {kills} resumes, {counts['trainings']} trainings, "
        f"{counts['differences']} differences"
    )
    sys.exit(bool(counts["differences"]))


if __name__ == "__main__":
    main()
