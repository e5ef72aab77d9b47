"""The tokenizer: causality over blocks, independence of clips, one road to the pixels."""

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from evagen.tokenizer import LossWeights, TokenizedClips, VideoTokenizer, tokenizer_loss
from evagen.tokenizer.positions import Rotary

RESOLUTION = 32


def tiny(**changes) -> VideoTokenizer:
    torch.manual_seed(0)
    return VideoTokenizer(
        levels=[2, 4, 8, 32], resolution=RESOLUTION, encoder_width=32, encoder_depth=2, encoder_heads=2,
        decoder_width=48, decoder_depth=2, decoder_heads=3, codebook_size=64, code_width=6, **changes,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def model() -> VideoTokenizer:
    return tiny()


def clips(count: int, seed: int = 0, frames: int = 16, size: int = RESOLUTION) -> torch.Tensor:
    return torch.rand(count, 3, frames, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_loss_needs_a_perceptual_distance_where_that_has_a_weight(model):
    video = clips(1)
    output = model(video, torch.tensor([[2, 8, 4, 2]]))
    total, terms = tokenizer_loss(output, video, LossWeights(perceptual=0))
    assert total.isfinite()
    assert "perceptual" not in terms
    with pytest.raises(ValueError, match=r"give perceptual, or LossWeights\(perceptual=0\)"):
        tokenizer_loss(output, video, LossWeights())


def test_what_a_training_pass_gives_is_a_tree_of_tensors(model):
    """By which FSDP finds those that gradients come back through."""
    output = model(clips(1), torch.tensor([[2, 8, 4, 2]]))
    leaves = tree_leaves(output)
    assert any(leaf is output.reconstruction for leaf in leaves)
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    again = tree_map(lambda leaf: leaf, output)
    assert type(again) is type(output)
    assert again.tokens.lengths is output.tokens.lengths


@pytest.mark.parametrize("block", [0, 1, 2, 3])
def test_changing_a_block_changes_no_earlier_token(model, block):
    video, changed = clips(3), clips(3)
    changed[:, :, 4 * block : 4 * block + 4] = clips(3, seed=1)[:, :, :4]
    lengths = torch.tensor([[2, 8, 4, 2], [32, 2, 2, 4], [4, 4, 8, 32]])
    before, after = model.encode(video, lengths).split(), model.encode(changed, lengths).split()
    for clip, other, row in zip(before, after, lengths):
        earlier = int(row[:block].sum())
        assert torch.equal(clip.codes[:earlier], other.codes[:earlier])
    assert not torch.equal(TokenizedClips.join(before).codes, TokenizedClips.join(after).codes)


@pytest.mark.parametrize("block", [0, 1, 2, 3])
def test_changing_a_blocks_tokens_changes_no_earlier_frame(model, block):
    tokens = model.encode(clips(1), torch.tensor([[4, 8, 2, 4]]))
    start = int(tokens.lengths[0, :block].sum())
    codes = tokens.codes.clone()
    codes[start:] = (codes[start:] + 1) % 64
    before, after = model.decode(tokens), model.decode(TokenizedClips(codes, tokens.lengths))
    assert torch.equal(before[:, :, : 4 * block], after[:, :, : 4 * block])
    changed = (before - after).abs().amax(dim=(0, 1, 3, 4))  # of each frame
    assert bool((changed[4 * block :] > 0).all())


@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_blocks_tokens_do_not_depend_on_other_blocks_lengths(model, block):
    """Which is why search encodes each block once for each length."""
    video = clips(2)
    one, other = torch.tensor([[4, 4, 4, 4], [2, 8, 32, 2]]), torch.tensor([[32, 2, 8, 2], [8, 2, 2, 32]])
    other[:, block] = one[:, block]
    for before, after in zip(model.encode(video, one).split(), model.encode(video, other).split()):
        codes = [c.codes.split(c.lengths[0].tolist())[block] for c in (before, after)]
        assert torch.equal(*codes)


@pytest.mark.parametrize("block", [0, 1, 2, 3])
def test_with_a_causal_encoder_tokens_depend_on_the_past_and_its_lengths_alone(block):
    causal = tiny(encoder_self_attention="causal")
    video, changed = clips(2), clips(2)
    changed[:, :, 4 * block : 4 * block + 4] = clips(2, seed=1)[:, :, :4]
    lengths = torch.tensor([[2, 8, 4, 2], [32, 2, 2, 4]])
    others = lengths.clone()
    others[:, block] = 8
    for after in (causal.encode(changed, lengths), causal.encode(video, others)):
        for clip, other, row in zip(causal.encode(video, lengths).split(), after.split(), lengths):
            earlier = int(row[:block].sum())
            assert torch.equal(clip.codes[:earlier], other.codes[:earlier])
    ends = [causal(video, each).encoded[-2:] for each in (lengths, others)]
    assert block == 3 or not torch.allclose(*ends)  # the last tokens feel how many came before them


def test_mixed_batch_equals_each_clip_alone(model):
    video = clips(5)
    lengths = model.assignments.random(5, torch.Generator().manual_seed(3))
    together = model.encode(video, lengths)
    alone = [model.encode(video[i : i + 1], lengths[i : i + 1]) for i in range(5)]
    assert torch.equal(together.codes, TokenizedClips.join(alone).codes)
    separately = torch.cat([model.decode(tokens) for tokens in alone])
    torch.testing.assert_close(model.decode(together), separately, atol=1e-5, rtol=0)


def test_decoding_stored_tokens_equals_the_direct_reconstruction(model):
    video = clips(3)
    lengths = model.assignments.random(3, torch.Generator().manual_seed(1))
    output = model(video, lengths)
    stored = model.encode(video, lengths)
    assert torch.equal(stored.codes, output.tokens.codes)
    torch.testing.assert_close(model.decode(stored), output.reconstruction.clamp(-1, 1), atol=1e-5, rtol=0)


def test_number_of_tokens_is_the_assigned_one(model):
    lengths = torch.tensor([[2, 2, 2, 2], [32, 8, 4, 2]])
    tokens = model.encode(clips(2), lengths)
    assert [len(clip.codes) for clip in tokens.split()] == [8, 46]


def test_every_parameter_is_trained(model):
    output = model(clips(2), torch.tensor([[2, 4, 8, 32], [32, 8, 4, 2]]))
    loss = output.reconstruction.square().mean() + sum(output.quantizer_losses.values())
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    without = [n for (n, _), g in zip(model.named_parameters(), gradients) if g is None or not g.abs().sum() > 0]
    assert without == []


def test_weights_survive_a_round_trip(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    again = VideoTokenizer.from_pretrained(tmp_path)
    video, lengths = clips(2), model.assignments.uniform(8, 2)
    tokens = model.encode(video, lengths)
    assert torch.equal(tokens.codes, again.encode(video, lengths).codes)
    assert torch.equal(model.decode(tokens), again.decode(tokens))


def test_other_sizes_and_durations_work(model):
    video = clips(1, frames=8, size=48)[..., :24]
    tokens = model.encode(video, torch.tensor([[4, 32]]))
    assert model.decode(tokens, (48, 24)).shape == video.shape


@pytest.mark.parametrize(
    ("shape", "lengths", "message"),
    [
        ((1, 3, 15, 32, 32), [[2, 2, 2, 2]], "multiple of the temporal patch 4; got 15"),
        ((1, 3, 16, 30, 32), [[2, 2, 2, 2]], r"multiples of the spatial patch 8.*nearest size that fits is \(32, 32\)"),
        ((1, 3, 16, 32, 32), [[2, 2, 2, 3]], r"\[3\] are no levels.*\[2, 4, 8, 32\]"),
        ((1, 3, 16, 32, 32), [[2, 2, 2]], r"need lengths of shape \(1, 4\), got \(1, 3\)"),
    ],
)
def test_bad_input_is_explained(model, shape, lengths, message):
    with pytest.raises(ValueError, match=message):
        model.encode(torch.zeros(shape), torch.tensor(lengths))


def test_tokens_that_cannot_be_decoded_are_explained(model):
    with pytest.raises(ValueError, match="add up to 8 tokens, but 7 codes"):
        model.decode(TokenizedClips(torch.zeros(7, dtype=torch.int64), torch.tensor([[2, 2, 2, 2]])))
    with pytest.raises(ValueError, match="codes run from 0 to 63, got 0 to 64"):
        model.decode(TokenizedClips(torch.tensor([0] * 7 + [64]), torch.tensor([[2, 2, 2, 2]])))


def test_angles_are_exact_whatever_the_precision_around_them():
    rotary, places = Rotary(32), torch.rand(50, 3) * torch.tensor([900.0, 1.0, 1.0])
    with torch.autocast("cpu", torch.bfloat16):
        inside = rotary(places)
    assert torch.equal(inside, rotary(places))
