"""The quality-cost study: every way's choices against plain definitions, and the command on real files."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import LEVELS, tiny_router, tiny_tokenizer

from evagen.commands.quality_cost import (
    QualityCost,
    _evenly,
    _load,
    _saved,
    _summarise,
    check_candidates,
    check_preferences,
    scale_of,
)
from evagen.config import check_config
from evagen.data.clips import Clip, SkippedClip
from evagen.errors import UserError
from evagen.kernels.levels import levels_to_floats
from evagen.scoring.length_choices import Choice, ClipSet, CostPoint, frechet_distances, max_reward, spread, threshold
from evagen.scoring.reconstruction import frechet_between
from evagen.tokenizer import AssignmentSpace, RewardScale


class Record:
    """Random figures of 5 clips, cheaper where fewer tokens."""

    def __init__(self, seed: int):
        random = torch.Generator().manual_seed(seed)
        self.space = AssignmentSpace([1, 3, 7], 2)
        tokens = self.space.table().sum(-1).double()
        self.perceptual = 2 / tokens + torch.rand(5, 9, generator=random, dtype=torch.float64) / 5
        self.mse = torch.rand(5, 9, generator=random, dtype=torch.float64) + 0.1
        self.distance = self.perceptual
        self.moving_mse = torch.rand(5, 9, generator=random, dtype=torch.float64)
        self.still_mse = torch.rand(5, generator=random, dtype=torch.float64)


def clip_set(seed: int) -> ClipSet:
    record = Record(seed)
    return ClipSet("held out", record, torch.zeros(5, 3, 2, 4, 4), RewardScale.of(record.perceptual, record.space))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_threshold_takes_the_cheapest_assignment_within_the_bound_or_else_the_longest(seed):
    clips = clip_set(seed)
    tokens = clips.space.table().sum(-1)
    for choice in threshold(clips, 5):
        expected = []
        for distances in clips.record.perceptual:
            within = [int(tokens[a]) for a in range(9) if distances[a] <= choice.dial]
            expected.append(min(within) if within else int(tokens.max()))
        assert tokens[choice.numbers].tolist() == expected
        assert clips.point(choice).tokens == pytest.approx(sum(expected) / 5)


def test_no_choice_has_a_higher_reward_than_max_reward():
    clips = clip_set(0)
    best = clips.point(max_reward(clips, 1.2))
    for chosen in torch.randint(9, (50, 5), generator=torch.Generator().manual_seed(1)):
        assert clips.point(Choice("any", 0, chosen, 1.2)).reward <= best.reward + 1e-12


def test_motion_explained_of_a_choice_by_hand():
    clips = clip_set(3)
    chosen = torch.tensor([0, 8, 4, 1, 2])
    record = clips.record
    moving, still = sum(record.moving_mse[i, chosen[i]] for i in range(5)), record.still_mse.sum()
    assert clips.point(Choice("any", 0, chosen)).motion == pytest.approx(float(1 - moving / still))


class Corners(torch.nn.Module):
    """A detector of four numbers: the means of a clip's corners."""

    name, fingerprint, num_features = "corners", "0", 4

    def forward(self, videos: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool3d(videos.mean(1, keepdim=True), (1, 2, 2)).flatten(1)


def test_frechet_distances_are_those_of_each_choice_by_itself():
    tokenizer = tiny_tokenizer()
    video = torch.randint(256, (6, 3, 8, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    record = Record(0)
    record.space = tokenizer.assignments
    clips = ClipSet("held out", record, video, None)
    last = tokenizer.assignments.count - 1
    chosen = [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, last, last], [last] * 6]
    choices = [Choice("any", dial, torch.tensor(numbers)) for dial, numbers in enumerate(chosen)]
    encoded = []
    encode = tokenizer.encode
    tokenizer.encode = lambda video, lengths: encoded.append(len(video)) or encode(video, lengths)
    found = frechet_distances(tokenizer, clips, choices, Corners(), batch_size=4)
    assert sum(encoded) == 6 + 2 + 4  # what is new in each
    real = levels_to_floats(video)
    for choice, distance in zip(choices, found):
        made = torch.cat([
            tokenizer.decode(encode(clip[None], tokenizer.assignments.lengths_of(number)[None]))
            for clip, number in zip(real, choice.numbers)
        ])  # fmt: skip
        assert distance == pytest.approx(frechet_between([real], [made], Corners()), rel=1e-3)
    assert found[0] != pytest.approx(found[2], rel=1e-3)


def test_choices_are_spread_over_the_dial_of_each_way():
    none = torch.zeros(1, dtype=torch.long)
    choices = [Choice(way, dial, none) for way, dials in (("a", range(9, 0, -1)), ("b", [7])) for dial in dials]
    kept = [choices[place] for place in spread(choices, 3)]
    assert [(choice.way, choice.dial) for choice in kept] == [("a", 1), ("a", 5), ("a", 9), ("b", 7)]


def routed(tokens: float, psnr: float = 30, perceptual: float = 0.9, motion: float | None = 0.5) -> CostPoint:
    return CostPoint("", "router", 1, tokens, psnr, perceptual, motion)


def test_savings_need_all_measures():
    uniform = routed(100, perceptual=1.0)
    blurred, stiller = routed(50, psnr=31, perceptual=1.1), routed(60, psnr=31, motion=0.4)
    assert _saved(uniform, [blurred], with_motion=False) is None
    assert _saved(uniform, [blurred, routed(80), routed(70), stiller], with_motion=True) == pytest.approx(0.3)
    assert _saved(uniform, [blurred, routed(80), routed(70), stiller], with_motion=False) == pytest.approx(0.4)
    assert _saved(uniform, [routed(150, psnr=31, perceptual=0.5)], with_motion=True) == pytest.approx(-0.5)
    assert _saved(uniform, [routed(90, motion=None)], with_motion=True) == pytest.approx(0.1)  # where nothing moves


def test_no_preference_is_lost_in_the_summary():
    preferences = _evenly((0.8, 1.6), 101)
    points = [replace(routed(50), dial=dial, reward=1.0, percentile=0.5) for dial in preferences]
    ways = [replace(point, way=way) for way in ("max reward", "best uniform") for point in points]
    uniform = [replace(routed(tokens), way="uniform") for tokens in (10, 100)]
    summary = _summarise([*points, *ways, *uniform, replace(routed(50), way="threshold")], {})
    assert len(summary["reward_percentile"]["router"]) == len(summary["router_reward_over_max_reward"]) == 101
    assert {"0.8", "1.2", "1.6"} <= set(summary["router_reward_over_max_reward"])


def test_a_study_of_no_clips_is_refused():
    with pytest.raises(UserError, match="held_out"):
        study(held_out={})


def test_a_clip_that_can_no_longer_be_decoded_is_named():
    record = Record(0)
    record.keys = torch.tensor([1, 0])
    record.open_clips = lambda: [SkippedClip("1.mp4", "frame 7 is damaged"), Clip(torch.zeros(3, 2, 4, 4), 0, 1, "", 0)]
    with pytest.raises(
        UserError, match=r"1\.mp4 of the clips held out can no longer be decoded \(frame 7 is damaged\)"
    ):
        _load("held out", record, None, None)


def test_mirror_images_of_clips_that_are_not_there_are_refused():
    with pytest.raises(UserError, match="mirrored names holdout, which held_out does not; its names are held out"):
        study(mirrored={"holdout": "images"})


def study(**changes) -> QualityCost:
    values = {
        "run": {"out": "study"}, "record": "curation", "held_out": {"held out": "held"}, "proxy": "proxy",
        "final": "final", "router": "routed", "single_routers": {1.2: "single"}, **changes,
    }  # fmt: skip
    return check_config(QualityCost, values, "test")


@pytest.mark.parametrize(
    ("asked", "main", "single", "blamed"),
    [
        (None, "z-score", "min-max", "single was trained on rewards of scale min-max, .* than those of z-score"),
        (None, "min-max", "z-score", "single was trained on rewards of scale z-score, .* with reward_scale=min-max"),
        ("z-score", "min-max", "z-score", "routed was trained on rewards of scale min-max, .* reward_scale=z-score"),
    ],
)
def test_routers_of_another_scale_are_refused(asked, main, single, blamed):
    """A record holds distances and serves either scale; it is routers, and what is asked for, that must agree."""
    routers = [tiny_router(reward_scale=name) for name in (main, single)]
    with pytest.raises(UserError, match=f"the router at {blamed}"):
        scale_of(study(reward_scale=asked), routers[0], {1.2: routers[1]})
    assert scale_of(study(reward_scale=single), routers[1], {1.2: routers[1]}) == single


@pytest.mark.parametrize(
    ("main", "single", "blamed"),
    [
        ([1.2, 1.2], [1.2, 1.2], "the router at routed was trained for the preference 1.2 alone, and a curve needs"),
        ([0.8, 1.0], [1.2, 1.2], "routed: this router was trained for preferences between 0.8 .* and 1 .*; got 1.2"),
        ([0.8, 1.6], [1.4, 1.4], "single: this router was trained for the preference 1.4 alone; got 1.2"),
    ],
)
def test_routers_are_asked_for_what_they_were_trained_for(main, single, blamed):
    routers = [tiny_router(preference_range=trained_for) for trained_for in (main, single)]
    with pytest.raises(UserError, match=blamed):
        check_preferences(study(), routers[0], {1.2: routers[1]})
    check_preferences(study(), tiny_router(), {1.2: tiny_router(preference_range=[1.2, 1.2])})


@pytest.mark.parametrize(
    ("main", "single", "blamed"),
    [
        ([2, 4], LEVELS, r"the router at routed is of 2 blocks with levels \[2, 4\], the record in curation of"),
        (LEVELS, [1, 2, 4, 8], r"the router at single is of 2 blocks with levels \[1, 2, 4, 8\], .* of that record"),
        (LEVELS, LEVELS, None),
    ],
)
def test_candidates_of_another_tokenizer_are_refused(main, single, blamed):
    routers = [tiny_router(levels=levels) for levels in (main, single)]
    arguments = study(), AssignmentSpace(LEVELS, 2), routers[0], {1.2: routers[1]}
    if blamed is None:
        check_candidates(*arguments)
    else:
        with pytest.raises(UserError, match=blamed):
            check_candidates(*arguments)
