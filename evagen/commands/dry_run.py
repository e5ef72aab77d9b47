"""`evagen COMMAND CONFIG --dry-run`: whether a shipped config can be carried out here, and what a step takes.

The command runs for real, at full size, on two random videos: two steps of a training, with a batch of one clip unless
`optimizer.batch_size` is overridden, or one clip of everything else. What the config reads of earlier stages is made
up: a tokenizer and a generator of the right shape with random weights, a record of random distances, a corpus of random
clips. Networks that losses look through have their published shapes and random weights, so nothing is downloaded.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from evagen.ar_model import VideoGenerator
from evagen.commands import COMMANDS, Command
from evagen.config import Section, shipped_configs
from evagen.data.clips import ClipDataset
from evagen.data.sources import DataConfig
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.memory import peak_memory
from evagen.models.loading import fingerprint
from evagen.tokenizer import AssignmentSpace, BlockRouter, Router, VideoTokenizer
from evagen.training.metrics import read_metrics
from evagen.training.shipped_models import build_model, read_shipped, tokenizer_of

NUM_VIDEOS = 2
BATCH = "optimizer.batch_size="
CLASSES = ["first", "second"]
SMALL = {
    "encoder_width": 32, "encoder_depth": 1, "encoder_heads": 2, "decoder_width": 32, "decoder_depth": 1,
    "decoder_heads": 2,
}  # fmt: skip
"""Of the tokenizer that makes a corpus for a generator's dry run."""


@dataclass(frozen=True)
class DryRun:
    """seconds: of a step, or of a clip; of_what: which of both; peak_gb: most memory of the process, and of the GPU if
    there is one; parameters: of the model that is trained, None where none is."""

    seconds: float
    of_what: str
    peak_gb: float
    gpu_peak_gb: float | None
    parameters: int | None

    def __str__(self) -> str:
        model = "" if self.parameters is None else f"{self.parameters / 1e6:.1f}M parameters, "
        gpu = "" if self.gpu_peak_gb is None else f", {self.gpu_peak_gb:.1f} GB on the GPU"
        return f"dry run: {model}{self.seconds:.3g} s a {self.of_what}, {self.peak_gb:.1f} GB{gpu}"


def main(command: Command, name: str, overrides: Sequence[str] = ()) -> DryRun:
    """Carries a shipped config out in little. Raises UserError for a config that is not shipped, and whatever the
    command itself raises."""
    try:
        model = build_model(name)
    except KeyError as error:
        raise UserError(
            f"--dry-run takes the name of a shipped config, such as ucf101_k600/final; got {name}"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        changes = _Inputs(name, Path(folder)).changes(command)
        if any(each.startswith(BATCH) and each != f"{BATCH}null" for each in overrides):
            changes = [each for each in changes if not each.startswith(BATCH)]
        if unused := [each for each in overrides if any(_overlap(_key(each), _key(change)) for change in changes)]:
            print(f"a dry run sets these itself, so they change nothing: {', '.join(unused)}", file=sys.stderr)
        config: Any = command.load(name, [*overrides, *changes])
        started = time.monotonic()
        command.run(config)
        seconds, out = time.monotonic() - started, config.run.out
        trains = (out / "metrics.jsonl").exists()
        batch = config.optimizer.batch_size if trains else 1
        if trains:  # the first step warms up
            seconds = batch / read_metrics(out)[-1]["clips_per_second"]
    gpu = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
    peak = peak_memory() / 1e9
    count = sum(parameter.numel() for parameter in model.parameters()) if model is not None else None
    of_what = f"step of {'one clip' if batch == 1 else f'{batch} clips'}" if trains else "clip"
    return DryRun(seconds, of_what, peak, gpu, count)


def _key(override: str) -> str:
    return override.partition("=")[0]


def _overlap(key: str, other: str) -> bool:
    """Whether one is the other, or lies in it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _two_steps(learns_tokens: bool) -> list[str]:
    """Of a training, with a batch of one clip."""
    changes = ["run.tracker=none", "run.log_every=1", "optimizer.steps=2", f"{BATCH}1"]
    changes += ["optimizer.accumulation=1", "optimizer.warmup_steps=0"]
    if learns_tokens:
        changes += ["optimizer.tokens_per_batch=null", "samples.every=0", "held_out.corpus=null", "held_out.best=null"]
    return changes + ([] if torch.cuda.is_available() else ["run.mixed_precision=no"])


class _Inputs:
    """What a config reads, made up in a folder."""

    def __init__(self, name: str, folder: Path):
        self.folder, self.name = folder, name
        self.predicts = name.rpartition("/")[2].startswith("prediction")
        self.shape = {key: value for key, value in tokenizer_of(name).config.items() if not key.startswith("_")}
        random = np.random.default_rng(0)
        self.remembers = self.shape["memory_blocks"] is not None
        frames = (read_shipped(each).get("data", {}).get("frames", 0) for each in (name, self._tokens_config()))
        side, frames = self.shape["resolution"], max(self.shape["num_frames"], *frames)
        for number, label in enumerate(CLASSES):
            path = folder / "videos" / label / f"{number}.mkv"
            path.parent.mkdir(parents=True)
            write_video(path, random.integers(0, 256, (frames, side, side, 3), np.uint8), 25)

    def changes(self, command: Command) -> list[str]:
        """Overrides of the config."""
        keys, shipped = command.schema_class().model_fields, read_shipped(self.name)
        changes = [f"run.out={self.folder / 'run'}"]
        if "num_workers" in (keys["run"].annotation or Section).model_fields:
            changes.append("run.num_workers=0")
        if "data" in keys:
            changes += self._data("data", [] if "optimizer" in keys else ["data.limit=1"])
        if "optimizer" in keys:
            changes += _two_steps(learns_tokens="corpus" in keys)
        if "start_from" in shipped:  # there is nothing trained to go on from
            changes.append("start_from=null")
        if "loss" in keys:
            changes += ["held_out.clips=0", "held_out.best=null", "loss.alignment.teacher=untrained"]
            changes += ["loss.adversarial.videomae=untrained", "loss.adversarial.start_step=0"]
        compared = {"compare": shipped.get("compare"), "loss.compare": shipped.get("loss", {}).get("compare")}
        for key, settings in compared.items():
            changes += [f"{key}.vgg16=untrained"] if (settings or {}).get("network") == "lpips" else []
        if "max_segments" in keys and not torch.cuda.is_available():  # fewer blocks at once, in less memory
            changes.append(f"max_segments={len(self.shape['levels'])}")
        if "slots" in keys:
            changes += self._one_clip()
        made = {"tokenizer": self._tokenizer, "router": self._router, "record": self._record, "corpus": self._corpus}
        made["generator"] = self._generator
        return changes + [f"{key}={make()}" for key, make in made.items() if key in keys and key in shipped]

    def _one_clip(self) -> list[str]:
        """Of sampling: a clip of a class, or one that goes on from given frames."""
        if not self.predicts:
            return ["clips_per_class=1", f"classes=[{CLASSES[0]}]"]
        given = self._data("given.data", ["given.data.limit=1"])
        return ["clips_per_class=1", *given, f"given.router={self._router()}"]

    def _data(self, key: str, more: list[str]) -> list[str]:
        settings = (f"root={self.folder / 'videos'}", "layout=folder", "split=all", "more=[]", "frames_per_second=null")
        return [f"{key}.{setting}" for setting in settings] + more

    def _tokens_config(self) -> str:
        """The config of the folder that makes the generator's corpus."""
        name = f"{self.name.rpartition('/')[0]}/{'prediction_' if self.predicts else ''}tokens"
        return name if name in shipped_configs() else self.name

    def _tokenizer(self) -> Path:
        return self._saved("tokenizer", lambda: VideoTokenizer(**self.shape))

    def _router(self) -> Path:
        kind, sees = (BlockRouter, "memory_blocks") if self.remembers else (Router, "num_frames")
        keys = ("levels", sees, "resolution", "temporal_patch")
        return self._saved("router", lambda: kind(**{key: self.shape[key] for key in keys}))

    def _saved(self, name: str, make: Any) -> Path:
        path = self.folder / name
        if not path.exists():
            make().save_pretrained(path)
        return path

    def _record(self) -> Path:
        """Distances that fall with the tokens, beside noise."""
        blocks = 2 if self.remembers else self.shape["num_frames"] // self.shape["temporal_patch"]
        space = AssignmentSpace(self.shape["levels"], blocks)
        tokens, folder = space.table().sum(-1).double(), self.folder / "curation"
        clips = DataConfig(
            root=self.folder / "videos", layout="folder", split="all", frames=blocks * self.shape["temporal_patch"],
            size=self.shape["resolution"], clip="first",
        )  # fmt: skip
        distances = [(1 / tokens + torch.rand(len(tokens)) / 1e4).numpy() for _ in range(NUM_VIDEOS)]
        rows = {"key": list(range(NUM_VIDEOS)), "label": [0, 1], "still_mse": [0.1] * NUM_VIDEOS}
        rows |= dict.fromkeys(("perceptual", "mse", "moving_mse"), distances)
        Dataset.from_dict(rows).save_to_disk(folder / "record")
        contents = {
            "tokenizer_source": "nowhere", "levels": list(space.levels), "num_blocks": space.num_blocks,
            "clips": clips.model_dump(mode="json"), "memory_blocks": self.shape["memory_blocks"],
        }  # fmt: skip
        made_from = {"videos": ClipDataset(clips).fingerprint(), "tokenizer": "0"}
        about = {"rows": NUM_VIDEOS, "skipped": [], "made_from": made_from, "contents": contents}
        (folder / "record" / "about.json").write_text(json.dumps(about), encoding="utf-8")
        return folder

    def _corpus(self) -> Path:
        """Clips of a small tokenizer with the same vocabulary."""
        small = self.folder / "small"
        VideoTokenizer(**self.shape | SMALL).save_pretrained(small)
        overrides = [
            f"run.out={self.folder / 'tokens'}", "run.num_workers=0", f"tokenizer={small}", f"router={self._router()}",
            *self._data("data", []), *(["given_frames=5"] if self.predicts else []),
        ]  # fmt: skip
        tokenize = COMMANDS["tokenize"]
        return tokenize.run(tokenize.load(self._tokens_config(), overrides))

    def _generator(self) -> Path:
        like = build_model(f"{self.name.rpartition('/')[0]}/{'prediction_' if self.predicts else ''}generator")
        assert like is not None
        settings = {key: value for key, value in like.config.items() if not key.startswith("_")}
        settings["tokenizer_fingerprint"] = fingerprint(VideoTokenizer.from_pretrained(self._tokenizer()))
        given = {"given_frames": 5, "num_given_blocks": -(-5 // self.shape["temporal_patch"])} if self.predicts else {}
        settings |= {"class_names": [] if self.predicts else CLASSES, **given}
        return self._saved("generator", lambda: VideoGenerator(**settings))
