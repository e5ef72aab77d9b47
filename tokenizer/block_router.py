"""The router of videos that go by: one block after another, it looks at the block, at what is new in it against each
block in memory, and at the lengths that these were given, and says the block's length.

The paper's router (EVATok §3.3) classifies a whole clip's assignments at once; lengths chosen block by block are its
autoregressive search, future work there (supplement G). A length depends on the past only, so a video can be encoded
while it is filmed.

Legend: B videos, C = 3 channels, f frames of a block, H × W pixels, M blocks in memory, L levels, T blocks.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor

from evagen.kernels.levels import check_range_where_it_costs_nothing
from evagen.kernels.registered import register_to_config
from evagen.kernels.sources import FromAnywhere
from evagen.tokenizer.assignments import AssignmentSpace
from evagen.tokenizer.reward import PREFERENCE_RANGE, ScaleName, checked_range, preference_within
from evagen.tokenizer.router import CHANGE_SCALE, make_vit, with_preference


def block_features(block: Tensor, before: Tensor, given: Tensor, memory: int, longest: int, downscale: int) -> Tensor:
    """What the router sees of blocks, (B, C, f, H, W) in [-1, 1] → (B, (C + 1)·f + 2·M, H/s, W/s).

    The channels are the block's frames; how much each differs from the one before it; how much the block's mean differs
    from that of each block in memory, the latest first; and the length that each of these was given, the same
    everywhere: log(1 + length) over that of the longest, 0 where there is no block. Frames and differences are averaged
    over squares of s pixels, differences after the absolute value (`router_features` says why).

    Args:
        before: (B, C, m·f, H, W), the blocks before it of which the memory holds, oldest first, m from 0 to M.
        given: int64 (B, m), their lengths.
        memory: M.
        longest: the highest level.
        downscale: s."""
    num_frames, num_before = block.shape[2], given.shape[1]
    frames = F.avg_pool2d(block.flatten(1, 2), downscale)  # (B, C·f, H/s, W/s)
    series = torch.cat([before[:, :, -1:] if num_before else block[:, :, :1], block], dim=2)  # (B, C, 1 + f, H, W)
    means = rearrange(before, "b c (m f) h w -> b c m f h w", f=num_frames).mean(3).flip(2)  # latest first
    new = (block.mean(2, keepdim=True) - means).abs().mean(1)  # (B, m, H, W)
    changes = torch.cat([(series[:, :, 1:] - series[:, :, :-1]).abs().mean(1), new], dim=1)  # (B, f + m, H, W)
    changes = CHANGE_SCALE * F.avg_pool2d(changes, downscale)
    lengths = given.flip(1).to(frames).log1p() / math.log1p(longest)  # (B, m)
    lengths = lengths[:, :, None, None].expand(-1, -1, *frames.shape[2:])
    missing = (0, 0, 0, 0, 0, memory - num_before)
    return torch.cat([frames, F.pad(changes, missing), F.pad(lengths, missing)], dim=1)


class BlockRouter(FromAnywhere, ModelMixin, ConfigMixin):
    """A ViT classifier over the levels of one block, conditioned on the preference w_q.

    Args:
        levels, memory_blocks, temporal_patch: of the tokenizer that it serves.
        resolution: height and width that it looks at in pixels.
        downscale, patch, width, depth, num_heads, drop_rate: as in `Router`.
        reward_scale, preference_range: as in `Router`.

    Attributes: `preference_range`; `assignments`, the `AssignmentSpace` of one block, whose lengths are its classes.
    """

    part = "router"

    @register_to_config
    def __init__(
        self,
        levels: list[int],
        memory_blocks: int,
        resolution: int = 128,
        temporal_patch: int = 4,
        downscale: int = 4,
        patch: int = 16,
        width: int = 448,
        depth: int = 7,
        num_heads: int = 7,
        drop_rate: float = 0.0,
        reward_scale: ScaleName = "min-max",
        preference_range: Sequence[float] = PREFERENCE_RANGE,
    ):
        super().__init__()
        self.preference_range = checked_range(preference_range)
        self.assignments = AssignmentSpace(levels, 1)
        channels = 4 * temporal_patch + 2 * memory_blocks
        self.vit = make_vit(resolution, 1, downscale, patch, channels, len(levels), width, depth, num_heads, drop_rate)

    def forward(self, features: Tensor, preference: Tensor) -> Tensor:
        """Block features (B, c, H/s, W/s), preference w_q (B,) → logits (B, L)."""
        return self.vit(with_preference(features, preference))

    def features(self, block: Tensor, before: Tensor, given: Tensor) -> Tensor:
        """`block_features` of blocks (B, C, f, H, W), of those before them (B, C, n·f, H, W) and their lengths (B, n),
        of which the last M count."""
        config = self.config
        if tuple(block.shape[1:]) != (3, config.temporal_patch, config.resolution, config.resolution):
            raise ValueError(
                f"this router looks at blocks of shape (3, {config.temporal_patch}, {config.resolution}, "
                f"{config.resolution}) as (C, f, H, W); got {tuple(block.shape[1:])}"
            )
        seen = min(given.shape[1], config.memory_blocks)
        block, before = (
            block.to(self.dtype),
            before[:, :, before.shape[2] - seen * config.temporal_patch :].to(self.dtype),
        )
        given = given[:, given.shape[1] - seen :].to(block.device)
        return block_features(block, before, given, config.memory_blocks, self.assignments.levels[-1], config.downscale)

    @torch.no_grad()
    def assign(
        self, video: Tensor, preference: float = 1.2, max_tokens: int | None = None, prefix: Sequence[int] = ()
    ) -> Tensor:
        """The most probable length of each block in turn: (B, C, F, H, W) → int64 (B, T) on the CPU.

        Args:
            preference: w_q, the quality dial, within `preference_range`: 0.8 spends few tokens, 1.6 many.
            max_tokens: of each block.
            prefix: lengths of the first blocks.

        Raises ValueError where no level is as short as `max_tokens`, or the prefix has none, for a preference that the
        router was not trained for, and for videos of other shapes, or far out of [-1, 1] (on a CPU, where looking costs
        nothing)."""
        preference = preference_within(preference, self.preference_range)
        check_range_where_it_costs_nothing(video)
        levels, step = torch.tensor(self.assignments.levels), self.config.temporal_patch
        self.assignments.check_levels(torch.tensor(prefix, dtype=torch.int64))
        too_long = self.too_long(max_tokens)
        blocks = video.split(step, dim=2)
        lengths = torch.tensor(prefix, dtype=torch.int64)[: len(blocks)].repeat(len(video), 1)  # (B, t)
        for number in range(lengths.shape[1], len(blocks)):
            seen = self.features(blocks[number], video[:, :, : number * step], lengths)
            logits = self(seen, torch.full((len(video),), preference, device=seen.device)).cpu()  # (B, L)
            chosen = levels[logits.masked_fill(too_long, -torch.inf).argmax(-1)]  # (B,)
            lengths = torch.cat([lengths, chosen[:, None]], dim=1)
        return lengths

    def too_long(self, max_tokens: int | None) -> Tensor:
        """Which levels are longer: bool (L,). Raises ValueError where all are."""
        levels = self.assignments.levels
        if max_tokens is not None and max_tokens < levels[0]:
            raise ValueError(f"max_tokens={max_tokens} cannot be met: a block takes at least {levels[0]} tokens")
        return torch.tensor([max_tokens is not None and level > max_tokens for level in levels])
