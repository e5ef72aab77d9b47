"""The still background of a clip is torch's median, however it is found."""

import pytest
import torch

from evagen.kernels.motion import FEW_FRAMES, median_pairs, still_background


@pytest.mark.parametrize("frames", [*range(1, 20), 31, 32, 33, FEW_FRAMES, FEW_FRAMES + 1])
def test_it_is_the_lower_median_of_every_place(frames):
    random = torch.Generator().manual_seed(frames)
    video = torch.randint(0, 6, (2, 3, frames, 4, 5), generator=random).float() / 3 - 1  # many equal ones
    video[0] = torch.rand(3, frames, 4, 5, generator=random)
    assert torch.equal(still_background(video), video.median(2, keepdim=True).values)


def test_a_number_that_is_none_is_not_hidden():
    video = torch.zeros(1, 3, 16, 2, 2)
    video[0, 0, 5, 0, 0] = torch.nan
    assert still_background(video)[0, 0, 0, 0, 0].isnan()
    assert not still_background(video)[0, 1].isnan().any()


def test_pairs_that_do_not_matter_are_left_out():
    assert len(median_pairs(16)) == 53  # of the 63 that sort
    assert median_pairs(1) == ()
    assert median_pairs(2) == ((0, 1),)
