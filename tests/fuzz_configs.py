"""Damages configs in every way that files are damaged, and counts what comes of it: a UserError, or a config.

python tests/fuzz_configs.py 2000 0      # how many, from which seed

Anything else is printed, with the seed that gives it again, and the status is 1."""

import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from evagen.commands.train_generator import GeneratorTraining
from evagen.commands.train_router import RouterTraining
from evagen.commands.train_tokenizer import TokenizerTraining
from evagen.config import Section, find_config, format_values, load_config, read_values, save_config
from evagen.errors import UserError

STARTS = {"quickstart/proxy": TokenizerTraining, "quickstart/final": TokenizerTraining,
          "quickstart/generator": GeneratorTraining, "quickstart/router": RouterTraining}  # fmt: skip
TEXTS = {name: format_values(read_values(find_config(name))) for name in STARTS}
SECONDS = 5
"""A config that takes longer hangs."""
ODD = [
    "0", "-1", "1e400", ".nan", ".inf", "-.inf", "9" * 30, "9" * 5000, "0x10", "007", "1:30", "1_000", "null", "~",
    "on", "no", "true", "2026-11-27", "''", '"\\0"', '"\\ud800"', "'x\ty'", "\t", "[]", "{}", "[[1]]", "{a: {b: c}}",
    "? [a]\n: b", "!!python/object/apply:os.system [true]", "!!python/name:os.system ''", "!!binary aGk=",
    "!!timestamp 2026-11-27", "!!set {a, b}", "!!omap [a: 1]", "!local x", "&a [*a]", "*nowhere", "<<: {x: 1}",
    "|\n  block", "- a\n- b", "a: b: c", "%TAG ! x", "---", "...", "@", "`", "#", "'", '"', "~/x", "$NOT_SET",
    "x" * 5000,
]  # fmt: skip
"""Values that a key may be given."""


def bomb(levels: int = 30) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)])


def merge_bomb(levels: int = 30) -> str:
    return "\n".join(
        ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}, *a{n - 1}]}}" for n in range(1, levels))]
    )


WHOLE: list[Callable[[random.Random], bytes]] = [
    lambda rng: bomb().encode(),
    lambda rng: merge_bomb().encode(),
    lambda rng: b"",
    lambda rng: b"# nothing\n",
    lambda rng: b"- a\n- b\n",
    lambda rng: b"word",
    lambda rng: rng.randbytes(rng.randrange(1, 3000)),
    lambda rng: rng.choice([b"[", b"{a: ", b"- ", b"? ", b"[[", b"a: {"]) * rng.choice([60, 2000, 50_000]),
    lambda rng: "".join(" " * n + f"k{n}:\n" for n in range(rng.choice([40, 60, 400]))).encode(),
    lambda rng: b"optimizer: {steps: 1}\n" * rng.choice([2, 20_000]),
    lambda rng: b"base: " + rng.choice(["damaged", "../{}/damaged", "x" * 5000, "[a]", "7", '"\\0"', "~/x"]).encode(),
    lambda rng: "\n".join(f"k{n}: {rng.choice(ODD)}" for n in range(5)).encode(errors="surrogatepass"),
    lambda rng: "run: {out: x}\n".encode(rng.choice(["utf-16", "utf-32", "utf-8-sig", "utf-7"])),
]
"""Texts that are not made from a config."""


def damage(text: str, rng: random.Random) -> bytes:
    """A config's text with one to four things wrong; or quite another."""
    if rng.random() < 0.2:
        return rng.choice(WHOLE)(rng)
    data = text.encode()
    for _ in range(rng.choice([1, 1, 2, 4])):
        lines = data.split(b"\n")
        at = rng.randrange(len(lines))
        kind = rng.randrange(8)
        if kind == 0:  # a value
            key, colon, _ = lines[at].partition(b":")
            lines[at] = key + colon + b" " + rng.choice(ODD).encode(errors="surrogatepass")
        elif kind == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif kind == 2:
            del lines[at]
        elif kind == 3:
            lines[at] = rng.choice([b"\t", b"  ", b"- ", b"? ", b": ", b"&a ", b"*a ", b"!!str ", b"!"]) + lines[at]
        elif kind == 4:
            lines.insert(at, rng.choice(ODD).encode(errors="surrogatepass"))
        data = b"\n".join(lines)
        place = rng.randrange(len(data) + 1)
        if kind == 5:
            data = data[:place]
        elif kind == 6:
            data = data[:place] + rng.randbytes(rng.randint(1, 4)) + data[place:]
        elif kind == 7 and data:
            place = min(place, len(data) - 1)
            data = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    return data


def try_one(seed: int, folder: Path) -> str:
    """`refused`, `read`, or what went wrong."""
    rng = random.Random(seed)
    name = rng.choice(list(STARTS))
    schema: type[Section] = STARTS[name]
    path = folder / "damaged.yaml"
    path.write_bytes(damage(TEXTS[name], rng))
    started = time.monotonic()
    try:
        config = load_config(schema, path)
        outcome = "read" if load_config(schema, save_config(config, folder / "again")) == config else "saved as another"
    except UserError as error:
        outcome = "refused" if len(str(error)) < 10_000 else "refused at length"
    except Exception:
        outcome = traceback.format_exc()
    return outcome if time.monotonic() - started < SECONDS else f"slow, {outcome}"


def fuzz(count: int, first: int) -> Counter[str]:
    """How often each outcome came of so many seeds from the first; those that are wrong have their seed before them."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + count):
            outcome = try_one(seed, Path(folder))
            outcomes[outcome if outcome in ("read", "refused") else f"seed {seed}: {outcome}"] += 1
    return outcomes


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))
    found = fuzz(int(sys.argv[1]), int(sys.argv[2]))
    for outcome, times in found.items():
        print(times, outcome)
    sys.exit(any(outcome not in ("read", "refused") for outcome in found))
