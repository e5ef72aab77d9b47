"""The router: one look at a clip, and a preference, give the assignment (EVATok §3.3).

Legend: B clips, C = 3 channels, F frames, H × W pixels, T temporal blocks, A candidate assignments.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tokenizer.assignments import AssignmentSpace
from tokenizer.reward import PREFERENCE_RANGE


class Router(ModelMixin, ConfigMixin):
    """A ViT classifier over all candidate assignments, conditioned on the preference w_q.

    The T blocks of a clip are laid side by side as one picture of H × (T·W) whose channels are a block's
    frames, so that timm's patch embedding is a tubelet embedding and its position embedding spans time
    and space. The preference is one more constant channel.

    Args:
        levels: candidate lengths of a block, those of the tokenizer it serves.
        num_frames, resolution, temporal_patch: shape of the clips, as in `VideoTokenizer`.
        patch: height and width of the ViT's patches in pixels.
        width, depth, num_heads: of the ViT.
        drop_rate: dropout before the head and on token embeddings, in training.
    """

    @register_to_config
    def __init__(
        self,
        levels: list[int],
        num_frames: int = 16,
        resolution: int = 128,
        temporal_patch: int = 4,
        patch: int = 16,
        width: int = 384,
        depth: int = 11,
        num_heads: int = 6,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        self.assignments = AssignmentSpace(levels, num_frames // temporal_patch)
        self.vit = VisionTransformer(
            img_size=(resolution, self.assignments.num_blocks * resolution),
            patch_size=patch,
            in_chans=3 * temporal_patch + 1,
            num_classes=len(self.assignments),
            embed_dim=width,
            depth=depth,
            num_heads=num_heads,
            drop_rate=drop_rate,
            proj_drop_rate=drop_rate,
        )

    def forward(self, video: Tensor, preference: Tensor) -> Tensor:
        """video (B, C, F, H, W) in [-1, 1], preference w_q (B,) → logits (B, A)."""
        config = self.config
        if tuple(video.shape[1:]) != (3, config.num_frames, config.resolution, config.resolution):
            raise ValueError(
                f"this router looks at clips of shape (3, {config.num_frames}, {config.resolution}, "
                f"{config.resolution}) as (C, F, H, W); got {tuple(video.shape[1:])}"
            )
        picture = rearrange(video, "b c (t f) h w -> b (c f) h (t w)", f=config.temporal_patch)  # (B, C·f, H, T·W)
        low, high = PREFERENCE_RANGE
        scaled = (preference.to(picture) - low) / (high - low) * 2 - 1  # (B,)
        plane = scaled.view(-1, 1, 1, 1).expand(-1, 1, *picture.shape[2:])  # (B, 1, H, T·W)
        return self.vit(torch.cat([picture, plane], dim=1))  # (B, A)

    @torch.no_grad()
    def assign(self, video: Tensor, preference: float = 1.2) -> Tensor:
        """The most probable assignment of each clip: (B, C, F, H, W) → lengths int64 (B, T) on the CPU."""
        logits = self(video, torch.full((len(video),), preference))  # (B, A)
        return self.assignments.lengths_of(logits.argmax(-1).cpu())
