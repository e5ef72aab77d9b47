"""Discriminators and the adversarial term. A tiny random VideoMAE stands for the pretrained one."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEModel

from evagen.tokenizer.adversarial import (
    LeCAM,
    adaptive_weight,
    discriminator_hinge,
    discriminator_non_saturating,
    generator_hinge,
    generator_non_saturating,
    label_doubt,
    warmup_factor,
)
from evagen.tokenizer.discriminators import (
    PatchDiscriminator3D,
    TransformerDiscriminator,
    VideoMAEDiscriminator,
    load_videomae,
    sines_of_places,
    window_frames,
)

WIDTHS = (8, 8, 16, 16)
CONFIG = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 8,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def videomae_discriminator() -> VideoMAEDiscriminator:
    torch.manual_seed(0)
    backbone = VideoMAEModel(VideoMAEConfig(**CONFIG, hidden_dropout_prob=0.5))
    return VideoMAEDiscriminator(backbone, layers=(1, 3), head_width=16, kernel=3)


def patch_discriminator() -> PatchDiscriminator3D:
    torch.manual_seed(0)
    return PatchDiscriminator3D(WIDTHS)


def transformer_discriminator(logits: str = "patch") -> TransformerDiscriminator:
    torch.manual_seed(0)
    return TransformerDiscriminator(width=16, depth=2, heads=2, logits=logits)


ALL = pytest.mark.parametrize("make", [patch_discriminator, transformer_discriminator, videomae_discriminator])


def clips(frames: int = 8, size: int = 32, seed: int = 0, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# Discriminators


@ALL
def test_gradient_reaches_every_frame_and_pixel(make):
    video = clips(frames=12).requires_grad_()
    generator_hinge(make()(video)).backward()
    assert video.grad.isfinite().all()
    assert (video.grad.abs().amax(1) > 0).float().mean() > 0.99


@ALL
def test_learns_to_tell_smooth_clips_from_noise(make):
    discriminator = make()
    optimizer = torch.optim.Adam([p for p in discriminator.parameters() if p.requires_grad], 5e-3)
    for step in range(100):
        real, fake = clips(seed=step).mean(2, keepdim=True).expand(-1, -1, 8, -1, -1), clips(seed=1000 + step)
        loss = discriminator_hinge(discriminator(real), discriminator(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    discriminator.eval()
    real, fake = clips(seed=98).mean(2, keepdim=True).expand(-1, -1, 8, -1, -1), clips(seed=99)
    assert discriminator(real).mean() > discriminator(fake).mean() + 0.5


@ALL
def test_a_clip_is_judged_alike_alone_and_in_a_batch(make):
    discriminator = make().eval()
    video = clips(batch=3)
    torch.testing.assert_close(
        discriminator(video), torch.cat([discriminator(clip[None]) for clip in video]), rtol=1e-4, atol=1e-5
    )


@ALL
def test_state_dict_restores_the_logits(make, tmp_path):
    discriminator = make().train()
    discriminator(clips())  # power iterations change the buffers of spectral norm
    save_file(discriminator.state_dict(), tmp_path / "discriminator.safetensors")
    other = make()
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(load_file(tmp_path / "discriminator.safetensors"))
    torch.testing.assert_close(other.eval()(clips()), discriminator.eval()(clips()))


@pytest.mark.parametrize(("frames", "size", "grid"), [(16, 64, (4, 8, 8)), (16, 128, (4, 16, 16)), (4, 8, (1, 1, 1))])
def test_one_logit_per_block_and_patch(frames, size, grid):
    assert patch_discriminator()(clips(frames, size, batch=1)).shape == (1, *grid)


def test_a_logit_sees_its_own_surroundings_only():
    video = clips(frames=48, size=128, batch=1).requires_grad_()
    patch_discriminator()(video)[0, 6, 8, 8].backward()
    for axis, reach in ((2, 28), (3, 54), (4, 54)):
        seen = video.grad.abs().transpose(0, axis).flatten(1).amax(1).nonzero().flatten()
        assert int(seen.max() - seen.min()) + 1 == reach


@pytest.mark.parametrize("shape", [(1, 3, 3, 32, 32), (1, 3, 16, 4, 32), (1, 1, 16, 32, 32), (3, 16, 32, 32)])
def test_clips_too_small_or_of_another_layout_are_refused(shape):
    with pytest.raises(ValueError, match=r"videos are floating point B 3 F H W|at least 4 frames of 8 × 8 pixels"):
        patch_discriminator()(torch.zeros(shape))


def test_the_transformer_gives_a_logit_for_each_patch_or_one_for_each_clip():
    assert transformer_discriminator()(clips(16, 64)).shape == (2, 4, 8, 8)
    assert transformer_discriminator("clip")(clips(16, 64)).shape == (2, 1)


@pytest.mark.parametrize("logits", ["patch", "clip"])
def test_the_transformer_by_hand(logits):
    """Written out from its description, patch by patch."""
    net, video = transformer_discriminator(logits), clips()
    blocks, rows, columns = 2, 4, 4
    x = [net.class_token.expand(2, 1, -1)]
    for t, i, j in ((t, i, j) for t in range(blocks) for i in range(rows) for j in range(columns)):
        patch = video[:, :, 4 * t : 4 * t + 4, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].flatten(1)  # 2 (c f p q)
        in_block = [f(t / 10_000 ** (k / 8)) for f in (math.sin, math.cos) for k in range(8)]
        row, column = ([f(at / 10_000 ** (k / 4)) for f in (math.sin, math.cos) for k in range(4)] for at in (i, j))
        place = torch.tensor(in_block) + torch.tensor(row + column)
        x.append((F.linear(patch, net.embed_patches.weight, net.embed_patches.bias) + place)[:, None])
    x = torch.cat(x, dim=1)
    for layer in net.layers:
        qkv = layer.norm1(x) @ layer.attn.qkv.weight.T  # no bias
        q, k, v = rearrange(qkv, "b n (three h d) -> three b h n d", three=3, h=2)
        seen = torch.softmax(torch.einsum("bhnd,bhmd->bhnm", q, k) / math.sqrt(8), dim=-1)
        x = x + layer.attn.proj(rearrange(torch.einsum("bhnm,bhmd->bhnd", seen, v), "b h n d -> b n (h d)"))
        x = x + layer.mlp.fc2(F.gelu(layer.mlp.fc1(layer.norm2(x))))
    x = net.to_logits(net.norm(x)).squeeze(-1)
    expected = x[:, 1:].view(2, blocks, rows, columns) if logits == "patch" else x[:, :1]
    torch.testing.assert_close(net(video), expected)


def test_the_transformer_has_larps_size():
    width, depth = 512, 12
    layer = 3 * width**2 + (width**2 + width) + 2 * 4 * width**2 + 5 * width + 2 * 2 * width
    expected = (3 * 4 * 8 * 8 + 1) * width + width + depth * layer + 2 * width + width + 1
    with torch.device("meta"):
        assert sum(p.numel() for p in TransformerDiscriminator().parameters()) == expected == 38_205_953


def test_every_logit_of_the_transformer_sees_the_whole_clip():
    video = clips().requires_grad_()
    transformer_discriminator()(video)[0, 0, 0, 0].backward()
    assert (video.grad[0].abs().amax(0) > 0).all()
    assert not video.grad[1].any()


def test_places_are_all_different():
    places = sines_of_places((4, 16, 16), 32).flatten(0, 2)
    assert torch.pdist(places).min() > 1e-2


@pytest.mark.parametrize("shape", [(1, 3, 6, 32, 32), (1, 3, 8, 32, 36), (1, 1, 8, 32, 32), (3, 8, 32, 32)])
def test_the_transformer_refuses_clips_that_its_patches_do_not_divide(shape):
    with pytest.raises(ValueError, match=r"frames in fours .* not|videos are floating point B 3 F H W"):
        transformer_discriminator()(torch.zeros(shape))


def test_backbone_stays_as_it_was_and_heads_learn():
    discriminator = videomae_discriminator().train().requires_grad_(True)
    backbone, heads = discriminator.backbone.network, discriminator.heads
    before, heads_before = copy.deepcopy(backbone.state_dict()), copy.deepcopy(heads.state_dict())
    optimizer = torch.optim.AdamW(discriminator.parameters(), 0.1, weight_decay=0.1)
    discriminator_hinge(discriminator(clips()), discriminator(clips(seed=1))).backward()
    optimizer.step()
    assert not backbone.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert all(p.grad is None for p in backbone.parameters())
    assert not all(torch.equal(value, heads_before[name]) for name, value in heads.state_dict().items())


def test_parameters_and_state_dict_are_those_of_the_heads():
    discriminator = videomae_discriminator()
    assert len(list(discriminator.parameters())) == len(list(discriminator.heads.parameters())) == 2 * 6
    assert all(name.startswith("heads.") for name in discriminator.state_dict())


def test_backbone_moves_with_the_discriminator():
    discriminator = videomae_discriminator().eval()
    expected = discriminator(clips())
    in_double = discriminator.double()(clips().double())
    assert in_double.dtype == torch.float64
    torch.testing.assert_close(in_double.float(), expected, rtol=1e-3, atol=1e-4)
    assert all(p.is_meta for p in discriminator.to("meta").backbone.network.parameters())


def test_heads_see_the_hidden_states_of_their_layers():
    discriminator = videomae_discriminator().eval()
    seen, tokens = [], []
    for head in discriminator.heads:
        head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for layer in (0, 2):
        discriminator.backbone.network.encoder.layer[layer].register_forward_hook(lambda *args: tokens.append(args[2]))
    assert discriminator(clips()).shape == (2, 2 * 4 * 16)
    for head_input, layer_output in zip(seen, tokens, strict=True):
        assert torch.equal(head_input, layer_output)


def test_layers_that_are_not_there_and_even_kernels_are_refused():
    backbone = VideoMAEModel(VideoMAEConfig(**CONFIG))
    for layers in ((0,), (4,), ()):
        with pytest.raises(ValueError, match="numbers from 1 to 3"):
            VideoMAEDiscriminator(backbone, layers)
    with pytest.raises(ValueError, match="odd, not 4"):
        VideoMAEDiscriminator(backbone, (1,), kernel=4)


@given(num_frames=st.integers(1, 100), window=st.integers(1, 40))
def test_windows_hold_every_frame_in_order(num_frames, window):
    frames = window_frames(num_frames, window)
    assert frames.shape == (max(1, -(-num_frames // window)), window)
    assert set(frames.flatten().tolist()) == set(range(num_frames))
    assert (frames.diff(dim=1) >= 0).all()
    assert num_frames < window or (frames.diff(dim=1) == 1).all()


def test_backbone_comes_from_a_folder_with_or_without_its_pretraining_decoder(tmp_path):
    torch.manual_seed(0)
    whole = VideoMAEForPreTraining(VideoMAEConfig(**CONFIG, decoder_hidden_size=8, decoder_num_attention_heads=1))
    whole.save_pretrained(tmp_path / "whole")
    whole.videomae.save_pretrained(tmp_path / "encoder")
    for folder in ("whole", "encoder"):
        loaded = load_videomae(tmp_path / folder)
        expected = whole.videomae.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_without_network_access_the_error_says_what_to_fetch():
    with pytest.raises(FileNotFoundError, match=r"no VideoMAEModel at .*config.json and model.safetensors"):
        load_videomae("MCG-NJU/no-such-model-here")


def test_weights_that_lack_some_are_refused(tmp_path):
    VideoMAEModel(VideoMAEConfig(**CONFIG)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "layer.1." not in k}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=r"not those of a VideoMAEModel: .*layer.1.*among them"):
        load_videomae(tmp_path)


# Losses


def test_hinge_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0, -0.5])
    assert discriminator_hinge(real, fake).item() == pytest.approx(((0 + 0.5 + 2) / 3 + (0 + 1 + 2 + 0.5) / 4) / 2)
    assert generator_hinge(fake).item() == pytest.approx(2.5 / 4)
    assert discriminator_hinge(torch.tensor([1.0]), torch.tensor([-1.0])).item() == 0


def test_non_saturating_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([[-3.0, 0.0], [1.0, -0.5]])

    def passes(logit: Tensor) -> float:
        return 1 / (1 + math.exp(-logit))

    of_real, of_fake = [passes(x) for x in real], [passes(x) for x in fake.flatten()]
    theirs = -sum(math.log(p) for p in of_real) / 3 - sum(math.log(1 - p) for p in of_fake) / 4
    assert discriminator_non_saturating(real, fake).item() == pytest.approx(theirs)
    assert generator_non_saturating(fake).item() == pytest.approx(-sum(math.log(p) for p in of_fake) / 4)


def test_doubted_labels_are_cross_entropy_with_labels_between():
    real, fake = torch.randn(5, 7), torch.randn(5, 7)
    random = torch.Generator().manual_seed(0)
    doubts = label_doubt(real, 0.15, random), label_doubt(fake, 0.15, random)
    entropy = F.binary_cross_entropy_with_logits
    expected = entropy(real, 1 - doubts[0]) + entropy(fake, doubts[1])
    torch.testing.assert_close(discriminator_non_saturating(real, fake, doubts), expected)


def test_doubt_is_half_a_normal_number_cut_at_two_deviations():
    doubt = label_doubt(torch.zeros(100_000), 0.15, torch.Generator().manual_seed(0))
    assert doubt.min() >= 0
    assert doubt.max() == pytest.approx(0.3)
    assert (doubt < 0.15).float().mean() == pytest.approx(0.6827, abs=0.01)  # a normal number within one deviation
    assert (doubt == doubt.max()).float().mean() == pytest.approx(0.0455, abs=0.005)  # beyond two


def test_non_saturating_losses_stay_finite_where_the_sigmoid_does_not():
    sure = torch.tensor([1e4, -1e4])
    assert discriminator_non_saturating(sure, sure).isfinite()
    assert generator_non_saturating(sure).isfinite()


def test_lecam_by_hand():
    lecam = LeCAM(decay=0.75)
    for real, fake in ((4.0, -2.0), (2.0, -4.0), (3.0, -3.0), (3.0, -3.0), (7.0, 1.0)):
        lecam.update(torch.tensor(real), torch.tensor(fake))
    # The mean of the first four, then a quarter of the fifth.
    assert lecam.real_average.item() == pytest.approx(0.75 * 3 + 0.25 * 7)
    assert lecam.fake_average.item() == pytest.approx(0.75 * -3 + 0.25 * 1)
    penalty = lecam(torch.tensor([1.0, 3.0]), torch.tensor([-1.0]))
    assert penalty.item() == pytest.approx(((1 + 2) ** 2 + (3 + 2) ** 2) / 2 + (-1 - 4) ** 2)


def test_lecam_draws_sure_logits_together_and_keeps_no_graph():
    lecam = LeCAM()
    real, fake = torch.tensor([3.0], requires_grad=True), torch.tensor([-3.0], requires_grad=True)
    lecam.update(real.mean(), fake.mean())
    lecam(real, fake).backward()
    assert real.grad > 0 > fake.grad
    assert not lecam.real_average.requires_grad


def test_lecam_state_comes_back():
    lecam, other = LeCAM(), LeCAM()
    for value in (1.0, 5.0):
        lecam.update(torch.tensor(value), torch.tensor(-value))
    other.load_state_dict(lecam.state_dict())
    for each in (lecam, other):
        each.update(torch.tensor(9.0), torch.tensor(0.0))
    assert other.real_average == lecam.real_average == 5
    assert other.fake_average == lecam.fake_average == -2


def test_a_first_look_in_inference_mode_leaves_gradients_to_later_ones():
    """What both keep between looks would else be of a kind that no backward pass takes."""
    discriminator = videomae_discriminator().double()
    video = torch.rand(1, 3, 11, 16, 16, dtype=torch.float64)
    with torch.inference_mode():
        discriminator(video)
    discriminator(video.requires_grad_()).sum().backward()
    assert video.grad.abs().sum() > 0


def test_adaptive_weight_by_hand():
    layer = nn.Parameter(torch.tensor([[1.0, 2.0]]))
    output = (layer * torch.tensor([[3.0, 4.0]])).sum()
    weight = adaptive_weight(2 * output, 0.5 * output.square(), layer)  # gradients 2·(3, 4) and output·(3, 4)
    assert weight.item() == pytest.approx(2 / 11, rel=1e-5)
    assert not weight.requires_grad
    (2 * output + weight * output).backward()  # the graph is still there
    assert layer.grad is not None


def test_adaptive_weight_is_bounded_where_the_generator_has_no_gradient():
    layer = nn.Parameter(torch.ones(3))
    assert adaptive_weight(layer.sum(), 0 * layer.sum(), layer).item() == 1e4
    assert adaptive_weight(layer.sum(), 0 * layer.sum(), layer, largest=10).item() == 10


def test_warmup_is_zero_then_rises_to_one():
    assert [warmup_factor(step, 3, 4) for step in range(9)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [warmup_factor(step, 2) for step in range(4)] == [0, 0, 1, 1]
