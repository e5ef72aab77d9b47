"""Curation of states, for tokenizers with a memory, and the router of blocks that is trained on it."""

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny_curation import curation, routing, write_inputs
from tiny_models import tiny_tokenizer

from evagen.commands import curate, train_router
from evagen.data.curation_record import read_record
from evagen.errors import UserError
from evagen.tokenizer import BlockRouter, RewardScale, VideoTokenizer, proxy_reward

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("states")
    write_inputs(root)
    return root


def state_curation(root: Path, out: Path, **changes) -> curate.Curation:
    """Of a tokenizer with a memory: up to two blocks of past, two that are searched."""
    tiny_tokenizer(memory_blocks=2).save_pretrained(out.parent / "remembers")
    data = {"root": str(root / "videos"), "layout": "folder", "frames": 8, "size": 32}
    changes = {"tokenizer": str(out.parent / "remembers"), "data": data, "past": 1, **changes}
    return curation(root, out, **changes)


def test_states_are_searched_after_their_past(root, tmp_path):
    curate.main(state_curation(root, tmp_path / "out"))
    record, tokenizer = read_record(tmp_path / "out"), VideoTokenizer.from_pretrained(tmp_path / "remembers").eval()
    assert (record.space.count, record.num_past, record.memory_blocks) == (3, 1, 2)
    assert len(set(record.past[:, 0].tolist())) > 2  # none, and different lengths
    for row, key in enumerate(record.keys.tolist()):
        video = record.open_clips()[key].video[None]
        past = record.past[row][record.past[row] > 0]
        video = video[:, :, (1 - len(past)) * 4 :]
        for candidate, length in enumerate(record.space.levels):
            lengths = torch.cat([past, torch.tensor([length])])[None]
            block = tokenizer.decode(tokenizer.encode(video, lengths))[:, :, -4:]
            mse = (block - video[:, :, -4:]).square().mean()
            assert record.mse[row, candidate] == pytest.approx(float(mse), rel=1e-4)
    rewards = record.reward(torch.arange(3), 1.2, RewardScale.min_max(record.space, 0.0, 1.0))
    assert rewards.shape == (3, 3)


def test_a_reward_of_a_length_is_that_of_the_best_that_can_follow(root, tmp_path):
    data = {"root": str(root / "videos"), "layout": "folder", "frames": 8, "size": 32}
    curate.main(state_curation(root, tmp_path / "out", past=0, data=data))
    record = read_record(tmp_path / "out")
    scale, rows = RewardScale.min_max(record.space, 0.0, 1.0), torch.arange(len(record.keys))
    every = proxy_reward(record.distance, 1.2, record.space, scale)  # two blocks of 3 lengths each
    table = record.space.table()
    for number, length in enumerate(record.space.levels):
        best = every[:, table[:, 0] == length].max(1).values
        assert torch.equal(record.reward(rows, 1.2, scale)[:, number], best)


def test_what_a_length_leaves_to_later_blocks_counts(root, tmp_path):
    data = {"root": str(root / "videos"), "layout": "folder", "frames": 8, "size": 32}
    curate.main(state_curation(root, tmp_path / "out", past=0, future=1, data=data))
    record, tokenizer = read_record(tmp_path / "out"), VideoTokenizer.from_pretrained(tmp_path / "remembers").eval()
    assert (record.space.count, record.num_past, record.num_future) == (3, 0, 1)
    key = int(record.keys[0])
    video = record.open_clips()[key].video[None]
    seen = {}
    for last in record.space.levels:
        lengths = torch.tensor([[length, last] for length in record.space.levels])
        blocks = tokenizer.decode(tokenizer.encode(video.expand(3, -1, -1, -1, -1), lengths))
        errors = (blocks - video).square().flatten(1, 1).mean((1, 3, 4)).unflatten(1, (2, 4)).mean(2)  # 3 lengths, 2
        torch.testing.assert_close(record.mse[0], errors[:, 0].double(), atol=1e-6, rtol=1e-4)
        seen[last] = errors[:, 1].double()
    later = torch.from_numpy(record.table["later_mse"][:])[0].double()
    assert sum(torch.allclose(later, each, rtol=1e-4) for each in seen.values()) == 1  # of the length that was drawn
    scale = RewardScale.min_max(record.space, 0.0, 1.0)
    both = proxy_reward(record.distance + record.later_distance, 1.2, record.space, scale)
    assert torch.equal(record.reward(torch.arange(len(both)), 1.2, scale), both)
    assert record.scale("min-max") == RewardScale.of(record.distance, record.space, "min-max")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"past": 1, "future": 1},
            "past=1, future=1: clips of data.frames=8 have 2 blocks, of which none is left .* data.frames=20 to",
        ),
        ({"past": 0, "future": 1, "tokenizer": None}, "past=0, future=1: the tokenizer at .* has no memory"),
    ],
)
def test_a_past_that_cannot_be_is_explained(root, tmp_path, changes, message):
    if "tokenizer" in changes:
        changes = {**changes, "tokenizer": str(root / "tokenizer")}
    with pytest.raises(UserError, match=message):
        curate.main(state_curation(root, tmp_path / "out", **changes))


def test_a_router_of_blocks_is_trained_on_states(root, tmp_path):
    curate.main(state_curation(root, tmp_path / "states"))
    model = {"patch": 4, "width": 32, "depth": 1, "num_heads": 2}
    train_router.main(routing(tmp_path / "states", tmp_path / "router", model=model))
    router = BlockRouter.from_pretrained(tmp_path / "router").eval()
    assert (router.config.levels, router.config.memory_blocks, router.config.temporal_patch) == ([2, 4, 8], 2, 4)
    record = read_record(tmp_path / "states")
    features_of = train_router._features_of(router, record)
    dataset = record.open_clips()
    for row, key in enumerate(record.keys.tolist()):  # as the router itself sees it while a video goes by
        past = record.past[row][record.past[row] > 0][None]
        video = dataset[key].video[None, :, (1 - past.shape[1]) * 4 :]
        seen = router.features(video[:, :, -4:], video[:, :, :-4], past)
        torch.testing.assert_close(features_of(dataset[key]), seen[0])


def test_a_preference_means_for_states_what_it_means_for_clips(root, tmp_path):
    """The scale of rewards is that of beginnings, which have no past."""
    curate.main(state_curation(root, tmp_path / "out"))
    record = read_record(tmp_path / "out")
    begins = record.past[:, 0] == 0
    assert 0 < int(begins.sum()) < len(begins)
    falling = torch.linspace(2, 1, 3).double() * torch.where(begins, 3.0, 1.0)[:, None].double()  # n A
    record = dataclasses.replace(record)
    vars(record)["distance"] = falling
    assert record.scale("min-max") == RewardScale.min_max(record.space, 3.0, 6.0)
