"""How frames become clips: resized, cropped and rounded, against torchvision and Pillow."""

# isort: split
import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TVF
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from evagen.eval.frames import FramePreparation, pillow_lanczos
from evagen.eval.protocols import get_protocol


def frames(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 240), (240, 325), (133, 97), (64, 90)])
def test_larp_resizes_and_crops_as_torchvision(height, width):
    clip = frames(2, height, width)
    pixels = clip.permute(0, 3, 1, 2).float() / 255
    expected = TVF.center_crop(TVF.resize(pixels, [128], antialias=True), [128, 128])
    ours = get_protocol("larp-ucf101-recon").frames(clip)
    torch.testing.assert_close(ours, expected.permute(1, 0, 2, 3) * 2 - 1, rtol=0, atol=1e-6)


def test_half_a_pixel_is_rounded_to_the_even_number():
    # 240×320 → 128×170: 42 columns are cut off, 21 on the left. 130×132 at 129 would leave 1.5 → 2.
    column = torch.arange(170, dtype=torch.uint8).expand(1, 128, 170)[..., None].expand(-1, -1, -1, 3)
    left = get_protocol("larp-ucf101-recon").frames(column)[0, 0, 0, 0]
    assert (left + 1) * 127.5 == pytest.approx(21, abs=1e-3)
    wide = torch.arange(129, dtype=torch.uint8).expand(1, 128, 129)[..., None].expand(-1, -1, -1, 3)
    assert FramePreparation(128)(wide)[0, 0, 0, 0] == -1  # half a column: 0
    wider = torch.arange(131, dtype=torch.uint8).expand(1, 128, 131)[..., None].expand(-1, -1, -1, 3)
    assert (FramePreparation(128)(wider)[0, 0, 0, 0] + 1) * 127.5 == pytest.approx(2, abs=1e-3)  # one and a half: 2
    floor = FramePreparation(128, long_side="ceil", crop="floor")
    assert (floor(wider)[0, 0, 0, 0] + 1) * 127.5 == pytest.approx(1, abs=1e-3)


def test_sizes_before_the_crop():
    assert FramePreparation(128).resized_shape(240, 320) == (128, 170)
    assert FramePreparation(128).resized_shape(320, 240) == (170, 128)
    cdfvd = get_protocol("cdfvd").frames
    assert cdfvd.resized_shape(240, 320) == (256, 342)
    assert cdfvd.resized_shape(256, 256) == (256, 256)
    assert FramePreparation(128, long_side="ceil").resized_shape(360, 240)[1] == 128


def test_cdfvd_rounds_the_long_side_up_and_the_crop_down():
    clip = frames(2, 240, 320)
    pixels = clip.permute(0, 3, 1, 2).float() / 255
    resized = torch.nn.functional.interpolate(pixels, (256, 342), mode="bilinear", antialias=True)
    expected = resized[..., 43 : 43 + 256].permute(1, 0, 2, 3) * 2 - 1
    torch.testing.assert_close(get_protocol("cdfvd").frames(clip), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (120, 161), (256, 300)])
def test_styleganv_resizes_and_crops_as_pillow(height, width):
    clip = frames(1, height, width)
    image = TVF.resize(Image.fromarray(clip[0].numpy()), [256], interpolation=TVF.InterpolationMode.LANCZOS)
    expected = torch.from_numpy(np.array(TVF.center_crop(image, [256, 256])))
    ours = get_protocol("styleganv-fvd2048-16f").frames(clip)  # (3, 1, 256, 256)
    levels = (ours[:, 0] + 1) * 127.5
    assert torch.equal(levels.round().to(torch.uint8).permute(1, 2, 0), expected)
    assert (levels - levels.round()).abs().max() < 1e-4


@given(st.integers(3, 40), st.integers(3, 40), st.integers(1, 50), st.integers(1, 50))
@settings(max_examples=25, deadline=None)
def test_lanczos_is_pillows_bit_for_bit(height, width, new_height, new_width):
    image = frames(1, height, width, seed=height)[0]
    rows = Image.fromarray(image.numpy()).resize((new_width, height), Image.Resampling.LANCZOS)
    pillow = np.array(rows.resize((new_width, new_height), Image.Resampling.LANCZOS))
    ours = pillow_lanczos(image.permute(2, 0, 1), (new_height, new_width)).permute(1, 2, 0)
    assert torch.equal(ours, torch.from_numpy(pillow))


def test_frames_of_the_right_size_are_left_alone():
    clip = frames(3, 128, 128)
    exact = clip.permute(3, 0, 1, 2).float() / 255 * 2 - 1
    for prepare in (FramePreparation(128), FramePreparation(128, "lanczos"), FramePreparation(128, long_side="ceil")):
        assert torch.equal(prepare(clip), exact)


def test_frames_as_they_are_read_from_a_file_are_taken():
    given = frames(3, 20, 20)
    assert torch.equal(FramePreparation(16)(given.numpy()), FramePreparation(16)(given))


def test_short_clips_repeat_their_last_frame():
    clip = frames(5, 128, 140)
    video = get_protocol("larp-ucf101-recon").prepare(clip)
    assert video.shape == (3, 16, 128, 128)
    assert torch.equal(video[:, :5], get_protocol("larp-ucf101-recon").frames(clip))
    assert torch.equal(video[:, 5:], video[:, 4:5].expand(-1, 11, -1, -1))


def test_frames_that_are_none_are_refused():
    prepare = FramePreparation(16)
    with pytest.raises(ValueError, match=r"uint8 F H W 3, not torch\.float32"):
        prepare(torch.zeros(2, 20, 20, 3))
    with pytest.raises(ValueError, match=r"not torch\.uint8 \(0, 20, 20, 3\)"):
        prepare(frames(0, 20, 20))
    with pytest.raises(ValueError, match="has 5 frames, the protocol scores 4"):
        prepare(frames(5, 20, 20), 4)
