"""The router: one look at a clip, and a preference, give the assignment (EVATok §3.3).

Legend: B clips, C = 3 channels, F frames, H × W pixels, T temporal blocks, A candidate assignments.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from evagen.kernels.levels import check_range_where_it_costs_nothing
from evagen.kernels.registered import register_to_config
from evagen.kernels.sources import FromAnywhere
from evagen.kernels.transfer import send
from evagen.tokenizer.assignments import AssignmentSpace
from evagen.tokenizer.reward import PREFERENCE_RANGE, ScaleName, checked_range, preference_within

READINGS = 3
"""How often `assign_video` reads the video to find the preference for a budget."""
CHANGE_SCALE = 10.0
"""Brings mean changes, some hundredths, to the spread of the pixels."""
TRIED_AT_ONCE = 5
"""Preferences from low to high between which each reading narrows the range down."""


@dataclass(frozen=True)
class VideoAssignment:
    """The assignments of all clips of one video, and the dials that give them: `assign(clips, preference, max_tokens)`.

    lengths: int64 (B, T) on the CPU; max_tokens: None where no clip was bounded."""

    lengths: Tensor
    preference: float
    max_tokens: int | None

    @property
    def mean_tokens(self) -> float:
        """Of a clip."""
        return self.lengths.sum().item() / len(self.lengths)


class LinearPatchEmbed(nn.Module):
    """timm's patch embedding as a linear layer, with the same weights: convolutions that do not overlap, over more than
    three channels, are slow on a CPU, and a linear layer can be packed (`packed_linear`)."""

    def __init__(self, embed: PatchEmbed):
        super().__init__()
        self.patch_size = embed.patch_size
        weight = embed.proj.weight.detach().flatten(1)  # (D, c·p·q)
        self.proj = nn.Linear(weight.shape[1], weight.shape[0], device="meta")  # without drawing weights
        self.proj.weight, self.proj.bias = nn.Parameter(weight), embed.proj.bias

    def forward(self, x: Tensor) -> Tensor:
        p, q = self.patch_size
        return self.proj(rearrange(x, "b c (y p) (x q) -> b (y x) (c p q)", p=p, q=q))  # (B, n, D)


def router_features(video: Tensor, temporal_patch: int, downscale: int) -> Tensor:
    """What the router sees of clips, (B, C, F, H, W) in [-1, 1] → (B, (C + 1)·f + T - 1, H/s, T·W/s).

    The T blocks of a clip lie side by side. The channels are a block's f frames; how much each differs from the one
    before it, |x_f - x_(f-1)|; and how much the block's mean differs from that of the block before it, of the one
    before that, and so on, with zeros where there is none. All are averaged over squares of s pixels, differences after
    the absolute value, which a linear patch embedding cannot compute: what earlier blocks have shown already, the
    decoder can copy, and it costs a block few tokens.

    Args:
        temporal_patch: f, frames of a block.
        downscale: s, side of the squares."""
    num_blocks = video.shape[2] // temporal_patch
    frames = F.avg_pool2d(video.flatten(1, 2), downscale)  # (B, C·F, H/s, W/s)
    parts = [rearrange(frames, "b (c t f) h w -> b (c f) h (t w)", t=num_blocks, f=temporal_patch)]
    means = rearrange(video, "b c (t f) h w -> b c t f h w", t=num_blocks).mean(3)  # (B, C, T, H, W)
    for series, back in [(video, 1), *((means, back) for back in range(1, num_blocks))]:
        change = F.l1_loss(series[:, :, back:], series[:, :, :-back], reduction="none")  # one pass, without a copy
        if change.shape[2]:  # a clip of one frame has no change
            change = CHANGE_SCALE * F.avg_pool2d(change.mean(1), downscale)  # (B, F or T - back, H/s, W/s)
        else:
            change = frames[:, :0]  # (B, 0, H/s, W/s)
        change = F.pad(change, (0, 0, 0, 0, back, 0))  # (B, F or T, H/s, W/s)
        parts.append(rearrange(change, "b (t n) h w -> b n h (t w)", t=num_blocks))
    return torch.cat(parts, dim=1)


def mirrored(features: Tensor, num_blocks: int) -> Tensor:
    """Router features (B, c, h, T·w) → those of the clips' mirror images, left to right."""
    blocks = rearrange(features, "b c h (t w) -> b c h t w", t=num_blocks)
    return rearrange(blocks.flip(-1), "b c h t w -> b c h (t w)")


def make_vit(
    resolution: int,
    num_blocks: int,
    downscale: int,
    patch: int,
    channels: int,
    num_classes: int,
    width: int,
    depth: int,
    num_heads: int,
    drop_rate: float,
) -> VisionTransformer:
    """Untrained, for features of so many channels, of blocks side by side, and the preference's channel. Raises
    ValueError for a resolution that patches of averaged pixels do not divide, and a width that the heads do not."""
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"width {width} is not divisible by {num_heads} heads")
    if resolution % (downscale * patch):
        raise ValueError(
            f"frames of {resolution} pixels, averaged over {downscale}, do not divide into patches of {patch}"
        )
    vit = VisionTransformer(
        img_size=(resolution // downscale, num_blocks * resolution // downscale),
        patch_size=patch,
        in_chans=channels + 1,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=num_heads,
        drop_rate=drop_rate,
        proj_drop_rate=drop_rate,
    )
    vit.patch_embed = LinearPatchEmbed(vit.patch_embed)
    return vit


def with_preference(features: Tensor, preference: Tensor) -> Tensor:
    """A router's features (B, c, h, w) and a preference w_q for each (B,) → (B, c + 1, h, w): one more channel, which
    is constant."""
    if features.ndim != 4:
        raise ValueError(f"a router takes what its features(…) are, (B, c, h, w); got {tuple(features.shape)}")
    low, high = PREFERENCE_RANGE
    scaled = (preference.to(features) - low) / (high - low) * 2 - 1  # (B,)
    plane = scaled.view(-1, 1, 1, 1).expand(-1, 1, *features.shape[2:])  # (B, 1, h, w)
    return torch.cat([features, plane], dim=1)


class Router(FromAnywhere, ModelMixin, ConfigMixin):
    """A ViT classifier over all candidate assignments, conditioned on the preference w_q.

    It classifies the maps that `router_features` makes of clips, whose blocks lie side by side, so that timm's patch
    embedding is a tubelet embedding and its position embedding spans time and space. The preference is one more
    constant channel.

    Args:
        levels: candidate lengths of a block, those of the tokenizer it serves.
        num_frames, resolution, temporal_patch: shape of the clips, as in `VideoTokenizer`.
        downscale: side of the squares in pixels: lengths are decided by how much happens, not by detail, and looking
            should cost little beside encoding (EVATok §3.3).
        patch: height and width of the ViT's patches in pixels of the averaged frames.
        width, depth, num_heads: of the ViT.
        drop_rate: dropout before the head and on token embeddings, in training.
        reward_scale: of the rewards that it was trained on, which its preferences mean (`tokenizer.reward`).
        preference_range: the preferences that it is trained for, low and high. It is asked for no other.

    It learns by cross-entropy of `router(router.features(video), preference)` against `best_assignment` of the clips at
    the same preferences, which are drawn from `preference_range`. Attributes: this, and `assignments`, the
    `AssignmentSpace` of its classes.
    """

    part = "router"

    @register_to_config
    def __init__(
        self,
        levels: list[int],
        num_frames: int = 16,
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
        if num_frames % temporal_patch:
            raise ValueError(f"{num_frames} frames do not divide into blocks of {temporal_patch}")
        self.assignments = AssignmentSpace(levels, num_frames // temporal_patch)
        num_blocks = self.assignments.num_blocks
        channels, classes = 4 * temporal_patch + num_blocks - 1, self.assignments.count
        self.vit = make_vit(
            resolution, num_blocks, downscale, patch, channels, classes, width, depth, num_heads, drop_rate
        )

    def forward(self, features: Tensor, preference: Tensor) -> Tensor:
        """What `features` gives of clips (B, c, H/s, T·W/s), preference w_q (B,) → logits (B, A)."""
        return self.vit(with_preference(features, preference))

    def features(self, video: Tensor) -> Tensor:
        """What the ViT sees of clips beside the preference: (B, C, F, H, W) in [-1, 1] → (B, c, H/s, T·W/s)."""
        config = self.config
        if tuple(video.shape[1:]) != (3, config.num_frames, config.resolution, config.resolution):
            raise ValueError(
                f"this router looks at clips of shape (3, {config.num_frames}, {config.resolution}, "
                f"{config.resolution}) as (C, F, H, W); got {tuple(video.shape[1:])}"
            )
        return router_features(video.to(self.dtype), config.temporal_patch, config.downscale)

    @torch.no_grad()
    def assign(
        self, video: Tensor, preference: float = 1.2, max_tokens: int | None = None, prefix: Sequence[int] = ()
    ) -> Tensor:
        """The most probable assignment of each clip: (B, C, F, H, W) → lengths int64 (B, T) on the CPU.

        A clip's assignment does not depend on the others in the batch.

        Args:
            preference: w_q, the quality dial, within `preference_range`: 0.8 spends few tokens, 1.6 many.
            max_tokens: bound for each single clip: the assignment is the most probable among those within it,
            prefix: and among those whose first blocks have these lengths (EVATok §4.4: 512, 128 for given frames).

        Raises ValueError when no assignment is as short as `max_tokens`, or has the prefix, for a preference that the
        router was not trained for, and for videos of other shapes, or far out of [-1, 1] (on a CPU, where looking costs
        nothing)."""
        preference = preference_within(preference, self.preference_range)
        check_range_where_it_costs_nothing(video)
        allowed = self._allowed("max_tokens", max_tokens, prefix)  # (A,)
        logits = self._logits(self.features(video), preference)  # (B, A)
        if not allowed.all():
            logits = logits.masked_fill(~send(allowed, logits.device), -torch.inf)
        return self.assignments.lengths_of(logits.argmax(-1).cpu())

    @torch.no_grad()
    def assign_video(
        self,
        clips: Iterable[Tensor],
        mean_tokens: float,
        max_tokens: int | None = None,
        prefix: Sequence[int] = (),
    ) -> VideoAssignment:
        """Assignments of all clips of ONE video, on average at most `mean_tokens` a clip.

        One preference serves the whole video, so that tokens go to the clips that gain most from them: the largest
        in `preference_range` that keeps the average, found to 1/64 of the range. Where none keeps it, each clip is
        bounded too, by the largest bound that does; so the average is kept always. Unlike in `assign`, a clip's
        assignment does depend on the others: do not mix videos.

        The search is a bisection that tries several preferences in each reading of the video, because decoding a
        file again can cost more than looking again. It takes 3 readings and 11 looks of the ViT at each clip,
        which share nothing but the features, since the preference enters with it; 2 readings and 6 looks for a bound.

        Args:
            clips: the video in batches (B, C, F, H, W), gone through up to three times.
            mean_tokens: the budget.
            max_tokens, prefix: of each single clip, as in `assign`.

        Raises ValueError for a budget below the shortest assignment, for a prefix that none has, for no clips, and
        where the router was trained for one preference alone."""
        self._allowed("mean_tokens", mean_tokens, prefix)
        low, high = self.preference_range
        if low == high:
            raise ValueError(
                f"mean_tokens={mean_tokens} is met by a preference that spends it, and this router was trained for "
                f"{low:g} alone: give max_tokens, or a router trained with preference_range=[0.8,1.6]"
            )
        tried: dict[float, VideoAssignment] = {}
        for _ in range(READINGS):
            new = set(torch.linspace(low, high, TRIED_AT_ONCE, dtype=torch.float64).tolist()) - set(tried)
            for found in self._try(clips, [(preference, max_tokens) for preference in sorted(new)], prefix):
                tried[found.preference] = found
            within = [preference for preference, found in tried.items() if found.mean_tokens <= mean_tokens]
            if not within:
                return self._bounded(clips, low, mean_tokens, prefix)
            low = max(within)
            if low == self.preference_range[1]:
                break
            high = min(preference for preference in tried if preference > low)
        return tried[low]

    def _bounded(
        self, clips: Iterable[Tensor], preference: float, mean_tokens: float, prefix: Sequence[int]
    ) -> VideoAssignment:
        """With the largest bound on each clip that keeps the average; a larger bound never spends less."""
        possible = self.assignments.table()[self.assignments.starting_with(prefix)]
        tried = self._try(clips, [(preference, bound) for bound in possible.sum(-1).unique().tolist()], prefix)
        return [found for found in tried if found.mean_tokens <= mean_tokens][-1]

    def _try(
        self, clips: Iterable[Tensor], dials: list[tuple[float, int | None]], prefix: Sequence[int]
    ) -> list[VideoAssignment]:
        """The video's assignments with each (preference, max_tokens), from one reading."""
        allowed = torch.stack([self._allowed("max_tokens", max_tokens, prefix) for _, max_tokens in dials])  # (d, A)
        allowed = send(allowed, self.device)
        found = []
        for video in clips:
            check_range_where_it_costs_nothing(video)
            features = self.features(video)
            logits = {preference: self._logits(features, preference) for preference in {p for p, _ in dials}}
            every = torch.stack([logits[preference] for preference, _ in dials])  # (d, B, A)
            found.append(every.masked_fill(~allowed[:, None], -torch.inf).argmax(-1))  # (d, B)
        if not found:
            raise ValueError("no clips to assign; if they come from an iterator, put them into a list to be read again")
        lengths = self.assignments.lengths_of(torch.cat(found, 1).cpu())  # (d, B, T)
        return [VideoAssignment(each, *dial) for each, dial in zip(lengths, dials)]

    def _logits(self, features: Tensor, preference: float) -> Tensor:
        return self(features, torch.full((len(features),), preference, device=features.device))  # (B, A)

    def _allowed(self, name: str, tokens: float | None, prefix: Sequence[int]) -> Tensor:
        """Which assignments have the prefix and at most so many tokens: bool (A,). Raises ValueError where none has."""
        allowed, total = self.assignments.starting_with(prefix), self.assignments.table().sum(-1)  # (A,) each
        least = int(total[allowed].min())
        if tokens is not None and not tokens >= least:
            lengths = ", ".join(map(str, prefix))
            begun = f" that begins with {lengths}" if prefix else ""
            raise ValueError(
                f"{name}={tokens} cannot be met: a clip{begun} takes at least {least} tokens, "
                f"{self.assignments.levels[0]} for each of its {'other ' if prefix else ''}"
                f"{self.assignments.num_blocks - len(prefix)} temporal blocks"
            )
        return allowed if tokens is None else allowed & (total <= tokens)
