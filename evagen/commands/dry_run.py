"""`evagen COMMAND CONFIG --dry-run`: whether a shipped config can be carried out here, and what a step takes.

The command runs for real, at full size, on two random videos: two steps of a training with a batch of one clip, or one
clip of everything else. What the config reads of earlier stages is made up: a tokenizer and a generator of the right
shape with random weights, a record of random distances, a corpus of random clips. Networks that losses look through
have their published shapes and random weights, so nothing is downloaded.
"""

import json
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
    if command.name.startswith("study "):
        raise UserError(f"a study has no dry run; {name} is made of stages that have")
    with tempfile.TemporaryDirectory() as folder:
        changes = _Inputs(name, Path(folder)).changes(command)
        config = command.load(name, [*overrides, *changes])
        started = time.monotonic()
        command.run(config)
        seconds, out = time.monotonic() - started, config.run.out
        trains = (out / "metrics.jsonl").exists()
        if trains:  # the first step warms up
            seconds = 1 / read_metrics(out)[-1]["clips_per_second"]
    gpu = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
    peak = peak_memory() / 1e9
    count = sum(parameter.numel() for parameter in model.parameters()) if model is not None else None
    return DryRun(seconds, "step of one clip" if trains else "clip", peak, gpu, count)


class _Inputs:
    """What a config reads, made up in a folder."""

    def __init__(self, name: str, folder: Path):
        self.folder, self.name = folder, name
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
        fields = command.schema_class().model_fields
        found = [f"run.out={self.folder / 'run'}"]
        if "num_workers" in (fields["run"].annotation or Section).model_fields:
            found.append("run.num_workers=0")
        if "data" in fields:
            found += self._data("data", [] if "optimizer" in fields else ["data.limit=1"])
        if "given" in fields and self.name.rpartition("/")[2].startswith("prediction"):
            found += [*self._data("given.data", ["given.data.limit=1"]), f"given.router={self._router()}"]
        if "optimizer" in fields:
            found += ["run.tracker=none", "run.log_every=1", "optimizer.steps=2", "optimizer.batch_size=1"]
            found += ["optimizer.accumulation=1", "optimizer.warmup_steps=0"]
            found += ["optimizer.tokens_per_batch=null", "samples.every=0"] if "corpus" in fields else []
            found += ["held_out.corpus=null", "held_out.best=null"] if "corpus" in fields else []
            found += ["held_out.clips=0"] if "loss" in fields else []
            found += [] if torch.cuda.is_available() else ["run.mixed_precision=no"]
        values = read_shipped(self.name)
        found += ["start_from=null"] if "start_from" in values else []  # there is nothing trained to go on from
        for key, group in (("loss.compare", values.get("loss", {}).get("compare")), ("compare", values.get("compare"))):
            found += [f"{key}.vgg16=untrained"] if (group or {}).get("network") == "lpips" else []
        if "loss" in fields:
            found += ["loss.alignment.teacher=untrained", "loss.adversarial.videomae=untrained"]
            found += ["loss.adversarial.start_step=0"]
        if "max_segments" in fields and not torch.cuda.is_available():  # fewer blocks at once, in less memory
            found.append(f"max_segments={len(self.shape['levels'])}")
        if "slots" in fields:
            found += ["clips_per_class=1"] + ([] if "given" in " ".join(found) else [f"classes=[{CLASSES[0]}]"])
        made = {"tokenizer": self._tokenizer, "router": self._router, "record": self._record, "corpus": self._corpus}
        made["generator"] = self._generator
        reads = [key for key in made if key in fields and key in read_shipped(self.name)]
        return found + [f"{key}={made[key]()}" for key in reads]

    def _data(self, key: str, more: list[str]) -> list[str]:
        settings = (f"root={self.folder / 'videos'}", "layout=folder", "split=all", "more=[]", "frames_per_second=null")
        return [f"{key}.{setting}" for setting in settings] + more

    def _tokens_config(self) -> str:
        """The config of the folder that makes the generator's corpus."""
        folder, _, stage = self.name.rpartition("/")
        name = f"{folder}/{'prediction_' if stage.startswith('prediction') else ''}tokens"
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
        small, predicts = self.folder / "small", self.name.rpartition("/")[2].startswith("prediction")
        VideoTokenizer(**self.shape | SMALL).save_pretrained(small)
        overrides = [
            f"run.out={self.folder / 'tokens'}", "run.num_workers=0", f"tokenizer={small}", f"router={self._router()}",
            *self._data("data", []), *(["given_frames=5"] if predicts else []),
        ]  # fmt: skip
        tokenize = COMMANDS["tokenize"]
        return tokenize.run(tokenize.load(self._tokens_config(), overrides))

    def _generator(self) -> Path:
        folder, _, stage = self.name.rpartition("/")
        predicts = stage.startswith("prediction")
        like = build_model(f"{folder}/{'prediction_' if predicts else ''}generator")
        assert like is not None
        settings = {key: value for key, value in like.config.items() if not key.startswith("_")}
        settings["tokenizer_fingerprint"] = fingerprint(VideoTokenizer.from_pretrained(self._tokenizer()))
        given = {"given_frames": 5, "num_given_blocks": -(-5 // self.shape["temporal_patch"])} if predicts else {}
        settings |= {"class_names": [] if predicts else CLASSES, **given}
        return self._saved("generator", lambda: VideoGenerator(**settings))
