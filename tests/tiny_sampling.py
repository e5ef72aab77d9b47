"""Configs of `evagen sample` for tiny models."""

from pathlib import Path

from tiny_road import sampling_config

from evagen.commands import sample

CLASSES = ["ants", "bees"]
OPTIONS = {"guidance": 1.5, "top_p": 0.95}


def config_of(models: Path, out: Path, **changes) -> sample.Sampling:
    """models: a folder with `generator` and `tokenizer`."""
    values = {"tokenizer": str(models / "tokenizer"), "options": OPTIONS, "formats": ["mkv"]}
    return sampling_config(models, out, **values | changes)


def given(models: Path, classes: list[str] | None = None, **changes) -> dict:
    """Videos to begin from. models: a folder with `videos` and `router`."""
    data = {
        "root": str(models / "videos"),
        "layout": "folder",
        "split": "all",
        "frames": 8,
        "size": 32,
        "clip": "first",
        "classes": classes,
    }
    return {"data": data, "router": str(models / "router"), **changes}
