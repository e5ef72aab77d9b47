"""Where tokens stand: continuous coordinates in a clip and their Fourier features.

1D tokens and 3D patches share one coordinate system (block, row, column), so a token made by pooling
a region carries the region's place, whatever the assigned number of tokens.
"""

import math

import torch
from torch import Tensor, nn


def grid_shape(num_cells: int, height: int, width: int) -> tuple[int, int]:
    """The rows × columns of a grid with exactly `num_cells` cells, shaped as nearly as possible like
    height × width. Of two equally near the wider one: 32 cells over a square are 4 × 8."""
    target = math.log(height / width)
    shapes = [(rows, num_cells // rows) for rows in range(1, num_cells + 1) if num_cells % rows == 0]
    return min(shapes, key=lambda shape: (round(abs(math.log(shape[0] / shape[1]) - target), 9), shape[0]))


def cell_centres(rows: int, columns: int) -> Tensor:
    """Centres of a rows × columns grid over the unit square, row by row: (rows*columns, 2) as (y, x)."""
    y = (torch.arange(rows) + 0.5) / rows
    x = (torch.arange(columns) + 0.5) / columns
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flatten(0, 1)


class FourierPosition(nn.Module):
    """Embeds (block, y, x) coordinates: sines and cosines at octave-spaced frequencies, then a linear map.

    Block numbers are taken as they are (0, 1, 2, …) and y, x lie in [0, 1].
    """

    def __init__(self, width: int, num_octaves: int = 6):
        super().__init__()
        frequencies = math.pi * 2.0 ** torch.arange(num_octaves)
        # One block is about as far in time as an eighth of the picture is in space.
        self.register_buffer("scale", torch.tensor([0.125, 1.0, 1.0]), persistent=False)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.project = nn.Linear(3 * 2 * num_octaves, width)

    def forward(self, coordinates: Tensor) -> Tensor:
        """(N, 3) as (block, y, x) → (N, width)."""
        angles = (coordinates * self.scale)[..., None] * self.frequencies  # (N, 3, octaves)
        return self.project(torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2))  # (N, width)
