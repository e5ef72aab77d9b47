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

    scale: Tensor
    frequencies: Tensor

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


class Rotary(nn.Module):
    """Rotary position embedding (RoFormer, arXiv 2104.09864) over continuous (block, y, x) coordinates.

    A quarter of the pairs of a head turns with time, the rest with y and x in equal parts, at wavelengths
    from twice the clip's or picture's extent down to `finest` of it.
    """

    frequencies: Tensor

    def __init__(self, head_width: int, finest: float = 1 / 8):
        super().__init__()
        pairs = head_width // 2
        shares = [pairs - 2 * (3 * pairs // 8), 3 * pairs // 8, 3 * pairs // 8]  # block, y, x
        if head_width % 2 or min(shares) < 1:
            raise ValueError(f"heads must be of even width, at least 6; got {head_width}")
        frequencies = torch.zeros(3, pairs)
        start = 0
        for axis, (share, extent) in enumerate(zip(shares, (8.0, 1.0, 1.0))):
            wavelengths = 2 * (finest / 2) ** (torch.arange(share) / max(share - 1, 1))  # 2 … finest
            frequencies[axis, start : start + share] = 2 * math.pi / (wavelengths * extent)
            start += share
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, coordinates: Tensor) -> Tensor:
        """(N, 3) as (block, y, x) → unit complex numbers (N, 1, head_width / 2), to multiply pairs with."""
        with torch.autocast(coordinates.device.type, enabled=False):  # half precision is no precision for an angle
            angles = coordinates.float() @ self.frequencies.float()  # (N, pairs)
        return torch.polar(torch.ones_like(angles), angles)[:, None]


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turns each pair of neighbouring values: x (N, h, d), rotation (N, 1, d / 2) → (N, h, d)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # (N, h, d / 2)
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)
