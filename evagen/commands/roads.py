"""What a quickstart goes along: games that are recorded for it, or a folder of one's own videos."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evagen.commands import COMMANDS, Command
from evagen.config import find_config, read_header
from evagen.data.arcade import build_arcade
from evagen.data.clips import ClipDataset
from evagen.data.cut import HELD_OUT, cut_videos, plan_cuttings
from evagen.data.sources import DataConfig
from evagen.data.video_reader import frame_rate
from evagen.kernels.names import as_argument
from evagen.kernels.words import counted
from evagen.models.loading import load_model
from evagen.report.findings import format_duration
from evagen.tokenizer import VideoTokenizer

ARCADE = {
    "games": ["frogger", "frostbite", "skiing", "time_pilot"], "clips_per_game": 320, "size": 64, "seed": 0,
    "test_fraction": 0.1,
}  # fmt: skip


SECONDS_OF_EACH = 15
"""Of a minute that is shown: the four games, one after another."""
FRAMES_PER_SECOND = 15
MINUTE = 60


@dataclass(frozen=True)
class Road:
    """What differs between a quickstart on games and one on videos of one's own. configs: the folder of its configs;
    data: the folder of the data set in the run folder, `prepare` makes it there, and `typed` is what to type for that;
    minute: the videos, one after another, that are shown as a long one, of the data set that a tokenizer is trained on,
    in the run folder."""

    title: str
    configs: str
    data: str
    prepare: Callable[[Path], object]
    typed: Callable[[Path], str]
    minute: Callable[[Path, DataConfig], DataConfig]


def command_of(configs: str, name: str) -> Command:
    """The command that a shipped config is for."""
    return COMMANDS[read_header(find_config(f"{configs}/{name}")).command]


def shipped(configs: str, name: str) -> Any:
    """A shipped config, checked."""
    return command_of(configs, name).load(find_config(f"{configs}/{name}"))


def arcade_road() -> Road:
    """The four games."""

    def typed(data: Path) -> str:
        values = {key: ",".join(value) if isinstance(value, list) else value for key, value in ARCADE.items()}
        options = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in values.items())
        return f"evagen data arcade --out {as_argument(data)} {options}"

    def minute(out: Path, data: DataConfig) -> DataConfig:
        frames = SECONDS_OF_EACH * FRAMES_PER_SECOND
        build_arcade(out / "minute", ARCADE["games"], 1, frames, ARCADE["size"], ARCADE["seed"] + 1, test_fraction=0)
        return data.model_copy(update={"root": out / "minute", "frames": frames, "clip": "first"})

    return Road("evagen quickstart", "quickstart", "arcade", lambda data: build_arcade(data, **ARCADE), typed, minute)


PASSES = {
    "training": 1.3, "curation": 27.0, "router": 130.0, "tokens": 0.2, "generator": 0.3, "sample": 2.5, "scores": 8.0,
}  # fmt: skip
"""What stages cost, measured on a whole run: as many times what it takes to go through the tokenizer with one clip,
forward and backward. Of a training for each clip of a step, of the router for all of its training, otherwise for each
clip."""


def describe_plan(videos: Path, out: Path) -> str:
    """What there is to do with a folder of videos, but for the run folder `out`, and about how long it will take, which
    takes some seconds to find out. Raises UserError as `cut_videos` does."""
    proxy, curation, final, generator, sample = (
        shipped("quickstart_videos", name) for name in ("proxy", "curation", "final", "generator", "sample")
    )
    cuttings, *_ = plan_cuttings(videos, proxy.data.frames, proxy.data.size, without=[out])
    num_clips = sum(cutting.num_clips for cutting in cuttings)
    held_out = sum(cutting.num_clips for cutting in cuttings if cutting.held_out) or HELD_OUT * num_clips
    classes = len({cutting.class_name for cutting in cuttings})
    clips = {
        "training": sum(each.optimizer.steps * each.optimizer.batch_size for each in (proxy, final)),
        "curation": min(num_clips, curation.data.limit),
        "router": 1,
        "tokens": num_clips,
        "generator": generator.optimizer.steps * generator.optimizer.batch_size,
        "sample": classes * sample.clips_per_class,
        "scores": held_out + classes * sample.clips_per_class,
    }
    tokenizer = load_model(VideoTokenizer, proxy.start_from).requires_grad_(True)
    seconds = seconds_of_pass(tokenizer) * sum(PASSES[stage] * count for stage, count in clips.items())
    of = f"{counted(len(cuttings), 'video')}, {counted(num_clips, 'clip')} of {proxy.data.frames} frames"
    return f"{of}: about {format_duration(seconds)} on this machine"


def seconds_of_pass(tokenizer: VideoTokenizer) -> float:
    """Of one clip through a tokenizer, forward and backward."""
    config = tokenizer.config
    video = torch.rand(2, 3, config.num_frames, config.resolution, config.resolution) * 2 - 1
    lengths = tokenizer.assignments.uniform(tokenizer.assignments.levels[-2], len(video))
    for _ in range(2):  # the first one also makes itself ready
        begun = time.monotonic()
        tokenizer(video, lengths).reconstruction.square().mean().backward()
    return (time.monotonic() - begun) / len(video)


def road_of(videos: Path) -> Road:
    """A folder of one's own videos: all their clips. The run folder may lie in it, and is no part of it."""
    data = shipped("quickstart_videos", "proxy").data

    def minute(out: Path, data: DataConfig) -> DataConfig:
        first = ClipDataset(data.model_copy(update={"split": "test", "clip": "first"}))
        clips = max(1, round(MINUTE * frame_rate(first.paths[0]) / data.frames))  # a frame may take minutes
        return data.model_copy(update={"split": "test", "clip": "first", "limit": clips})

    return Road(
        f"evagen quickstart: {videos.resolve().name}", "quickstart_videos", "videos",
        lambda out: print(cut_videos(videos, out, data.frames, data.size, without=[out.parent]).describe()),
        lambda out: f"evagen data cut {as_argument(videos)} --out {as_argument(out)} "
        f"--frames {data.frames} --size {data.size}",
        minute,
    )  # fmt: skip
