"""A network with I3D's signature, small enough for a test."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StubI3D(nn.Module):
    """I3D's signature; its features are pixels, beside how it was called."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        called = torch.tensor([1.0 if rescale else 0.0, 1.0 if resize else 0.0, 1.0 if return_features else 0.0])
        if rescale:
            x = 2 * x.float() / 255 - 1
        if resize:
            x = F.interpolate(x, size=[x.shape[2], 224, 224], mode="trilinear")
        pixels = F.adaptive_avg_pool3d(x, (2, 8, 8)).flatten(1)  # (B, 384)
        rest = torch.zeros(x.shape[0], 400 - pixels.shape[1] - 3)
        return torch.cat([called.expand(x.shape[0], 3), pixels, rest], dim=1)
