"""Tiles cover a picture of any shape, evenly, and what is cut comes back merged."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from evagen.tokenizer import tiles

SIDES = st.integers(1, 70)


@given(height=SIDES, width=SIDES, resolution=st.integers(1, 32))
def test_tiles_cover_the_picture_with_as_few_squares_as_will_do(height, width, resolution):
    found = tiles.places((height, width), resolution)
    covered = torch.zeros(height, width)
    for rows, columns in found:
        assert covered[rows, columns].shape == (min(height, resolution), min(width, resolution))
        covered[rows, columns] += 1
    assert covered.min() >= 1
    assert len(found) == -(-height // resolution) * -(-width // resolution)


@given(height=SIDES, width=SIDES, clips=st.integers(1, 3))
def test_what_is_cut_comes_back(height, width, clips):
    video = torch.randn(clips, 3, 2, height, width)
    pieces = tiles.cut(video, 16)
    torch.testing.assert_close(tiles.merge(pieces, (height, width), 16), video)
    assert len(pieces) == clips * len(tiles.places((height, width), 16))


def test_a_picture_of_one_tile_is_left_as_it_is():
    video = torch.randn(2, 3, 4, 16, 16)
    assert torch.equal(tiles.cut(video, 16), video)
    assert torch.equal(tiles.merge(video, (16, 16), 16), video)


def test_tiles_differ_without_a_seam():
    """Of two tiles that are black and white the merged picture rises evenly where they overlap."""
    pieces = torch.stack([torch.zeros(3, 1, 16, 16), torch.ones(3, 1, 16, 16)])
    row = tiles.merge(pieces, (16, 24), 16)[0, 0, 0, 0]
    assert torch.equal(row[:8], torch.zeros(8))
    assert torch.equal(row[16:], torch.ones(8))
    steps = row[7:17].diff()
    assert steps.min() > 0
    assert steps.max() < 0.2
