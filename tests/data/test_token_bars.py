"""The bars of tokens beneath a video."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evagen.data.token_bars import NOW, TOKENS, side_by_side, token_bars


@given(st.lists(st.integers(1, 512), min_size=1, max_size=40), st.integers(12, 40), st.integers(160, 400))
def test_a_bar_is_as_high_as_its_tokens(lengths, height, width):
    bars = (token_bars(lengths, height, width) == TOKENS).all(-1).sum(0)  # (width,)
    for block, length in enumerate(lengths):
        middle = int((block + 0.5) * width / len(lengths))
        assert bars[middle] == pytest.approx(length / max(lengths) * (height - 1), abs=1)


@given(st.lists(st.sampled_from([4, 16, 64]), min_size=1, max_size=6), st.integers(1, 4))
def test_the_block_that_is_shown_is_lit(lengths, frames_a_block):
    frame = np.zeros((100, 60, 3), np.uint8)
    count = len(lengths) * frames_a_block
    for number, both in enumerate(side_by_side([(frame, frame)] * count, lengths, frames_a_block)):
        assert both.shape == (112, 120, 3)
        lit = (both[100:] == NOW).all(-1).any(0).nonzero()[0]
        block = number // frames_a_block
        assert block * 120 / len(lengths) <= lit.min() + 1
        assert lit.max() < (block + 1) * 120 / len(lengths)


def test_more_blocks_than_columns_still_have_one_each():
    lengths = [1] * 300
    frame = np.zeros((8, 40, 3), np.uint8)
    for both in side_by_side([(frame, frame)] * 300, lengths, 1):
        assert (both == NOW).all(-1).any()
