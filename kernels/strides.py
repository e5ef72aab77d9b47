"""Which frames of a video file belong to a clip that does not take every one."""

import math
from fractions import Fraction

Stride = int | Fraction
"""Distance between frames, in frames of the file; between whole numbers where a video is read at another rate."""


def frame_offset(number: int, stride: Stride) -> int:
    """How many frames of the file lie between frame 0 and frame `number` of a clip: the nearest to `number * stride`,
    of two that are equally near the earlier one."""
    if isinstance(stride, int):  # nothing to round, which is most of the time of listing a large data set
        return number * stride
    return math.ceil(number * stride - Fraction(1, 2))
