"""Untrained models that fit each other, real clips and a stub detector, for the tests of scoring."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from stub_i3d import StubI3D
from tiny_models import LEVELS, tiny_router, tiny_tokenizer

from evagen.ar_model import VideoGenerator
from evagen.commands.benchmark import main
from evagen.config import check_config
from evagen.data.arcade import build_arcade
from evagen.eval import get_protocol
from evagen.models.loading import fingerprint
from evagen.scoring.config import Benchmark
from evagen.scoring.record import Record, read_record

FRAMES = 16


def make_models(root: Path) -> Path:
    """`arcade` (12 training and 4 test clips of 16 frames, 32 pixels), `tokenizer`, `router`, `generator` for classes,
    `predictor` for 5 given frames, and `i3d.pt`, a stub."""
    build_arcade(root / "arcade", games=["boxing", "skiing"], clips_per_game=8, size=32, workers=1)
    tokenizer = tiny_tokenizer(num_frames=FRAMES)
    tokenizer.save_pretrained(root / "tokenizer")
    tiny_router(num_frames=FRAMES).save_pretrained(root / "router")
    shape = {"codebook_size": 64, "levels": LEVELS, "num_blocks": 4, "width": 32, "depth": 1, "num_heads": 2}
    known = {"tokenizer_fingerprint": fingerprint(tokenizer)}
    torch.manual_seed(0)
    VideoGenerator(**shape, **known, class_names=["Boxing", "Skiing"]).save_pretrained(root / "generator")
    VideoGenerator(**shape, **known, given_frames=5, num_given_blocks=2).save_pretrained(root / "predictor")
    torch.jit.script(StubI3D()).save(str(root / "i3d.pt"))
    return root


def stub(root: Path) -> dict[str, str]:
    """The config keys that choose the stub."""
    return {
        "detector_weights": str(root / "i3d.pt"),
        "detector_sha256": hashlib.sha256((root / "i3d.pt").read_bytes()).hexdigest(),
    }


def benchmark(root: Path, out: Path, protocol: str, changes: dict[str, Any] | None = None, **values: Any) -> Benchmark:
    """A config for Arcade at 32 pixels, with the stub unless another detector is named."""
    config = {
        "run": {"out": str(out)},
        "protocol": protocol,
        "changes": {"dataset": "arcade", "size": 32, **(changes or {})},
        "data": {"root": str(root / "arcade"), "layout": "ucf101"},
        "certainty": {"resamples": 3},
        **({"compare": {"network": "offline"}} if get_protocol(protocol).task == "reconstruction" else {}),
        "cache": str(out / "cache"),
        "batch_size": 4,
        "save_seconds": 0,
        **({} if "detector" in values else stub(root)),
        **{name: str(value) if isinstance(value, Path) else value for name, value in values.items()},
    }
    return check_config(Benchmark, config, "test")


def recon(root: Path, out: Path, **values: Any) -> Benchmark:
    """Of the first clip of each video, with the router."""
    return benchmark(
        root, out, "adaptok-ucf101-recon", **{"tokenizer": root / "tokenizer", "router": root / "router", **values}
    )


def gen(root: Path, out: Path, changes: dict[str, Any] | None = None, **values: Any) -> Benchmark:
    """Of eight clips for the classes of real ones."""
    models = {"generator": root / "generator", "tokenizer": root / "tokenizer"}
    changes = {"drawn": 8, **(changes or {})}
    return benchmark(root, out, "larp-ucf101-class2video", changes, **{**models, **values})


def score(config: Benchmark) -> Record:
    """What `evagen benchmark` finds."""
    return read_record(main(config))
