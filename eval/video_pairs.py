"""What every measure of videos asks of its arguments."""

from torch import Tensor

from evagen.kernels.levels import check_layout, check_range


def checked_pair(reconstruction: Tensor, original: Tensor) -> tuple[Tensor, Tensor]:
    """Videos `B 3 F H W`, both as float32 clipped to [-1, 1]. Raises ValueError for other shapes, for integers, and for
    an original far out of [-1, 1]; a bad reconstruction may be there."""
    for video in (reconstruction, original):
        check_layout(video)
    if reconstruction.shape != original.shape:
        raise ValueError(
            "reconstruction and original should be of one shape B 3 F H W, "
            f"not {tuple(reconstruction.shape)} and {tuple(original.shape)}"
        )
    check_range(original)
    return reconstruction.float().clamp(-1, 1), original.float().clamp(-1, 1)


def checked(video: Tensor) -> Tensor:
    """A video `B 3 F H W` as it is. Raises ValueError for other shapes, for integers and far out of [-1, 1]."""
    check_layout(video)
    check_range(video)
    return video
