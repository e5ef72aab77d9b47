"""The models that shipped configs train and build on, by the configs' names; built without memory for weights."""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from evagen.ar_model import VideoGenerator, shape_of
from evagen.config import read_header, read_values, shipped_configs
from evagen.data.sources import DataConfig
from evagen.tokenizer import BlockRouter, Router, VideoTokenizer


def build_model(name: str) -> nn.Module | None:
    """The model that a shipped config trains, on the meta device; None for a stage that trains none. The generator has
    no class tokens, which depend on the data."""
    command, tokenizer = read_header(shipped_configs()[name]).command, tokenizer_of(name)
    if command == "train-tokenizer":
        return tokenizer
    config = tokenizer.config
    settings = {**(read_shipped(name).get("model") or {}), "levels": list(config.levels)}
    if command == "train-router":
        remembers = config.memory_blocks is not None
        names = ("memory_blocks" if remembers else "num_frames", "resolution", "temporal_patch")
        shape = {key: config[key] for key in names}
        return _build(BlockRouter if remembers else Router, json.dumps(settings | shape))
    if command == "train-generator":
        blocks = read_shipped(name).get("blocks")
        vocabulary = {
            "codebook_size": config.codebook_size, "num_blocks": blocks or tokenizer.assignments.num_blocks,
            "endless": blocks is not None,
        }  # fmt: skip
        size = settings.pop("size", None)
        settings |= shape_of(size) if size else {}
        return _build(VideoGenerator, json.dumps(settings | vocabulary))
    return None


def tokenizer_of(name: str) -> VideoTokenizer:
    """The tokenizer that a config trains or builds on, on the meta device: what a config reads is what the config of
    that name in its folder writes."""
    values = read_shipped(name)
    if "model" in values and "data" in values:
        data = DataConfig.model_validate(values["data"])
        shape = {"num_frames": data.frames, "resolution": data.size}
        return _build(VideoTokenizer, json.dumps(values["model"] | shape))
    if "tokenizer_training" in values:
        return tokenizer_of(values["tokenizer_training"]["config"])
    values = values.get("memory", values)
    source = next(values[key] for key in ("tokenizer", "record", "corpus") if key in values)
    return tokenizer_of(f"{folder_of(name)}/{source.rpartition('/')[2]}")


@lru_cache
def read_shipped(name: str) -> dict[str, Any]:
    """The values of a shipped config, laid over its base."""
    return read_values(shipped_configs()[name])


def folder_of(name: str) -> str:
    """`ucf101_k600/final` → `ucf101_k600`."""
    return name.rpartition("/")[0]


@lru_cache
def _build(component: Callable[..., Any], arguments: str) -> Any:
    """Once for configs with the same model. arguments: as JSON."""
    with torch.device("meta"):
        return component(**json.loads(arguments))
