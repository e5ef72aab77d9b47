"""The study of long videos, tiny: what each way spends, savings at equal quality, resuming."""

import json
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch
import yaml
from tiny_models import LEVELS, random_clips, tiny_block_router, tiny_router, tiny_tokenizer
from torch.multiprocessing.reductions import StorageWeakRef

from evagen.commands import long_videos
from evagen.commands.curate import Curation
from evagen.config import check_config, load_config
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.levels import video_to_frames
from evagen.report.long_plot import _line
from evagen.scoring.long_ways import (
    CLIPS,
    CLIPS_UNIFORM,
    MEMORY,
    MEMORY_UNIFORM,
    RatePoint,
    VideoScores,
    tokens_at_equal_quality,
)
from evagen.scoring.minutes import Minutes, compare_minutes
from evagen.tokenizer import VideoTokenizer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Two videos of 24 frames, tokenizers and routers with random weights, and two videos that pass for generated."""
    root = tmp_path_factory.mktemp("long")
    taught(tiny_tokenizer(memory_blocks=2, num_frames=16)).save_pretrained(root / "remembers")
    tiny_block_router().save_pretrained(root / "blocks")
    tiny_tokenizer().save_pretrained(root / "tokenizer")
    tiny_router().save_pretrained(root / "router")
    rows = []
    for number in range(2):
        frames = video_to_frames(random_clips(1, number, frames=24)[0])
        write_video(root / "videos" / f"{number}.mkv", frames, 15)
        write_video(root / "samples" / f"{number}.mkv", frames if number else frames[::-1], 15)
        rows.append(json.dumps({"number": number, "path": f"{number}.mkv"}) + "\n")
    (root / "samples" / "tokens.jsonl").write_text("".join(rows))
    curation = {
        "run": {"out": "nowhere"}, "data": {"root": "nowhere", "layout": "folder"}, "tokenizer": "nowhere",
        "distance_frames": 1, "mse_weight": 5.0,
    }  # fmt: skip
    (root / "curation.yaml").write_text(yaml.safe_dump(curation))
    return root


def taught(tokenizer: VideoTokenizer) -> VideoTokenizer:
    """That more tokens are better, which search needs: with the shortest lengths it has no practice."""
    optimizer = torch.optim.Adam(tokenizer.parameters(), 0.003)
    video = torch.cat([random_clips(1, number, frames=24)[:, :, :16] for number in range(2)])
    longest = torch.full((len(video), video.shape[2] // tokenizer.config.temporal_patch), max(LEVELS))
    for _ in range(60):
        output = tokenizer(video, longest)
        loss = (output.reconstruction - video).square().mean() + sum(output.quantizer_losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tokenizer.eval()


def study(models: Path, out: Path, **changes) -> long_videos.LongVideos:
    data = {"root": str(models / "videos"), "layout": "folder", "frames": 24, "size": 32, "clip": "first"}
    data |= {key: changes.pop(f"data.{key}") for key in ("frames", "size") if f"data.{key}" in changes}
    values = {
        "run": {"out": str(out)},
        "data": data,
        "memory": {"tokenizer": str(models / "remembers"), "router": str(models / "blocks")},
        "clips": {"tokenizer": str(models / "tokenizer"), "router": str(models / "router")},
        "preferences": [0.8, 1.2], "motion_frames": 8, "frames_per_second": 1, "rates": [1.5], "rate_window": 8,
        **changes,
    }  # fmt: skip
    return check_config(long_videos.LongVideos, values, "test")


def test_every_way_is_measured_and_nothing_twice(models, tmp_path, monkeypatch):
    config = study(
        models, tmp_path / "out", curation=str(models / "curation.yaml"), searched_clips=3,
        samples=str(models / "samples"),
    )  # fmt: skip
    out = long_videos.main(config)
    summary = json.loads((out / "summary.json").read_text())
    points = [RatePoint(**point) for point in summary["points"]]
    assert sorted({p.way for p in points}) == sorted([MEMORY, MEMORY_UNIFORM, CLIPS, CLIPS_UNIFORM])
    for point in points:
        if point.way in (MEMORY_UNIFORM, CLIPS_UNIFORM):
            assert point.tokens == 6 * point.setting / 24 * 60  # six blocks in 24 seconds
    assert {p.setting for p in points if p.way == CLIPS_UNIFORM} == set(LEVELS)
    (rate,) = summary["rates"]
    assert rate["most_in_a_window"] <= 1
    search = summary["search"]
    assert (search["block_evaluations_of_brute_force"], search["block_evaluations_a_clip"]) == (324, 3 + 3 * 6)
    assert 0.5 < search["share_of_reward_range"] <= 1
    assert summary["minutes"]["moving_first"] == pytest.approx(summary["minutes"]["moving_last"], rel=0.5)
    assert summary["minutes"]["frechet_first_to_last"] > 0
    assert all((out / name).stat().st_size for name in ("table.md", "long.png", "tokens_over_time.png"))
    monkeypatch.setattr(long_videos, "psnr", None)  # what is measured again would fail
    before = (out / "summary.json").read_text()
    long_videos.main(config)
    assert (out / "summary.json").read_text() == before
    made_from = out / "ways" / "made_from.json"
    about = made_from.read_text()
    made_from.write_text(about.replace(json.loads(about)["clips.tokenizer"], "0" * 16))
    with pytest.raises(UserError, match=r"holds results that were made from other clips\.tokenizer than there are now"):
        long_videos.main(config)
    made_from.write_text(about)
    added = models / "videos" / "2.mkv"
    added.write_bytes((models / "videos" / "1.mkv").read_bytes())
    try:
        with pytest.raises(UserError, match="holds results that were made from other videos than there are now"):
            long_videos.main(config)
    finally:
        added.unlink()


def test_whole_videos_are_in_memory_one_by_one(models, tmp_path):
    earlier = []

    def one_by_one():
        for number in range(3):
            video = random_clips(1, number, frames=24)[0]
            yield video
            earlier.append(StorageWeakRef(video.untyped_storage()))
            del video
            assert all(each.expired() for each in earlier[:-1])  # the last one is still in hand

    assert compare_minutes(models / "samples", ((video, None) for video in one_by_one()), 1).videos == 2
    assert len(earlier) == 3
    curation = load_config(Curation, models / "curation.yaml")
    config = study(models, tmp_path / "out", searched_clips=2)
    tokenizer = VideoTokenizer.from_pretrained(models / "remembers")
    assert long_videos._search(config, curation, one_by_one(), tokenizer)["clips"] == 2
    assert len(earlier) <= 4  # two clips of the first


def test_clips_of_a_long_video_are_encoded_some_at_a_time(models):
    tokenizer = VideoTokenizer.from_pretrained(models / "tokenizer")
    video, seen, encode = random_clips(1, 0, frames=160)[0], [], tokenizer.encode
    expected = encode(torch.stack(video.split(8, dim=1)), tokenizer.assignments.uniform(4, 20))
    tokenizer.encode = lambda video, lengths: seen.append(len(video)) or encode(video, lengths)
    tokens = long_videos._uniform_clips(tokenizer, video, 4)
    assert seen == [8, 8, 4]
    assert (tokens.num_frames, tokens.tokens.lengths.tolist()) == (160, expected.lengths.tolist())
    assert (tokens.tokens.codes == expected.codes).double().mean() > 0.95  # up to rounding


def curve(way: str, *values: tuple[float, float]) -> list[RatePoint]:
    return [RatePoint(way, 0, tokens, psnr, 1.0, 0.8) for tokens, psnr in values]


@pytest.mark.parametrize(
    ("psnr", "tokens"),
    [
        (26.0, 400),  # as good as the last one within 1%, and more
        (19.75, 100),  # only as good as the first, within 1%
        (22.275, 250),  # 1% below 22.5, half-way
        (10.0, None),  # worse than all
    ],
)
def test_tokens_at_equal_quality(psnr, tokens):
    (point,) = curve(MEMORY, (50, psnr))
    found = tokens_at_equal_quality(point, curve(CLIPS, (100, 19.9), (100, 20.0), (400, 25.0)))
    assert found == (tokens and pytest.approx(tokens, rel=0.02))


def test_one_measure_that_is_worse_is_enough_to_lose():
    point = RatePoint(MEMORY, 1.2, 50, 30, 1.02, 0.9)
    assert tokens_at_equal_quality(point, curve(CLIPS, (100, 20), (200, 21))) is None


@pytest.mark.parametrize("motion", [-0.5, 0.0, 0.8, None])
def test_a_point_is_as_good_as_itself_and_one_that_moves_less_is_not(motion):
    point = RatePoint(MEMORY, 1.2, 50, 30, 1.0, motion)
    assert point.as_good_as(point)
    assert point.towards(point, 0.5) == point
    if motion is not None:
        assert not replace(point, motion=motion - 0.1).as_good_as(point)


def test_what_is_not_defined_is_a_dash():
    scores = VideoScores(MEMORY, 1.2, [50], [30.0], [1.0], [0.0], [0.0])  # nothing moves
    point = scores.point(60)
    assert point.motion is None
    table = long_videos._table(None, [point], {"savings": [], "rates": []}, Minutes(1, 1, 0.1, 0.2, 0.0, 1, 2, 3, None))
    assert "| 1.000 | – |" in table
    assert "| first ten seconds | 0.100 | – | 2.0 |" in table
    assert _line([point, replace(point, motion=0.5)], "motion") == ([50.0], [0.5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preference": 1.3}, r"preference=1.3 is none of the preferences \[0.8, 1.2\]"),
        ({"preferences": [0.7, 1.2]}, r"router was trained for preferences between 0\.8 .*; got 0\.7"),
        ({"motion_frames": 16}, r"motion_frames=16 do not divide data\.frames=24"),
        ({"memory": "clips"}, "without a memory"),
        ({"data.frames": 20, "motion_frames": 4}, "the last clips of the videos are of 4 frames .* works on 8 frames"),
        ({"data.frames": 18, "motion_frames": 6}, "the videos are of 18 frames .* works on blocks of 4 frames"),
        ({"data.size": 64}, "the videos are of 24 frames at 64 pixels, the tokenizer works on .* at 32 pixels"),
        ({"data.frames": 8, "curation": "curation.yaml"}, "data.frames=8 are less than the 4 blocks of 4 frames that"),
        ({"curation": "no.yaml"}, "no.yaml"),
        ({"rates": [1.5, 0.4]}, r"rates=0\.4: 0\.4 tokens a second cannot be kept"),
        ({"rate_window": 3}, "rates=1.5: a window of 3 seconds is shorter than a block"),
        ({"samples": "samples", "frames_per_second": 2}, "are too short: 10 seconds at either end are compared"),
        ({"samples": "samples", "data.frames": 8}, "real videos of 8 frames are less than the 10 seconds, 10 frames"),
        ({"samples": "pictures"}, r"0\.png: "),
        ({"samples": "lost"}, r"0\.mkv: "),
    ],
)
def test_what_a_study_could_not_finish_is_refused_before_anything_is_measured(models, tmp_path, changes, message):
    config = {**changes}
    config |= {name: str(models / changes[name]) for name in ("curation", "samples") if name in changes}
    if "memory" in changes:
        config["memory"] = {"tokenizer": str(models / "tokenizer"), "router": str(models / "router")}
    for folder, name in (("pictures", "0.png"), ("lost", "0.mkv")):
        (models / folder).mkdir(exist_ok=True)
        (models / folder / "tokens.jsonl").write_text(json.dumps({"number": 0, "path": name}))
    PIL.Image.new("RGB", (32, 32)).save(models / "pictures" / "0.png")
    with pytest.raises(UserError, match=message):
        long_videos.main(study(models, tmp_path / "out", **config))
    assert not list((tmp_path / "out" / "ways").glob("*_*_*.json"))
