"""Clips of a class with the lengths that were asked for, and what is said of them."""

import numpy as np
import pytest

from evagen.commands.sample_one import clips_of
from evagen.demo import figures
from evagen.demo.generate import generate
from evagen.demo.models import load_demo_models
from evagen.errors import UserError
from evagen.sampling.pipeline import VideoPipeline


def test_a_seed_gives_the_clips_of_sampling_without_a_config(models, pipelines):
    made = generate(models["clips"], "Skiing", count=2, seed=3)
    _, clips, tokens = clips_of(str(pipelines / "clips"), ["Skiing"], 2, seed=3)
    assert np.array_equal(made.clips, clips)
    assert made.lengths == tuple(tuple(clip.lengths.tolist()) for clip in tokens)
    assert not np.array_equal(generate(models["clips"], "Skiing", 2, 3, guidance=3.0).clips, clips)
    assert made.tokens == sum(map(sum, made.lengths))
    assert made.tokens_per_second == pytest.approx(made.tokens / 2 * 15 / 8)
    assert made.share_of_longest == pytest.approx(made.tokens / (4 * 8))


def test_lengths_are_as_forced_and_within_a_bound(models):
    assert generate(models["clips"], "Boxing", 2, forced=[8, 2]).lengths == ((8, 2), (8, 2))
    for seed in range(4):
        half, whole = generate(models["clips"], "Boxing", 4, seed, forced=[4, None]).lengths[0]
        assert half == 4
        assert whole in (2, 4, 8)
        assert all(sum(lengths) <= 6 for lengths in generate(models["clips"], "Boxing", 4, seed, max_tokens=6).lengths)


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("memory", {"class_name": None}, "has no generator"),
        ("clips", {"class_name": "Boxng"}, "nearest are Boxing"),
        ("clips", {"class_name": "Boxing", "count": 9}, "give 1 to 4"),
        ("clips", {"class_name": "Boxing", "max_tokens": 3}, "cannot do with 3 tokens"),
        ("clips", {"class_name": "Boxing", "forced": [3, 3]}, "each one of"),
    ],
)
def test_what_cannot_be_is_explained(models, name, arguments, reason):
    with pytest.raises(UserError, match=reason):
        generate(models[name], **arguments)


def test_only_whole_pipelines_are_taken(tmp_path, pipelines):
    with pytest.raises(UserError, match=r"no pipeline of evagen.*evagen export pipeline"):
        load_demo_models(str(tmp_path))
    VideoPipeline.of(None, pipelines / "clips").save_pretrained(tmp_path / "alone")
    with pytest.raises(UserError, match="has no router"):
        load_demo_models(str(tmp_path / "alone"))


def test_what_comes_from_outside_is_shown_as_text(models):
    made = generate(models["clips"], "Boxing")
    assert "<script>" not in figures.of_generated(made, "<script>") + figures.problem("<script>.mp4 is bad")


def test_a_long_timeline_is_drawn_narrow():
    short, long = (figures.timeline([8] * count, [], 0.2, 8, "tokens") for count in (20, 200))
    assert "narrow" not in short
    assert "narrow" in long
    assert short.count("20.0 s") + long.count("<b>") == 0
    assert long.count('class="block"') == 200
