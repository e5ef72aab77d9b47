"""What every measure of videos asks of its arguments."""

from torch import Tensor

from evagen.kernels.levels import check_range


def checked_pair(reconstruction: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
    """Videos `B 3 F H W`, both as float32 clipped to [-1, 1]. Raises ValueError for other shapes, for integers, and for
    an original far out of [-1, 1]; a bad reconstruction may be there."""
    if original.ndim != 5 or reconstruction.shape != original.shape or not original.is_floating_point():
        raise ValueError(
            f"reconstruction and original should both be floating point B 3 F H W in [-1, 1], "
            f"not {tuple(reconstruction.shape)} and {original.dtype} {tuple(original.shape)}"
        )
    check_range(original)
    return reconstruction.float().clamp(-1, 1), original.float().clamp(-1, 1)


def checked(video: Tensor) -> Tensor:
    """A video `B 3 F H W` as it is. Raises ValueError for other shapes, for integers and far out of [-1, 1]."""
    if video.ndim != 5 or video.shape[1] != 3:
        raise ValueError(f"videos should be floating point B 3 F H W in [-1, 1], not {tuple(video.shape)}")
    check_range(video)
    return video
