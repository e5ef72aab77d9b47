"""The learning rate of each step, by every schedule."""

import math

import pytest
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup, get_scheduler
from torch import nn

from evagen.config import check_config
from evagen.errors import UserError
from evagen.training.optimizers import make_optimizers, make_scheduler
from evagen.training.settings import OptimizerConfig

PEAK, FLOOR, STEPS, WARMUP = 1e-4, 1e-6, 50, 5


def config(**changes) -> OptimizerConfig:
    values = {"steps": STEPS, "batch_size": 1, "learning_rate": PEAK, "warmup_steps": WARMUP, **changes}
    return check_config(OptimizerConfig, values, "test")


def rates(settings: OptimizerConfig, matrices: str = "adamw") -> list[list[float]]:
    """Of each optimiser, in each step and after the last."""
    model = nn.ModuleDict({"layers": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    optimizers = make_optimizers(model, settings.model_copy(update={"matrices": matrices}))
    schedulers = [make_scheduler(each, settings) for each in optimizers]
    seen = [[each.get_last_lr()[0]] for each in schedulers]
    for _ in range(settings.steps):
        for optimizer, scheduler, so_far in zip(optimizers, schedulers, seen):
            optimizer.step()
            scheduler.step()
            so_far.append(scheduler.get_last_lr()[0])
    return seen


def cosine(step: int) -> float:
    return FLOOR + (PEAK - FLOOR) * (1 + math.cos(math.pi * (step - 5) / 45)) / 2


def wsd(step: int) -> float:  # the last 20% of 50 steps are ten
    return PEAK if step <= 40 else PEAK - (PEAK - FLOOR) * (step - 40) / 10


@pytest.mark.parametrize(
    ("schedule", "after_warmup"), [("cosine", cosine), ("wsd", wsd), ("constant", lambda step: PEAK)]
)
def test_the_rate_of_every_step(schedule, after_warmup):
    floor = {} if schedule == "constant" else {"final_learning_rate": FLOOR}
    expected = [PEAK * step / 5 for step in range(5)] + [after_warmup(step) for step in range(5, 51)]
    assert rates(config(schedule=schedule, **floor)) == [pytest.approx(expected, rel=1e-12, abs=1e-20)]
    assert expected[5] == pytest.approx(PEAK)
    assert expected[-1] == pytest.approx(PEAK if schedule == "constant" else FLOOR)


def test_wsd_in_another_part_of_the_steps():
    (seen,) = rates(config(schedule="wsd", decay_share=0.5, warmup_steps=0))
    assert seen == pytest.approx([PEAK * min(1, (50 - step) / 25) for step in range(51)], abs=1e-20)
    (seen,) = rates(config(schedule="wsd", decay_share=1.0))  # warm-up comes first
    assert seen == pytest.approx([PEAK * min(step / 5, (50 - step) / 45) for step in range(51)], abs=1e-20)


@pytest.mark.parametrize("warmup", [0, 1, 7, 50, 80])
def test_the_default_is_to_the_last_digit_what_diffusers_calls_cosine(warmup):
    optimizers = [torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK) for _ in range(2)]
    theirs = get_cosine_schedule_with_warmup(optimizers[0], warmup, STEPS)
    ours = make_scheduler(optimizers[1], config(warmup_steps=warmup))
    for _ in range(STEPS + 1):
        assert ours.get_last_lr() == theirs.get_last_lr()
        for each in (*optimizers, ours, theirs):
            each.step()


@pytest.mark.parametrize(
    ("name", "settings", "theirs"),
    [
        ("linear", {}, {}),
        ("polynomial", {"power": 2.0}, {"power": 2.0}),
        ("cosine_with_restarts", {"cycles": 3}, {"num_cycles": 3}),
        ("piecewise_constant", {"pieces": "1:10,0.1:20,0.01", "warmup_steps": 0}, {"step_rules": "1:10,0.1:20,0.01"}),
    ],
)
def test_diffusers_schedules_are_theirs(name, settings, theirs):
    (seen,) = rates(config(schedule=name, **settings))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    steps = {} if name == "piecewise_constant" else {"num_warmup_steps": 5, "num_training_steps": STEPS}
    scheduler = get_scheduler(name, optimizer, **steps, **theirs)
    expected = []
    for _ in range(STEPS + 1):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert seen[: len(expected)] == pytest.approx(expected, abs=1e-20)
    assert len(set(seen)) > 2


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_muon_falls_by_the_same_factor_as_adamw(schedule):
    muon, adamw = rates(config(schedule=schedule, final_learning_rate=FLOOR, muon_learning_rate=0.02), matrices="muon")
    assert muon == pytest.approx([rate * 200 for rate in adamw])
    assert muon[-1] == pytest.approx(2e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"final_learning_rate": 2e-4}, "final_learning_rate=0.0002 lies above learning_rate=0.0001"),
        ({"final_learning_rate": -1.0}, "'final_learning_rate' is -1.0: input should be greater than or equal to 0"),
        ({"schedule": "constant", "final_learning_rate": 1e-6}, "does nothing with schedule=constant"),
        ({"schedule": "linea"}, "'schedule' is 'linea': input should be 'cosine', 'wsd', 'constant', 'linear'"),
        ({"schedule": "linear", "final_learning_rate": 1e-6}, "does nothing with schedule=linear"),
        ({"schedule": "piecewise_constant", "warmup_steps": 0}, "piecewise_constant and pieces=.* go together"),
        ({"pieces": "1:10,0.1"}, "piecewise_constant and pieces=.* go together"),
        ({"schedule": "piecewise_constant", "pieces": "1:10"}, "warmup_steps=5 does nothing"),
        ({"schedule": "piecewise_constant", "pieces": "1;10", "warmup_steps": 0}, "pieces=1;10 should read"),
        ({"schedule": "piecewise_constant", "pieces": "1..2:5,0.1", "warmup_steps": 0}, r"pieces=1\.\.2:5,0.1 should"),
        ({"schedule": "piecewise_constant", "pieces": "1:5,..", "warmup_steps": 0}, r"pieces=1:5,\.\. should read"),
        ({"schedule": "polynomial", "learning_rate": 1e-7}, "learning_rate=1e-07 must lie above 1e-07"),
        ({"muon_learning_rate": 0.1}, "does nothing with matrices=adamw: give matrices=muon, or 0.02"),
        ({"cycles": 3}, "cycles=3 does nothing with schedule=cosine: give schedule=cosine_with_restarts, or 1"),
        ({"schedule": "constant", "power": 2.0}, "power=2 does nothing with schedule=constant: give schedule=poly"),
        ({"decay_share": 0.9}, "decay_share=0.9 does nothing with schedule=cosine: give schedule=wsd, or 0.2"),
        ({"betas": (1.0, 0.9)}, "1.0"),
        ({"betas": (0.9, -1.0)}, "-1.0"),
        ({"decay_share": 0.0}, "'decay_share' is 0.0: input should be greater than 0"),
        ({"decay_share": 1.1}, "'decay_share' is 1.1: input should be less than or equal to 1"),
    ],
)
def test_what_makes_no_schedule_is_explained(values, message):
    with pytest.raises(UserError, match=message):
        config(**values)
