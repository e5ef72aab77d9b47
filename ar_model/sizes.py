"""Named sizes of the generator, all of one shape: heads of 64 values (32 in the smallest), MLPs by Llama's rule."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Size(NamedTuple):
    """width D, depth in layers, heads, and millions of parameters with the vocabulary of UCF-101: 8,192 codes, 5
    levels, 101 classes, 3 others."""

    width: int
    depth: int
    num_heads: int
    millions: float


SIZES = {
    #                 D  layers  heads  millions
    "nano": Size(160, 5, 5, 4.4),  # the quickstart's
    "S": Size(384, 12, 6, 27.6),
    "B": Size(768, 12, 12, 97.7),  # LlamaGen's shape; 99M in the paper, "GPT-B"
    "L": Size(1024, 24, 16, 325.3),  # LlamaGen's shape; 327M in the paper
    "L-plus": Size(1280, 30, 20, 630.8),  # "GPT-L-plus" of EVATok, 633M; the shape is from public notes
    "XL": Size(1280, 36, 20, 752.7),
    "XXL": Size(1536, 48, 24, 1384.6),
}
"""Shapes of generators by name, from `nano` to `XXL`."""


def shape_of(name: str) -> dict[str, int]:
    """width, depth and num_heads of a size, as `VideoGenerator` takes them. Raises ValueError for an unknown one."""
    if name not in SIZES:
        raise ValueError(f"there is no size {name!r}; the sizes are {', '.join(SIZES)}")
    return {key: getattr(SIZES[name], key) for key in ("width", "depth", "num_heads")}


def with_shape(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a generator, to which those with a `size` get its shape.
    Raises ValueError where width, depth or num_heads is given too and is another."""
    name = settings.get("size")
    if name is None:
        return dict(settings)
    shape = shape_of(name)
    others = [f"{key}={settings[key]}" for key in shape if settings.get(key, shape[key]) != shape[key]]
    if others:
        means = ", ".join(f"{key}={value}" for key, value in shape.items())
        raise ValueError(f"size {name} means {means}, not {', '.join(others)}; give a size or a shape of your own")
    return {**settings, **shape}
