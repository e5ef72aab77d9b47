"""Pictures of any shape through a tokenizer that has learnt squares: as square tiles that overlap, and are blended.

A tokenizer tells where things are by their place in the picture, so what it has learnt holds for the shape that it was
trained on: a clip of 84 × 64 pixels, encoded as one picture by a tokenizer of 64 × 64, comes back with 14 dB, and as
two tiles with 26.

Legend: C = 3 channels, f frames, h × w pixels of a picture, s × t of a tile, k tiles, n clips.
"""

import math
from itertools import product

import torch
from einops import rearrange
from torch import Tensor


def corners(length: int, tile: int) -> list[int]:
    """Where tiles of one side begin along a longer one: as few as cover it, at even distances."""
    count = math.ceil(length / tile)
    return [round(i * (length - tile) / max(count - 1, 1)) for i in range(count)]


def count(size: tuple[int, int], resolution: int) -> int:
    """k, as many as `places` lists."""
    return math.prod(math.ceil(length / min(length, resolution)) for length in size)


def places(size: tuple[int, int], resolution: int) -> list[tuple[slice, slice]]:
    """The k tiles of a picture (h, w), row by row, as (rows, columns): squares of `resolution`; where the picture is
    shorter than that, as short."""
    sides = [min(side, resolution) for side in size]
    rows, columns = (
        [slice(start, start + side) for start in corners(length, side)] for length, side in zip(size, sides)
    )
    return list(product(rows, columns))


def cut(clips: Tensor, resolution: int) -> Tensor:
    """(n, C, f, h, w) → the tiles of each clip, (n·k, C, f, s, t)."""
    found = places((clips.shape[-2], clips.shape[-1]), resolution)
    return torch.stack([clips[..., rows, columns] for rows, columns in found], dim=1).flatten(0, 1)


def merge(tiles: Tensor, size: tuple[int, int], resolution: int) -> Tensor:
    """What `cut` made of pictures (h, w) → (n, C, f, h, w). Where tiles overlap, each counts the more the farther a
    place is from its edge."""
    found = places(size, resolution)
    tiles = rearrange(tiles, "(n k) c f s t -> n k c f s t", k=len(found))
    if len(found) == 1:
        return tiles[:, 0]
    weight = _tent(tiles.shape[-2])[:, None] * _tent(tiles.shape[-1])  # (s, t)
    weight = weight.to(tiles)
    total = tiles.new_zeros(size)  # (h, w)
    merged = tiles.new_zeros(len(tiles), *tiles.shape[2:4], *size)  # (n, C, f, h, w)
    for (rows, columns), tile in zip(found, tiles.unbind(1)):
        merged[..., rows, columns] += tile * weight
        total[rows, columns] += weight
    return merged / total


def _tent(length: int) -> Tensor:
    rising = torch.arange(1, length + 1)
    return torch.minimum(rising, rising.flip(0)).float()
