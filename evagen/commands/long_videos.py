"""What a memory saves on long videos: tokens a minute at equal quality, against independent clips and uniform lengths.

    evagen study long arcade_minutes/long

Ways, each at every preference or length: with a memory the router of blocks, or the same length for every block; and
the tokenizer of clips with its router, or the same length for every block. All encode the same held-out videos, one
video at a time, as they go by. Beside them: block-by-block search against brute force, rates that were asked for
against what was spent, and minutes that a generator wrote, their last seconds against their first.

Leaves `summary.json`, `table.md`, `long.png` and `tokens_over_time.png` in the run folder, and `ways/`, a file for each
way, which a run that was stopped takes up.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from pydantic import Field
from torch import Tensor
from tqdm.auto import tqdm

from evagen.commands.curate import WEIGHTED, Curation, block_distance
from evagen.config import Place, Section, load_config
from evagen.data.clips import ClipDataset, SkippedClip
from evagen.data.sources import DataConfig
from evagen.errors import UserError
from evagen.eval import PerceptualDistance, moving_errors, psnr
from evagen.eval.reconstruction import perceptual_distance
from evagen.kernels.files import write_whole
from evagen.models.fit import check_clips
from evagen.models.lengths import check_asked
from evagen.models.loading import fingerprint, load_model, load_router
from evagen.report import tokens_over_time
from evagen.report.long_plot import draw
from evagen.run import RunFolder, claim_folder, claim_results
from evagen.scoring.long_ways import (
    CLIPS,
    CLIPS_UNIFORM,
    MEMORY,
    MEMORY_UNIFORM,
    WAYS,
    RatePoint,
    VideoScores,
    savings,
)
from evagen.scoring.minutes import Minutes, compare_minutes
from evagen.scoring.table import markdown
from evagen.tokenizer import (
    AdaptiveTokenizer,
    AssignmentSpace,
    CandidateSearch,
    LiveTokenizer,
    Rate,
    RewardScale,
    TokenizedClips,
    TokenizedVideo,
    VideoTokenizer,
    decode_in_chunks,
    proxy_reward,
)

COMPARED_EVERY = 8
"""The perceptual distance looks at every so many-th frame."""
SEARCHED_BLOCKS = 4
"""Of a clip that the search is compared with brute force on."""
BEAM = 2
"""Prefixes that go on in the block-by-block search."""


class Models(Section):
    tokenizer: Place
    """A trained tokenizer, folder or hub id, …"""
    router: Place
    """… and the router trained for it."""


class LongVideos(Section):
    run: RunFolder
    data: DataConfig
    """Long videos that nothing was trained on: `data.frames` of each."""
    memory: Models
    clips: Models
    preferences: list[float] = Field(default=[0.8, 1.0, 1.2, 1.4, 1.6], min_length=1)
    """Settings of w_q that both routers are measured at, and were trained for."""
    preference: float = 1.2
    """Of the search, and of the video whose tokens are drawn over time; one of the preferences."""
    motion_frames: int = Field(16, ge=1)
    """Motion is explained within pieces of so many frames, as it is of short clips; they divide `data.frames`."""
    frames_per_second: float = Field(15.0, gt=0)
    """Of the videos."""
    rates: list[float] = Field(default_factory=list)
    """Tokens a second to be kept."""
    rate_window: float = Field(4.0, gt=0)
    """Seconds of a window over which a rate is kept."""
    curation: Place | None = None
    """A curation config, whose distance the search is compared by; without it the search is left out."""
    searched_clips: int = Field(16, ge=1)
    """How many clips the search is compared with brute force on."""
    samples: Path | None = None
    """Run folder of `evagen sample`: long videos of a generator, of which those are compared whose class is among the
    real ones."""


def main(config: LongVideos) -> Path:
    """Measures what is not there yet; returns the run folder."""
    claim_folder(config, config.run.out)
    videos, device = _Videos(config), PartialState().device
    live, adaptive = _load_models(config, device)
    check(config, live, adaptive.tokenizer)
    curation = load_config(Curation, config.curation) if config.curation else None
    # First, since samples that cannot be read would end the study; it takes less time than any way.
    minutes = (
        compare_minutes(config.samples, videos.with_classes(), config.frames_per_second) if config.samples else None
    )
    _claim_ways(config, videos, live, adaptive)
    with torch.no_grad():
        scores = [_scored(config, way, setting, encode, tokenizer, videos) for way, setting, encode, tokenizer in
                  _ways(config, live, adaptive)]  # fmt: skip
        points = [each.point(config.data.frames / config.frames_per_second) for each in scores]
        summary: dict[str, Any] = {"points": [asdict(point) for point in points], "savings": savings(points)}
        summary["rates"] = _rates(config, videos, live)
        if curation:
            summary["search"] = _search(config, curation, videos, live.tokenizer)
    if minutes:
        summary["minutes"] = asdict(minutes)
    write_whole(config.run.out / "summary.json", json.dumps(summary, indent=1))
    write_whole(config.run.out / "table.md", _table(config, points, summary, minutes))
    _draw_example(config, videos, live)
    draw(WAYS, points, config.run.out / "long.png")
    return config.run.out


class _Videos:
    """The videos one by one, as often as asked: (C, F, H, W) in [-1, 1]."""

    def __init__(self, config: LongVideos):
        self.dataset = ClipDataset(config.data)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Tensor]:
        return (video for video, _ in self.with_classes())

    def with_classes(self) -> Iterator[tuple[Tensor, str | None]]:
        """Each with its class, None without."""
        for clip in self.dataset:
            if isinstance(clip, SkippedClip):
                raise UserError(f"{clip.path} cannot be decoded ({clip.reason}): take it out of data.root")
            yield clip.video, self.dataset.class_names[clip.label] if clip.label >= 0 else None


Encode = Callable[[Tensor], TokenizedVideo]
Way = tuple[str, float, Encode, VideoTokenizer]


def _load_models(config: LongVideos, device: torch.device) -> tuple[LiveTokenizer, AdaptiveTokenizer]:
    remembers = load_model(VideoTokenizer, config.memory.tokenizer, device)
    router = load_router(remembers, config.memory.router)
    try:
        live = LiveTokenizer(remembers, router)
    except ValueError as error:
        raise UserError(f"memory.tokenizer={config.memory.tokenizer}: {error}") from error
    clips = load_model(VideoTokenizer, config.clips.tokenizer, device)
    adaptive = AdaptiveTokenizer(clips, load_router(clips, config.clips.router))
    check_asked(config.memory.router, router, *config.preferences)
    check_asked(config.clips.router, adaptive.router, *config.preferences)
    return live, adaptive


def check(config: LongVideos, live: LiveTokenizer, clips: VideoTokenizer) -> None:
    """Raises UserError for what would end a study late: settings that the models cannot follow."""
    frames, size, step = config.data.frames, config.data.size, live.tokenizer.config.temporal_patch
    if config.preference not in config.preferences:
        raise UserError(f"preference={config.preference:g} is none of the preferences {config.preferences}")
    if frames % config.motion_frames:
        raise UserError(f"motion_frames={config.motion_frames} do not divide data.frames={frames}")
    advice = "change data.frames and data.size"
    check_clips(live.tokenizer, frames, size, "the videos", advice)
    of_a_clip = clips.config.num_frames
    check_clips(clips, frames % of_a_clip or of_a_clip, size, "the last clips of the videos", advice)
    if config.curation and frames < SEARCHED_BLOCKS * step:
        raise UserError(
            f"data.frames={frames} are less than the {SEARCHED_BLOCKS} blocks of {step} frames that are searched: "
            "change data.frames, or leave out curation"
        )
    for rate in config.rates:
        try:
            live.encode(torch.zeros(3, step, size, size), rate=_rate(config, rate))
        except ValueError as error:
            raise UserError(f"rates={rate:g}: {error}") from error


def _rate(config: LongVideos, tokens_per_second: float) -> Rate:
    return Rate(tokens_per_second, config.frames_per_second, config.rate_window)


def _claim_ways(config: LongVideos, videos: _Videos, live: LiveTokenizer, adaptive: AdaptiveTokenizer) -> None:
    """Raises UserError where ways were measured with other models or on other videos."""
    assert live.router is not None
    models = {
        "memory.tokenizer": live.tokenizer, "memory.router": live.router, "clips.tokenizer": adaptive.tokenizer,
        "clips.router": adaptive.router,
    }  # fmt: skip
    made_from = {name: fingerprint(model) for name, model in models.items()}
    claim_results(config.run.out / "ways", {"videos": videos.dataset.fingerprint(), **made_from})


def _ways(config: LongVideos, live: LiveTokenizer, adaptive: AdaptiveTokenizer) -> Iterator[Way]:
    clips = adaptive.tokenizer
    for w_q in config.preferences:
        yield MEMORY, w_q, lambda video, w_q=w_q: live.encode(video, preference=w_q), live.tokenizer
        yield CLIPS, w_q, lambda video, w_q=w_q: adaptive.encode(video, preference=w_q), clips
    for level in live.tokenizer.assignments.levels:
        yield MEMORY_UNIFORM, level, lambda video, n=level: live.encode(video, lengths=(n,)), live.tokenizer
    for level in clips.assignments.levels:
        yield CLIPS_UNIFORM, level, lambda video, n=level: _uniform_clips(clips, video, n), clips


def _uniform_clips(tokenizer: VideoTokenizer, video: Tensor, level: int) -> TokenizedVideo:
    size, frames, uniform = (video.shape[2], video.shape[3]), video.shape[1], tokenizer.assignments.uniform
    clips = torch.stack(video.split(tokenizer.config.num_frames, dim=1))
    parts = [some.to(tokenizer.device) for some in clips.split(8)]
    tokens = TokenizedClips.join([tokenizer.encode(some, uniform(level, len(some))) for some in parts])
    return TokenizedVideo(tokens, frames, size, size, None, None)


def _scored(
    config: LongVideos, way: str, setting: float, encode: Encode, tokenizer: VideoTokenizer, videos: _Videos
) -> VideoScores:
    path = config.run.out / "ways" / f"{way.replace(', ', '_')}_{setting:g}.json"
    if path.exists():
        return VideoScores(**json.loads(path.read_bytes()))
    perceptual = PerceptualDistance().to(tokenizer.device)
    rows: dict[str, list[Any]] = {}
    for video in tqdm(videos, desc=f"{way} {setting:g}", unit="video"):
        tokens = encode(video)
        decoded = torch.cat(list(decode_in_chunks(tokenizer, tokens, 8)), dim=1)[None].cpu()  # 1 C F H W
        original = video[None]
        some = (each[:, :, ::COMPARED_EVERY].to(tokenizer.device) for each in (decoded, original))
        pieces = (torch.cat(each.split(config.motion_frames, dim=2)) for each in (decoded, original))
        moving, still = moving_errors(*pieces)
        values = {
            "tokens": tokens.num_tokens, "psnr": psnr(decoded, original).item(),
            "perceptual": perceptual_distance(perceptual, *some).item(),
            "moving_error": moving.sum().item(), "still_error": still.sum().item(),
        }  # fmt: skip
        for name, value in values.items():
            rows.setdefault(name, []).append(value)
    scores = VideoScores(way, setting, **rows)
    write_whole(path, json.dumps(asdict(scores)))
    return scores


def _rates(config: LongVideos, videos: _Videos, live: LiveTokenizer) -> list[dict[str, float]]:
    """What was spent of each rate, and the most in any window, as shares of what was asked."""
    found: list[dict[str, float]] = []
    step = live.tokenizer.config.temporal_patch
    blocks = int(config.rate_window * config.frames_per_second / step + 1e-9)
    for rate in config.rates:
        spent, most, asked = [], [], rate * step / config.frames_per_second  # a block
        for video in tqdm(videos, desc=f"{rate:g} tokens a second", unit="video"):
            tokens = live.encode(video, rate=_rate(config, rate))
            lengths = tokens.tokens.lengths[0].double()
            spent.append(float(lengths.mean()) / asked)
            most.append(float(lengths.unfold(0, min(blocks, len(lengths)), 1).mean(1).max()) / asked)
        found.append({"rate": rate, "least_spent": min(spent), "most_spent": max(spent), "most_in_a_window": max(most)})
    return found


def _search(config: LongVideos, curation: Curation, videos: _Videos, tokenizer: VideoTokenizer) -> dict[str, float]:
    """Block-by-block search against every candidate of a few blocks: how much of the reward's range it reaches, on
    average, and how many blocks it evaluates."""
    perceptual = curation.compare.load().to(tokenizer.device)
    frames = SEARCHED_BLOCKS * tokenizer.config.temporal_patch
    clips = (video[:, start : start + frames] for video in videos for start in (0, video.shape[1] - frames))
    video = torch.stack([clip.clone() for clip in islice(clips, config.searched_clips)]).to(tokenizer.device)
    weights = {"perceptual": 1.0} | {column: getattr(curation, name) for name, column in WEIGHTED.items()}
    measured = block_distance(video, perceptual, tokenizer.config.temporal_patch, curation.distance_frames)

    def distance(blocks: Tensor, of_clips: Tensor, number: int) -> dict[str, Tensor]:
        values = measured(blocks, of_clips, number)
        return {"distance": torch.stack([weight * values[name] for name, weight in weights.items()]).sum(0)}

    space = AssignmentSpace(tokenizer.config.levels, SEARCHED_BLOCKS)
    every = CandidateSearch(tokenizer, distance).all_distances(video)["distance"]
    scale = RewardScale.of(every, space)
    reward = proxy_reward(every, config.preference, space, scale)  # B A
    search = CandidateSearch(tokenizer, distance)
    chosen = search.autoregressive(video, config.preference, scale, "distance", BEAM)
    reached = reward.gather(1, space.index_of(chosen)[:, None])[:, 0]
    worst, best = reward.aminmax(dim=1)
    return {
        "clips": len(video),
        "share_of_reward_range": float(((reached - worst) / (best - worst)).mean()),
        "block_evaluations_a_clip": search.block_evaluations / len(video),
        "block_evaluations_of_brute_force": space.count * SEARCHED_BLOCKS,
    }


def _draw_example(config: LongVideos, videos: _Videos, live: LiveTokenizer) -> None:
    """Tokens over time of the first video."""
    video = next(iter(videos))
    lengths = live.encode(video, preference=config.preference).tokens.lengths[0].tolist()
    changes = [0.0, *video.diff(dim=1).abs().mean((0, 2, 3)).tolist()]
    step, path = live.tokenizer.config.temporal_patch, config.run.out / "tokens_over_time.png"
    tokens_over_time.draw(lengths, changes, config.frames_per_second, step, path)


def _table(config: LongVideos, points: list[RatePoint], summary: dict[str, Any], minutes: Minutes | None) -> str:
    heads = ["way", "setting", "tokens a minute", "PSNR, dB", "perceptual", "motion explained"]
    rows = [
        [p.way, f"{p.setting:g}", f"{p.tokens:.0f}", f"{p.psnr:.2f}", f"{p.perceptual:.3f}",
         "–" if p.motion is None else f"{p.motion:.3f}"]
        for p in sorted(points, key=lambda p: (p.way, p.tokens))
    ]  # fmt: skip
    parts = [markdown(heads, rows)]
    if search := summary.get("search"):
        parts.append(
            f"Search block by block on {search['clips']} clips: {search['share_of_reward_range']:.1%} of the reward's "
            f"range with {search['block_evaluations_a_clip']:g} block evaluations, brute force has "
            f"{search['block_evaluations_of_brute_force']}."
        )
    saved = [
        [f"{each['preference']:g}", each["against"],
         "never as bad" if each["tokens"] is None else f"{each['tokens']:.0f}",
         "–" if each["saved"] is None else f"{each['saved']:.1%}"]
        for each in summary["savings"]
    ]  # fmt: skip
    parts.append(markdown(["w_q", "against", "its tokens a minute at equal quality", "fewer"], saved))
    if summary["rates"]:
        heads = ["asked, tokens a second", "spent, least", "spent, most", "most in a window"]
        rates = [[f"{r['rate']:g}", *(f"{r[k]:.1%}" for k in ("least_spent", "most_spent", "most_in_a_window"))] for r
                 in summary["rates"]]  # fmt: skip
        parts.append(markdown(heads, rates))
    if minutes:
        parts.append(minutes.table())
    return "\n\n".join(parts) + "\n"
