"""Numbers in sentences."""

import pytest

from evagen.kernels.words import counted
from evagen.scoring.explain import _ordinal


def test_one_of_a_thing_is_not_several():
    assert [counted(number, "frame") for number in (0, 1, 2000)] == ["0 frames", "1 frame", "2,000 frames"]
    assert [counted(number, "video is", "videos are") for number in (1, 2)] == ["1 video is", "2 videos are"]


@pytest.mark.parametrize(
    ("number", "said"),
    [(1, "one"), (2, "second"), (3, "third"), (11, "11th"), (21, "21st"), (104, "104th")],
)
def test_every_which_frame_is_said(number, said):
    assert _ordinal(number) == said
