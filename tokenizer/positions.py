"""Where tokens stand: continuous coordinates in a clip and their Fourier features.

1D tokens and 3D patches share one coordinate system (block, row, column), so a token made by pooling
a region carries the region's place, whatever the assigned number of tokens.
"""

import functools
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


@functools.lru_cache(maxsize=256)
def nearest_cell(num_cells: int, grid: tuple[int, int]) -> Tensor:
    """Which of the `num_cells` cells that `grid_shape` makes over a grid is nearest to each cell of that grid, in units
    of the picture: int64 (rows*columns,). In whole numbers, so that a tie goes the same way everywhere."""
    cells = grid_shape(num_cells, *grid)
    y, x = (((2 * torch.arange(fine) + 1) * coarse) // (2 * fine) for fine, coarse in zip(grid, cells))
    return (y[:, None] * cells[1] + x[None, :]).flatten()


class Exact(nn.Module):
    """Constants in fp32 that move with the model and stay exact in one that is converted (`model.to(torch.bfloat16)`):
    only floating-point buffers are rounded, so these are kept as the integers that have their bits."""

    bits: Tensor

    def __init__(self, values: Tensor):
        super().__init__()
        self.register_buffer("bits", values.float().view(torch.int32), persistent=False)

    def forward(self) -> Tensor:
        return self.bits.view(torch.float32)


class FourierPosition(nn.Module):
    """Embeds (block, y, x) coordinates: sines and cosines at octave-spaced frequencies, then a linear map.

    Block numbers are taken as they are (0, 1, 2, …) and y, x lie in [0, 1].
    """

    def __init__(self, width: int, num_octaves: int = 6):
        super().__init__()
        # One block is about as far in time as an eighth of the picture is in space.
        self.scale = Exact(torch.tensor([0.125, 1.0, 1.0]))
        self.frequencies = Exact(math.pi * 2.0 ** torch.arange(num_octaves))
        self.project = nn.Linear(3 * 2 * num_octaves, width)

    def features(self, coordinates: Tensor) -> Tensor:
        """(N, 3) in fp32 as (block, y, x) → sines and cosines (N, 6 * octaves) in fp32, whatever the precision around
        them and of the weights."""
        with torch.autocast(coordinates.device.type, enabled=False):
            angles = (coordinates.float() * self.scale())[..., None] * self.frequencies()  # (N, 3, octaves)
            return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)  # (N, 6 * octaves)

    def forward(self, coordinates: Tensor) -> Tensor:
        """(N, 3) in fp32 as (block, y, x) → (N, width)."""
        return self.project(self.features(coordinates).to(self.project.weight.dtype))  # (N, width)


class Rotary(nn.Module):
    """Rotary position embedding (RoFormer, arXiv 2104.09864) over continuous (block, y, x) coordinates.

    A quarter of the pairs of a head turns with time, the rest with y and x in equal parts. Wavelengths are spaced
    evenly on a logarithmic scale.

    Args:
        head_width: of an attention head, even and at least 6.
        finest_blocks: shortest wavelength in time, in blocks; the longest is 16. Blocks are whole numbers, so nothing
            below 2 tells more than a longer wavelength does, and at 1 a pair turns full circle from block to block
            and tells nothing.
        finest: shortest wavelength of y and x, as a share of the picture; the longest is twice the picture.

    Raises ValueError for other head widths, and for wavelengths that are not positive.
    """

    def __init__(self, head_width: int, finest_blocks: float = 2.0, finest: float = 1 / 8):
        super().__init__()
        pairs = head_width // 2
        shares = [pairs - 2 * (3 * pairs // 8), 3 * pairs // 8, 3 * pairs // 8]  # block, y, x
        if head_width % 2 or min(shares) < 1:
            raise ValueError(f"heads must be of even width, at least 6; got {head_width}")
        if min(finest_blocks, finest) <= 0:
            raise ValueError(f"the finest wavelengths must be positive; got {finest_blocks} blocks and {finest}")
        frequencies = torch.zeros(3, pairs)
        start = 0
        for axis, (share, extent) in enumerate(zip(shares, (8.0, 1.0, 1.0))):
            shortest = finest_blocks / extent if axis == 0 else finest  # in extents
            wavelengths = 2 * (shortest / 2) ** (torch.arange(share) / max(share - 1, 1))  # 2 … shortest
            frequencies[axis, start : start + share] = 2 * math.pi / (wavelengths * extent)
            start += share
        self.frequencies = Exact(frequencies)

    def forward(self, coordinates: Tensor) -> Tensor:
        """(N, 3) as (block, y, x) → cosine and sine of the angle that each pair turns by, (N, 1, head_width / 2, 2)."""
        with torch.autocast(coordinates.device.type, enabled=False):  # half precision is no precision for an angle
            # In fp64 where there is one: a thousand blocks on, fp32 would miss an angle by 2e-4.
            exact = torch.float32 if coordinates.device.type == "mps" else torch.float64
            angles = coordinates.to(exact) @ self.frequencies().to(exact)  # (N, pairs)
        return torch.stack([angles.cos().float(), angles.sin().float()], dim=-1)[:, None]


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turns each pair of neighbouring values: x (N, h, d), rotation (N, 1, d / 2, 2) → (N, h, d)."""
    pairs = x.float().unflatten(-1, (-1, 2))  # (N, h, d / 2, 2)
    if torch.compiler.is_compiling():  # complex numbers are not compiled, and these operations become one
        (first, second), (cos, sin) = pairs.unbind(-1), rotation.unbind(-1)
        turned = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation))
    return turned.flatten(-2).to(x.dtype)
