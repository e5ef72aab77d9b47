"""What every measure of a reconstruction asks of its two arguments."""

from torch import Tensor


def checked_pair(reconstruction: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
    """Videos `B 3 F H W`, both as float32 clipped to [-1, 1]. Raises ValueError for other shapes and for integers."""
    if original.ndim != 5 or reconstruction.shape != original.shape or not original.is_floating_point():
        raise ValueError(
            f"reconstruction and original should both be floating point B 3 F H W in [-1, 1], "
            f"not {tuple(reconstruction.shape)} and {original.dtype} {tuple(original.shape)}"
        )
    return reconstruction.float().clamp(-1, 1), original.float().clamp(-1, 1)
