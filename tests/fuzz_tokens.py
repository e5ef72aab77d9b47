"""Damages token files in every way that it can think of, and opens them: python tests/fuzz_tokens.py COUNT [SEED].

Each is either refused with a `UserError` or gives as many frames of the size that its header says. Memory is bounded to
a gigabyte above what the interpreter has; what takes long is told.
"""

import contextlib
import json
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file
from tiny_models import random_clips, tiny_block_router, tiny_router, tiny_tokenizer

from evagen.commands import decode
from evagen.commands.info import main as info
from evagen.data.token_file import TokenFile, write_token_file
from evagen.errors import UserError
from evagen.tokenizer import AdaptiveTokenizer, LiveTokenizer, TokenizedVideo, VideoTokenizer

NASTY = (
    None, True, False, "", "4", "NaN", [], [1], {}, {"a": {"b": []}}, 0, -1, 1, 2, 3, 7, 8, 15, 16, 17, 33, 100_000,
    2**31 - 1, 2**31, 2**63, 10**30, 0.0, -0.5, 0.5, 1.5, 1e-9, 1e300, float("nan"), float("inf"), "x" * 2000,
    "\x1b[2J", "../../evil", "\ud800",
)  # fmt: skip
TYPES = ("I8", "I16", "I32", "I64", "U8", "F16", "BF16", "F32", "F64", "BOOL", "C64", "F8_E4M3", "nothing")
DECODED_WHOLE = 2**22
"""Pixels of all frames up to which all of them are decoded; of larger videos the first one."""


class Example:
    """A tokenizer, a token file of its own, and what is in it."""

    def __init__(self, memory_blocks: int | None):
        self.model: VideoTokenizer = tiny_tokenizer(memory_blocks=memory_blocks)
        video = random_clips(1, frames=19, height=40, width=70)[0]
        if memory_blocks:
            self.video: TokenizedVideo = LiveTokenizer(self.model, tiny_block_router()).encode(video)
        else:
            self.video = AdaptiveTokenizer(self.model, tiny_router()).encode(video)
        self.about = TokenFile.of(self.video, self.model, 25, "a.mp4")
        clips = self.video.tokens
        self.tensors = {"codes": clips.codes.int(), "lengths": clips.lengths.int()}

    def write(self, path: Path) -> None:
        write_token_file(path, self.video.tokens, self.about)


Damage = Callable[[random.Random, Example, Path], None]


def a_field(rng: random.Random, example: Example, path: Path) -> None:
    """Some fields of the header get other values, or are gone."""
    about = example.about.model_dump()
    for name in rng.sample(list(about), rng.choice((1, 1, 2, 3))):
        value = about.pop(name)
        if rng.random() < 0.9:
            near = isinstance(value, int) and rng.random() < 0.5
            about[name] = value + rng.randint(-3, 3) if near else rng.choice(NASTY)
    save_file(example.tensors, path, {"evagen": json.dumps(about)})


def the_json(rng: random.Random, example: Example, path: Path) -> None:
    """The header's text is damaged, nested, or says a thing twice."""
    text = example.about.model_dump_json()
    at = rng.randrange(len(text))
    text = rng.choice(
        (
            text[:at] + rng.choice('{}[],:"0eN-\\') + text[at:], text[:at] + text[at + 1 :], text[:at],
            f"[{text}]", "[" * rng.choice((10, 100_000)), '{"a":' * rng.choice((10, 9_000)), text[:-1] + ',"frames":1}',
            text + " " * rng.choice((10, 100_000)), "null", "",
        )
    )  # fmt: skip
    save_file(example.tensors, path, {"evagen" if rng.random() < 0.95 else "other": text})


def tensors(rng: random.Random, example: Example, path: Path) -> None:
    """Codes and lengths of other values, types, shapes, or gone."""
    found = {name: tensor.clone() for name, tensor in example.tensors.items()}
    name = rng.choice(list(found))
    tensor = found[name]
    match rng.randrange(6):
        case 0:
            tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice(
                (-1, 0, 1, 2, 4, 8, 63, 64, 2**31 - 1, -(2**31))
            )
        case 1:
            found[name] = tensor.to(rng.choice((torch.int64, torch.int16, torch.float32, torch.uint8, torch.bool)))
        case 2:
            found[name] = tensor[: rng.randrange(len(tensor))].clone()
        case 3:
            found[name] = rng.choice((tensor[None], tensor.view(-1), tensor[..., None], tensor.flip(0))).contiguous()
        case 4:
            found[name] = tensor.new_zeros(rng.choice(((0,), (0, 4), (2**40, 0), (1,), (), (4, 0, 2))))
        case _:
            del found[name]
    save_file(found, path, {"evagen": example.about.model_dump_json()})


def the_table(rng: random.Random, example: Example, path: Path) -> None:
    """What safetensors itself says of its tensors."""
    example.write(path)
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    table = json.loads(raw[8 : 8 + size])
    entry = table[rng.choice(("codes", "lengths"))]
    match rng.randrange(4):
        case 0:
            entry["dtype"] = rng.choice(TYPES)
        case 1:
            entry["shape"] = rng.choice(([], [1], [-1], [2**40], [2**31, 2**31], [2**63], [0], [1e9], "ab", None))
        case 2:
            entry["data_offsets"] = rng.choice(([0, 0], [0, 2**62], [4, 0], [-4, 8], [0], None, ["a", 4]))
        case _:
            del entry[rng.choice(list(entry))]
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])


def raw_bytes(rng: random.Random, example: Example, path: Path) -> None:
    """Any bytes of the file."""
    example.write(path)
    raw = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    at = rng.randrange(len(raw))
    chosen = rng.randrange(6)
    if chosen == 0:
        raw = raw[:at]
    elif chosen == 1:
        raw[at:at] = rng.randbytes(rng.randrange(1, 64))
    elif chosen == 2:
        raw[:8] = struct.pack("<Q", rng.choice((0, 1, 8, len(raw), 2**32, 2**63, 2**64 - 1)))
    path.write_bytes(raw)


DAMAGES: tuple[Damage, ...] = (a_field, the_json, tensors, the_table, raw_bytes)


def outcome(path: Path, example: Example) -> str:
    """`decoded` or `refused`; raises whatever else comes of opening a file, an AssertionError for a wrong result."""
    with contextlib.suppress(UserError):
        info(path)
    with (
        mock.patch.object(decode, "load_model", return_value=example.model),
        mock.patch.object(decode, "tokenizer_of", return_value="the example"),
        mock.patch.object(decode, "tqdm", lambda frames, **_: frames),
    ):
        try:
            opened = decode.open_tokens(path, None, 4, "fp32")
        except UserError:
            return "refused"
    about, count = opened.about, 0
    for frame in opened.frames:
        assert frame.shape == (about.height, about.width, 3)
        count += 1
        if about.frames * about.height * about.width > DECODED_WHOLE:
            return "decoded"
    assert count == about.frames
    return "decoded"


def run(count: int, seed: int, folder: Path) -> Counter:
    """Opens so many damaged files; how many were refused and decoded, by the kind of damage."""
    rng, found = random.Random(seed), Counter()
    examples, path = [Example(None), Example(2)], folder / "damaged.safetensors"
    for _ in range(count):
        damage, example = rng.choice(DAMAGES), rng.choice(examples)
        try:
            damage(rng, example, path)
        except (UnicodeEncodeError, RuntimeError):  # what safetensors does not write
            continue
        begun = time.monotonic()
        try:
            found[damage.__name__, outcome(path, example)] += 1
        except BaseException as error:
            kept = folder / f"crash_{found.total()}.safetensors"
            kept.write_bytes(path.read_bytes())
            raise AssertionError(f"the file is {kept}") from error
        found["slowest milliseconds", ""] = max(
            found["slowest milliseconds", ""], int(1000 * (time.monotonic() - begun))
        )
    return found


if __name__ == "__main__":
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**30, in_use + 2**30))
    torch.set_num_threads(1)
    for (kind, result), number in sorted(
        run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0, Path(tempfile.mkdtemp())).items()
    ):
        print(kind, result, number)
