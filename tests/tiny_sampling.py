"""Configs of `evagen sample` for tiny models."""

from pathlib import Path

from evagen.commands import sample
from evagen.config import check_config

CLASSES = ["ants", "bees"]
OPTIONS = {"guidance": 1.5, "top_p": 0.95}


def config_of(models: Path, out: Path, **changes) -> sample.Sampling:
    """models: a folder with `generator` and `tokenizer`."""
    values = {
        "run": {"out": str(out)},
        "generator": str(models / "generator"),
        "tokenizer": str(models / "tokenizer"),
        "clips_per_class": 3,
        "options": OPTIONS,
        "slots": 2,
        "formats": ["mkv"],
        **changes,
    }
    return check_config(sample.Sampling, values, "test")
