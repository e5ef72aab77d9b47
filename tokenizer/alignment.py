"""Alignment of the decoder with a video model's features (EVATok §3; V-JEPA 2, arXiv 2506.09985).

Two ways to bring both to one shape: `AlignmentLoss` takes the decoder's features to the teacher's width,
`TeacherAlignmentLoss` the teacher's to the decoder's width and grid, as published.

Legend: B clips, C = 3 channels, F frames, H × W pixels; T × Hp × Wp the decoder's grid of 3D queries and Dd its
width; Tt × Ht × Wt the teacher's grid and Dt its width; m, n cells that are merged and split along an axis.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import VJEPA2Model

from evagen.kernels.frozen import Frozen
from evagen.kernels.pretrained import as_network_input, height_width, load_pretrained

Grid = tuple[int, int, int]  # blocks or tubelets, rows, columns

VJEPA2_L = "facebook/vjepa2-vitl-fpc64-256"
"""Hub id of V-JEPA 2-L, which is the paper's; with which clip length and size the paper does not say."""


class VideoTeacher(nn.Module):
    """Features of a frozen V-JEPA 2 encoder (its L in EVATok).

    Frames are resized to the network's own height and width: its rotary positions hold for that grid alone. Their
    number is free. `width` is Dt. It has no parameters and an empty state dict.
    """

    def __init__(self, network: VJEPA2Model):
        super().__init__()
        self.network = Frozen(network)
        config = network.config
        self.width, self.tubelet = config.hidden_size, config.tubelet_size
        self.size, self.patch = height_width(config.crop_size), height_width(config.patch_size)

    def grid(self, num_frames: int) -> Grid:
        """(Tt, Ht, Wt) of clips of any height and width: (8, 16, 16) for 16 frames and the published networks.
        Raises ValueError for frames that the network's tubelets do not divide."""
        if num_frames % self.tubelet:
            raise ValueError(f"the number of frames must be a multiple of {self.tubelet}, got {num_frames}")
        return num_frames // self.tubelet, self.size[0] // self.patch[0], self.size[1] // self.patch[1]

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        """video (B, C, F, H, W) in [-1, 1] → features (B, Tt, Ht, Wt, Dt).
        Raises ValueError for frames that the network's tubelets do not divide, and for another layout."""
        frames = as_network_input(video, self.size)  # (B, F, C, h, w)
        _, height, width = self.grid(frames.shape[1])
        tokens = self.network(frames, skip_predictor=True).last_hidden_state  # (B, Tt·Ht·Wt, Dt)
        return rearrange(tokens, "b (t y x) d -> b t y x d", y=height, x=width)  # (B, Tt, Ht, Wt, Dt)


class AlignmentLoss(nn.Module):
    """1 - cosine of the projected decoder feature and the teacher's feature, patch by patch (λ = 0.7 in the paper).
    Not as published: the projection is on the decoder's side and linear.

    The projection, a linear map from Dd to Dt, is trained with the tokenizer and left behind afterwards.

    Args:
        decoder_width: Dd.
        target_width: Dt, `VideoTeacher.width`.
    """

    def __init__(self, decoder_width: int, target_width: int):
        super().__init__()
        self.projection = nn.Linear(decoder_width, target_width)

    def forward(self, decoder_features: Tensor, teacher_features: Tensor) -> Tensor:
        """decoder_features (B, T, Hp, Wp, Dd), teacher_features (B, Tt, Ht, Wt, Dt) → scalar in [0, 2].
        Raises ValueError for another layout. The teacher's grid is brought to the decoder's."""
        check_features(decoder_features, teacher_features)
        grid = decoder_features.shape[1:4]
        target = resize_grid(teacher_features.detach(), (grid[0], grid[1], grid[2]))  # (B, T, Hp, Wp, Dt)
        projected = self.projection(decoder_features)  # (B, T, Hp, Wp, Dt)
        return (1 - F.cosine_similarity(projected.float(), target.float(), dim=-1)).mean()  # ()


class TeacherAlignmentLoss(nn.Module):
    """-cosine of the decoder feature and φ(the teacher's feature), patch by patch (EVATok §3.1, eq. 1; λ = 0.7).

    φ is an MLP between two rearrangements, and nothing is averaged away where one grid divides the other. Along an axis
    on which the teacher has m cells for one of the decoder, these m are put end to end before the MLP: V-JEPA 2 has 2
    tubelets in a block of 4 frames. Along one on which the decoder has n for one of the teacher, the MLP makes n
    features, which are laid out as a patch is into pixels (depatchify). Rows and columns that fit neither way are
    resized to the decoder's first.

    Left open by the paper and chosen here: the order of the two, two linear layers with a GELU, the inner as wide as
    their input. φ is trained with the tokenizer and left behind afterwards.

    Args:
        decoder_width: Dd.
        target_width: Dt, `VideoTeacher.width`.
        decoder_grid: (T, Hp, Wp).
        teacher_grid: (Tt, Ht, Wt), from `VideoTeacher.grid`.

    Raises ValueError where neither of T and Tt divides the other.
    """

    def __init__(self, decoder_width: int, target_width: int, decoder_grid: Grid, teacher_grid: Grid):
        super().__init__()
        have, want = teacher_grid, decoder_grid
        if have[0] % want[0] and want[0] % have[0]:
            raise ValueError(
                f"the teacher's {have[0]} tubelets cannot be shared out evenly among {want[0]} temporal blocks; use "
                "blocks of another number of frames, or project the decoder's features"
            )
        rows, columns = (h if h % w == 0 or w % h == 0 else w for h, w in zip(have[1:], want[1:]))
        self.decoder_grid, self.teacher_grid, self.resized = want, have, (have[0], rows, columns)
        self.merged = [max(1, h // w) for h, w in zip(self.resized, want)]  # m of each axis
        self.split = [max(1, w // h) for h, w in zip(self.resized, want)]  # n of each axis
        inner = target_width * math.prod(self.merged)
        self.mlp = nn.Sequential(
            nn.Linear(inner, inner), nn.GELU(), nn.Linear(inner, decoder_width * math.prod(self.split))
        )

    def forward(self, decoder_features: Tensor, teacher_features: Tensor) -> Tensor:
        """decoder_features (B, T, Hp, Wp, Dd), teacher_features (B, Tt, Ht, Wt, Dt) → scalar in [-1, 1].
        Raises ValueError for another layout and for other grids than those that φ was made for."""
        check_features(decoder_features, teacher_features)
        grids = tuple(decoder_features.shape[1:4]), tuple(teacher_features.shape[1:4])
        if grids != (self.decoder_grid, self.teacher_grid):
            raise ValueError(
                f"grids should be {self.decoder_grid} and {self.teacher_grid}, not {grids[0]} and {grids[1]}"
            )
        projected = self.project(teacher_features.detach())  # (B, T, Hp, Wp, Dd)
        return -F.cosine_similarity(decoder_features.float(), projected.float(), dim=-1).mean()  # ()

    def project(self, teacher_features: Tensor) -> Tensor:
        """φ: (B, Tt, Ht, Wt, Dt) → (B, T, Hp, Wp, Dd)."""
        cells = resize_grid(teacher_features, self.resized)  # (B, Tt, Hr, Wr, Dt)
        mt, my, mx = self.merged
        nt, ny, nx = self.split
        joined = rearrange(cells, "b (t mt) (y my) (x mx) d -> b t y x (mt my mx d)", mt=mt, my=my, mx=mx)
        features = self.mlp(joined)  # (B, T / nt, Hp / ny, Wp / nx, nt·ny·nx·Dd)
        return rearrange(features, "b t y x (nt ny nx d) -> b (t nt) (y ny) (x nx) d", nt=nt, ny=ny, nx=nx)


def check_features(decoder_features: Tensor, teacher_features: Tensor) -> None:
    """Raises ValueError unless both are B T H W D of as many clips."""
    if decoder_features.ndim != 5 or teacher_features.ndim != 5 or len(decoder_features) != len(teacher_features):
        raise ValueError(
            "features should be B T H W D of the same clips, not "
            f"{tuple(decoder_features.shape)} and {tuple(teacher_features.shape)}"
        )


def resize_grid(features: Tensor, grid: Grid) -> Tensor:
    """features (B, Tt, Ht, Wt, D) → (B, *grid, D): averaged along the axes that shrink, where interpolation would
    skip cells, and interpolated along those that grow."""
    if features.shape[1:4] == grid:
        return features
    cells = features.movedim(-1, 1)  # (B, D, Tt, Ht, Wt)
    shrunk = [min(have, want) for have, want in zip(cells.shape[2:], grid)]
    cells = F.adaptive_avg_pool3d(cells, shrunk)  # (B, D, ≤ Tt, ≤ Ht, ≤ Wt)
    cells = F.interpolate(cells, grid, mode="trilinear", align_corners=False)  # (B, D, *grid)
    return cells.movedim(1, -1)  # (B, *grid, D)


def load_vjepa2(source: str | Path = VJEPA2_L) -> VJEPA2Model:
    """V-JEPA 2 from a hub id or a local folder. Raises FileNotFoundError and ValueError as `load_pretrained` does."""
    return load_pretrained(VJEPA2Model, source, VJEPA2_L)
