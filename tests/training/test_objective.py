"""The objective by config: terms against formulas written by hand, learning rates, turns, resuming."""

from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from transformers import VJEPA2Config, VJEPA2Model

from evagen.config import check_config
from evagen.errors import UserError
from evagen.tokenizer import LossWeights, VideoTokenizer, tokenizer_loss
from evagen.tokenizer.losses import place_weights
from evagen.training.objective import Objective, ObjectiveConfig
from evagen.training.optimizers import make_scheduler
from evagen.training.settings import OptimizerConfig

OPTIMIZER = OptimizerConfig(steps=8, batch_size=2, learning_rate=0.01, warmup_steps=3)
SMALL = {"width": 16, "depth": 1, "heads": 2}


def tokenizer(**changes) -> VideoTokenizer:
    torch.manual_seed(0)
    sizes = {
        "levels": [1, 4], "num_frames": 8, "resolution": 16, "codebook_size": 16, "code_width": 4,
        "encoder_width": 16, "encoder_depth": 1, "encoder_heads": 2,
        "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2,
    }  # fmt: skip
    return VideoTokenizer(**(sizes | changes))


def objective(
    model: VideoTokenizer, accelerator: Accelerator | None = None, pieces: tuple[int, ...] = (), **loss
) -> Objective:
    config = check_config(ObjectiveConfig, loss, "test")
    return Objective(config, model, OPTIMIZER, accelerator or Accelerator(cpu=True), pieces)


def adversarial(**changes) -> dict:
    return {"discriminator": "transformer", "transformer": SMALL, "ramp_steps": 0, **changes}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = VJEPA2Config(
        patch_size=8, crop_size=16, hidden_size=48, num_attention_heads=2, num_hidden_layers=1, pred_hidden_size=48,
        pred_num_attention_heads=2, pred_num_hidden_layers=1, pred_num_mask_tokens=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("teacher")
    VJEPA2Model(config).save_pretrained(folder)
    return folder


def clips(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, 8, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def terms_of(weights: LossWeights) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    output, video = tokenizer()(clips(), torch.tensor([[4, 1], [1, 4]])), clips(1)
    loss, terms = tokenizer_loss(output, video, weights, lambda fake, real: (fake - real).square().mean((1, 2, 3)))
    return loss, terms, output.reconstruction - video


@pytest.mark.parametrize("wrong", [{"pixel_range": "Unit"}, {"code_reduction": "none"}])
def test_ways_to_measure_that_there_are_not_are_refused(wrong):
    with pytest.raises(ValueError, match=r"=.*: \w+ or \w+ is possible"):
        LossWeights(**wrong)


def test_pixels_in_the_unit_range_halve_differences():
    _, signed, error = terms_of(LossWeights())
    _, unit, _ = terms_of(LossWeights(pixel_range="unit"))
    torch.testing.assert_close(unit["l1"], (error.abs() / 2).mean())
    torch.testing.assert_close(unit["l2"], (error / 2).square().mean())
    assert {name for name in signed if not torch.equal(signed[name], unit[name])} == {"l1", "l2"}


def test_mean_over_the_numbers_of_a_code_by_hand():
    model = tokenizer()
    output = model(clips(), torch.tensor([[4, 1], [1, 4]]))
    _, terms, _ = terms_of(LossWeights(code_reduction="mean"))
    by_hand = F.mse_loss(model.quantizer.lookup(output.tokens.codes), output.encoded)  # over vectors and numbers
    for name in ("codebook", "commitment"):
        torch.testing.assert_close(terms[name], by_hand)
        torch.testing.assert_close(terms_of(LossWeights())[1][name], 4 * by_hand)


def test_what_moves_weighs_more_by_hand():
    _, plain, error = terms_of(LossWeights())
    _, terms, _ = terms_of(LossWeights(moving_pixels=10))
    video = clips(1).numpy()
    background = np.percentile(video, 50, axis=2, method="lower", keepdims=True)
    weights = torch.tensor(1 + 10 * np.minimum(np.abs(video - background).max(1, keepdims=True), 0.5))
    torch.testing.assert_close(terms["l1"], (error.abs() * weights).mean())
    torch.testing.assert_close(terms["l2"], (error.square() * weights).mean())
    assert {name for name in plain if not torch.equal(plain[name], terms[name])} == {"l1", "l2"}


@pytest.mark.parametrize("frames", [1, 4])
def test_still_clips_weigh_as_without_and_flashes_stay_finite(frames):
    still = clips()[:, :, :1].expand(-1, -1, frames, -1, -1)
    assert torch.equal(place_weights(still, 10), torch.ones(2, 1, frames, 16, 16))
    flashes = torch.tensor([-1.0, 1.0]).repeat(4).view(1, 1, 8, 1, 1).expand(2, 3, -1, 16, 16)
    assert set(place_weights(flashes, 10).unique().tolist()) == {1.0, 6.0}


def test_the_total_is_the_weighted_sum_in_the_ranges_chosen():
    weights = LossWeights(l1=2, l2=3, perceptual=5, pixel_range="unit", code_reduction="mean")
    loss, terms, _ = terms_of(weights)
    torch.testing.assert_close(loss, sum(getattr(weights, name) * term for name, term in terms.items()))


def test_entropy_term_at_the_temperature_asked_for_by_hand():
    model = tokenizer()
    objective(model, entropy_temperature=0.5)
    output = model(clips(), torch.tensor([[4, 1], [1, 4]]))
    distances = torch.cdist(output.encoded, F.normalize(model.quantizer.codebook, dim=-1)).square()
    p = (-distances / 0.5).softmax(-1)
    by_hand = torch.special.entr(p).sum(-1).mean() - torch.special.entr(p.mean(0)).sum()
    torch.testing.assert_close(output.quantizer_losses["entropy"], by_hand, atol=1e-5, rtol=1e-5)


def step_through(objective: Objective, model: VideoTokenizer, steps: int) -> list[tuple[dict, dict]]:
    """Networks that learn beside a tokenizer that stands still: their learning rates and terms at every step."""
    seen = []
    for step in range(steps):
        rates = {name: each.param_groups[0]["lr"] for name, each in objective.optimizers.items()}
        output, video = model(clips(step), torch.tensor([[4, 1], [1, 4]])), clips(step)
        loss, _ = objective.for_tokenizer(output, video, torch.arange(4), step, model.to_pixels.weight)
        loss.backward()
        seen.append((rates, objective.after_update(output, video, step, torch.Generator())))
    return seen


def test_learning_rates_go_as_the_tokenizers_does(teacher):
    model = tokenizer()
    alignment = {"weight": 0.7, "teacher": str(teacher), "layer": 1, "learning_rate": 0.002, "projection": "teacher"}
    networks = objective(model, adversarial=adversarial(learning_rate=0.004), alignment=alignment)
    own = torch.optim.SGD(model.parameters(), lr=OPTIMIZER.learning_rate)
    scheduler = make_scheduler(own, OPTIMIZER)
    for rates, learnt in step_through(networks, model, OPTIMIZER.steps):
        assert learnt.keys() == {"alignment_gradient_norm", "discriminator", "discriminator_gradient_norm"}
        share = own.param_groups[0]["lr"] / OPTIMIZER.learning_rate
        assert rates["discriminator"] == pytest.approx(0.004 * share)
        assert rates["alignment"] == pytest.approx(0.002 * share)
        own.step()
        scheduler.step()


def test_the_discriminator_learns_at_every_third_step_only():
    model = tokenizer()
    networks, weights = objective(model, adversarial=adversarial(every=3)), []
    for step in range(7):
        output = model(clips(step), torch.tensor([[4, 1], [1, 4]]))
        _, terms = networks.for_tokenizer(output, clips(), torch.arange(4), step, model.to_pixels.weight)
        learnt = networks.after_update(output, clips(), step, torch.Generator())
        weights.append(networks.discriminator.to_logits.weight.detach().clone())
        assert "adversarial" in terms
        assert ("discriminator" in learnt) == (step in (0, 3, 6))
    assert [not torch.equal(*pair) for pair in pairwise(weights)] == [False, False, True, False, False, True]


def test_batches_of_one_step_move_the_schedule_once():
    model, accelerator = tokenizer(), Accelerator(cpu=True, gradient_accumulation_steps=2)
    networks = objective(model, accelerator, adversarial=adversarial(learning_rate=0.004))
    rates = []
    for step, _ in product(range(3), range(2)):
        with accelerator.accumulate(model):
            output = model(clips(), torch.tensor([[4, 1], [1, 4]]))
            networks.after_update(output, clips(), step, torch.Generator())
            rates.append(networks.optimizers["discriminator"].param_groups[0]["lr"])
    assert rates == pytest.approx([0, 0.004 / 3, 0.004 / 3, 0.008 / 3, 0.008 / 3, 0.004])


def test_the_norm_told_is_that_of_the_gradient_of_a_whole_step():
    model, accelerator = tokenizer(), Accelerator(cpu=True, gradient_accumulation_steps=2)
    networks, told = objective(model, accelerator, adversarial=adversarial()), []
    reconstruction = model(clips(), torch.tensor([[4, 1], [1, 4]])).reconstruction.detach()
    fake = F.relu(1 + networks.discriminator(reconstruction)).mean()
    real = [F.relu(1 - networks.discriminator(clips(batch))).mean() for batch in range(2)]
    weights = list(networks.discriminator.parameters())
    by_hand = torch.nn.utils.get_total_norm(torch.autograd.grad((sum(real) / 2 + fake) / 2, weights))
    for batch in range(2):
        with accelerator.accumulate(model):
            output = model(clips(), torch.tensor([[4, 1], [1, 4]]))
            told.append(networks.after_update(output, clips(batch), 0, torch.Generator()))
    assert told[0].keys() == {"discriminator"}
    torch.testing.assert_close(told[1]["discriminator_gradient_norm"], by_hand)


@pytest.mark.parametrize("form", ["hinge", "non_saturating"])
def test_the_form_is_that_of_both_sides(form):
    model = tokenizer()
    networks = objective(model, adversarial=adversarial(form=form))
    output, video = model(clips(), torch.tensor([[4, 1], [1, 4]])), clips(1)
    with torch.no_grad():
        real, fake = networks.discriminator(video), networks.discriminator(output.reconstruction)
    _, terms = networks.for_tokenizer(output, video, torch.arange(4), 0, model.to_pixels.weight)
    learnt = networks.after_update(output, video, 0, torch.Generator())
    if form == "hinge":
        theirs, ours = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2, -fake.mean()
    else:
        theirs, ours = -real.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean(), -fake.sigmoid().log().mean()
    torch.testing.assert_close(learnt["discriminator"], theirs)
    torch.testing.assert_close(terms["adversarial"], ours)


def test_noisy_labels_come_from_the_batchs_random_numbers():
    def learnt(seed: int, noise: float = 0.15) -> float:
        model = tokenizer()
        networks = objective(model, adversarial=adversarial(form="non_saturating", label_noise=noise))
        output = model(clips(), torch.tensor([[4, 1], [1, 4]]))
        return networks.after_update(output, clips(1), 0, torch.Generator().manual_seed(seed))["discriminator"].item()

    assert learnt(0) == learnt(0) != learnt(1)
    assert learnt(0, 0.0) == learnt(1, 0.0)


@pytest.mark.parametrize(
    ("loss", "sizes", "message"),
    [
        ({"adversarial": {"label_noise": 0.1}}, {}, "label_noise needs loss.adversarial.form=non_saturating"),
        ({"adversarial": adversarial()}, {"num_frames": 6, "temporal_patch": 2}, "needs frames in fours .* not 6 × 16"),
        ({"adversarial": adversarial(transformer={"width": 30})}, {}, "multiple of 4 and of the 8 heads, not 30"),
        ({"alignment": {"projection": "teacher"}}, {"num_frames": 6, "temporal_patch": 3}, "3 tubelets .* 2 temporal"),
        (
            {"adversarial": {"discriminator": "patch"}},
            {"num_frames": 2, "temporal_patch": 2},
            "at least 4 .* not 2 × 16",
        ),
        ({"adversarial": {"discriminator": "patch"}, "pieces": (2,)}, {}, "at least 4 frames .* not 2 × 16"),
        ({"adversarial": adversarial(), "pieces": (4, 2)}, {}, "needs frames in fours .* not 2 × 16"),
        ({"alignment": {"projection": "teacher"}, "pieces": (8, 4)}, {}, r"for clips of 8 frames, and pieces=\[8, 4\]"),
        ({"alignment": {}, "pieces": (1,)}, {"temporal_patch": 1}, "number of frames must be a multiple of 2, got 1"),
        ({"alignment": {}}, {"num_frames": 9, "temporal_patch": 3}, "number of frames must be a multiple of 2, got 9"),
    ],
)
def test_settings_that_do_not_go_together_are_explained(teacher, loss, sizes, message):
    if "alignment" in loss:
        alignment = {"weight": 0.7, "layer": 1, "teacher": str(teacher)}
        loss = {**loss, "alignment": loss["alignment"] | alignment}
    with pytest.raises(UserError, match=message):
        objective(tokenizer(**sizes), **loss)
