"""Alignment with V-JEPA 2, of which a tiny random one stands here for the large one."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEModel, VJEPA2Config, VJEPA2Model

from evagen.tokenizer.alignment import (
    VJEPA2_L,
    AlignmentLoss,
    TeacherAlignmentLoss,
    VideoTeacher,
    load_vjepa2,
    resize_grid,
)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return VJEPA2Model(
        VJEPA2Config(
            patch_size=8,
            crop_size=32,
            hidden_size=48,
            num_attention_heads=2,
            num_hidden_layers=2,
            pred_hidden_size=48,
            pred_num_attention_heads=2,
            pred_num_hidden_layers=1,
            pred_num_mask_tokens=1,
        )
    )


@pytest.fixture(scope="module")
def teacher(network):
    return VideoTeacher(network)


def clips(frames: int = 8, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, frames, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def without_projection(width: int) -> AlignmentLoss:
    loss = AlignmentLoss(width, width)
    loss.projection = nn.Identity()
    return loss


def test_features_are_those_of_the_network_on_imagenet_normalised_pixels(teacher, network):
    video = clips()
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((video.movedim(1, -1) + 1) / 2 - mean) / deviation  # B F H W C
    with torch.no_grad():
        expected = network.get_vision_features(pixels.movedim(-1, 2))
    features = teacher(video)
    assert features.shape == (2, 4, 4, 4, teacher.width)
    torch.testing.assert_close(features.flatten(1, 3), expected)


def test_features_of_patches_stand_where_the_patches_are(teacher):
    video, other = clips(), clips()
    other[:, :, 2:4, 8:16, 24:32] += 0.5  # tubelet 1, row 1, column 3
    change = (teacher(video) - teacher(other)).norm(dim=-1)  # B T H W
    assert (change.flatten(1).argmax(1) == 1 * 16 + 1 * 4 + 3).all()


def test_any_picture_size_gives_the_grid_of_the_network(teacher):
    assert teacher(clips(frames=4, size=64)).shape == (2, 2, 4, 4, teacher.width)


def test_teacher_is_frozen_and_unseen(teacher):
    teacher.train().requires_grad_(True)
    assert not teacher.network.network.training
    assert not any(p.requires_grad for p in teacher.network.network.parameters())
    assert not list(teacher.parameters())
    assert not teacher.state_dict()
    assert not teacher(clips().requires_grad_()).requires_grad


def test_zero_when_the_features_agree_whatever_their_scale(teacher):
    features, loss = teacher(clips()), without_projection(teacher.width)
    scales = torch.rand(*features.shape[:4], 1) + 0.1
    assert loss(features, features).item() == pytest.approx(0, abs=1e-6)
    assert loss(features * scales, features / scales).item() == pytest.approx(0, abs=1e-6)
    assert loss(-features, features).item() == pytest.approx(2, abs=1e-6)


def test_each_patch_is_compared_with_its_own(teacher):
    features, loss = teacher(clips()), without_projection(teacher.width)
    for axis in (0, 1, 2, 3):
        assert loss(features.roll(1, dims=axis), features) > 1e-3


def test_orthogonal_features_are_one_apart():
    x, y = torch.zeros(1, 1, 1, 2, 4), torch.zeros(1, 1, 1, 2, 4)
    x[..., 0], y[..., 1] = 1, 1
    y[:, :, :, 0] = x[:, :, :, 0]  # the first of two patches agrees
    assert without_projection(4)(x, y).item() == pytest.approx(0.5)


def test_grid_that_shrinks_is_averaged_and_one_that_grows_keeps_constants():
    x = torch.randn(2, 4, 8, 8, 3)
    halves = x.unflatten(1, (2, 2)).mean(2).unflatten(2, (4, 2)).mean(3).unflatten(3, (4, 2)).mean(4)
    torch.testing.assert_close(resize_grid(x, (2, 4, 4)), halves)
    one = torch.randn(1, 1, 1, 1, 3)
    torch.testing.assert_close(resize_grid(one, (2, 3, 4)), one.expand(1, 2, 3, 4, 3))
    assert resize_grid(x, (2, 16, 4)).shape == (2, 2, 16, 4, 3)


def test_training_the_decoder_feature_and_projection_brings_the_loss_down(teacher):
    torch.manual_seed(0)
    features = teacher(clips())  # a grid of 4 × 4 × 4
    decoder = nn.Parameter(torch.randn(2, 2, 8, 8, 16))
    loss = AlignmentLoss(16, teacher.width)
    optimizer = torch.optim.Adam([decoder, *loss.parameters()], 0.05)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(decoder, features)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[0] > 0.8
    assert values[-1] < 0.4


# The teacher's features projected, as published


def published(decoder_grid: tuple, teacher_grid: tuple) -> TeacherAlignmentLoss:
    torch.manual_seed(0)
    return TeacherAlignmentLoss(6, 5, decoder_grid, teacher_grid)


def by_hand(loss: TeacherAlignmentLoss, decoder: Tensor, teacher: Tensor) -> Tensor:
    """Equation 1 in loops over cells, for grids that divide each other."""
    (first, second), (clips, *want, width), have = (loss.mlp[0], loss.mlp[2]), decoder.shape, teacher.shape[1:4]
    merged, split = ([max(1, a // b) for a, b in zip(*pair)] for pair in ((have, want), (want, have)))
    similarities = []
    for n, t, y, x in product(range(clips), *map(range, want)):
        source, inside = zip(*(divmod(at, n) for at, n in zip((t, y, x), split)))  # of the teacher's coarser cells
        cells = [
            teacher[(n, *(at * m + offset for at, m, offset in zip(source, merged, offsets)))]
            for offsets in product(*map(range, merged))
        ]
        hidden = F.gelu(torch.einsum("oi,i->o", first.weight, torch.cat(cells)) + first.bias)
        out = torch.einsum("oi,i->o", second.weight, hidden) + second.bias
        number = (inside[0] * split[1] + inside[1]) * split[2] + inside[2]
        feature, other = out[number * width : (number + 1) * width], decoder[n, t, y, x]
        similarities.append(feature @ other / feature.norm() / other.norm())
    return -torch.stack(similarities).mean()


@pytest.mark.parametrize(
    ("decoder_grid", "teacher_grid"),
    [((2, 4, 4), (4, 4, 4)), ((2, 4, 4), (2, 4, 4)), ((2, 4, 6), (4, 2, 3)), ((4, 2, 4), (2, 4, 4))],
)
def test_published_alignment_equals_loops_over_cells(decoder_grid, teacher_grid):
    loss, random = published(decoder_grid, teacher_grid), torch.Generator().manual_seed(1)
    decoder, teacher = (
        torch.randn(2, *decoder_grid, 6, generator=random),
        torch.randn(2, *teacher_grid, 5, generator=random),
    )
    torch.testing.assert_close(loss(decoder, teacher), by_hand(loss, decoder, teacher))


def test_the_published_networks_give_two_tubelets_a_block_and_cells_as_they_are():
    """V-JEPA 2-L on a clip of 16 × 128 × 128: its frames are resized to 256 × 256, its patch is 16."""
    config = VJEPA2Config(patch_size=16, crop_size=256, tubelet_size=2, hidden_size=1024)
    with torch.device("meta"):
        teacher = VideoTeacher(VJEPA2Model(config))
        loss = TeacherAlignmentLoss(768, teacher.width, (4, 16, 16), teacher.grid(16))
    assert teacher.grid(16) == (8, 16, 16)
    assert (loss.merged, loss.split, loss.resized) == ([2, 1, 1], [1, 1, 1], (8, 16, 16))
    assert [tuple(layer.weight.shape) for layer in (loss.mlp[0], loss.mlp[2])] == [(2048, 2048), (768, 2048)]


def test_no_tubelet_is_averaged_away():
    """Two tubelets that change places change the loss, which their mean would not."""
    loss, random = published((2, 2, 2), (4, 2, 2)), torch.Generator().manual_seed(1)
    decoder, teacher = torch.randn(1, 2, 2, 2, 6, generator=random), torch.randn(1, 4, 2, 2, 5, generator=random)
    swapped = teacher[:, [1, 0, 3, 2]]
    assert (loss(decoder, teacher) - loss(decoder, swapped)).abs() > 1e-3


def test_rows_and_columns_that_do_not_fit_are_resized_and_tubelets_refused():
    loss, random = published((2, 5, 3), (4, 4, 4)), torch.Generator().manual_seed(1)
    decoder, teacher = torch.randn(1, 2, 5, 3, 6, generator=random), torch.randn(1, 4, 4, 4, 5, generator=random)
    resized = published((2, 5, 3), (4, 5, 3))
    resized.load_state_dict(loss.state_dict())
    torch.testing.assert_close(loss(decoder, teacher), resized(decoder, resize_grid(teacher, (4, 5, 3))))
    with pytest.raises(ValueError, match="3 tubelets cannot be shared out evenly among 2 temporal blocks"):
        published((2, 4, 4), (3, 4, 4))


def test_published_alignment_is_minus_the_cosine_and_moves_both_sides(teacher):
    torch.manual_seed(0)
    features = teacher(clips())  # a grid of 4 × 4 × 4
    decoder = nn.Parameter(torch.randn(2, 2, 8, 8, 16))
    loss = TeacherAlignmentLoss(16, teacher.width, (2, 8, 8), teacher.grid(8))
    with torch.no_grad():
        assert loss(loss.project(features), features).item() == pytest.approx(-1, abs=1e-5)
        assert loss(-3 * loss.project(features), features).item() == pytest.approx(1, abs=1e-5)
    loss(decoder, features).backward()
    assert all(p.grad.abs().sum() > 0 for p in (decoder, *loss.parameters()))


def test_other_grids_than_those_it_was_made_for_are_refused():
    with pytest.raises(
        ValueError, match=r"grids should be \(2, 4, 4\) and \(4, 4, 4\), not \(2, 4, 4\) and \(2, 4, 4\)"
    ):
        published((2, 4, 4), (4, 4, 4))(torch.zeros(1, 2, 4, 4, 6), torch.zeros(1, 2, 4, 4, 5))
    with pytest.raises(ValueError, match="should be B T H W D of the same clips"):
        published((1, 1, 1), (1, 1, 1))(torch.zeros(2, 1, 1, 1, 6), torch.zeros(1, 1, 1, 1, 5))


def test_saved_network_comes_back_from_its_folder(network, teacher, tmp_path):
    network.save_pretrained(tmp_path)
    torch.testing.assert_close(VideoTeacher(load_vjepa2(tmp_path))(clips()), teacher(clips()))


def test_without_network_access_the_error_says_what_to_fetch():
    with pytest.raises(FileNotFoundError, match="no VJEPA2Model at our/teacher") as error:
        load_vjepa2("our/teacher")
    for part in ("config.json", "model.safetensors", f"https://huggingface.co/{VJEPA2_L}/tree/main", "one folder"):
        assert part in str(error.value)


def test_folder_without_a_model_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match=f"no VJEPA2Model at {folder}: neither"):
            load_vjepa2(folder)


def test_damaged_and_unlike_weights_are_refused(network, tmp_path):
    network.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    name = "encoder.layer.0.attention.query.weight"
    save_file({**weights, name: torch.zeros(5, 5)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="not those of a VJEPA2Model"):
        load_vjepa2(tmp_path)
    path.write_bytes(b"half a download")
    with pytest.raises(ValueError, match="not those of a VJEPA2Model"):
        load_vjepa2(tmp_path)


def test_another_network_is_refused(tmp_path):
    config = VideoMAEConfig(image_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    VideoMAEModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"type vjepa2 is needed, the one at .* is of type videomae"):
        load_vjepa2(tmp_path)


def test_frames_that_tubelets_do_not_divide_are_refused(teacher):
    with pytest.raises(ValueError, match="must be a multiple of 2, got 5"):
        teacher(clips(frames=5))


def test_features_of_other_layouts_are_refused():
    with pytest.raises(ValueError, match="should be B T H W D of the same clips"):
        AlignmentLoss(4, 4)(torch.zeros(2, 1, 1, 1, 4), torch.zeros(1, 1, 1, 1, 4))
