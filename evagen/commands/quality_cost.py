"""What quality costs in tokens, by the way a clip's lengths are chosen (EVATok §4, its comparison of assignments).

    evagen study quality-cost arcade_nano/study

Ways: *uniform*, the same length for every block; *threshold*, the heuristic of earlier work: the cheapest assignment
whose distance stays below a bound, the longest where none does; *max reward*, the assignment of highest proxy reward,
found by search; *router*.
On the proxy tokenizer every candidate of every clip has been measured by `evagen curate`, so each way is a choice
among recorded figures; the final tokenizer reconstructs the clips with the router's assignments.

With `frechet` some choices of each way are reconstructed once more, for the distance of all their clips from the real
ones (rFVD in the paper's figures). Leaves `points.csv`, `summary.json` and `quality_cost.png` in the run folder.
"""

import csv
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from accelerate import PartialState
from pydantic import Field, model_validator
from tqdm.auto import tqdm

from evagen.config import ONLY_HOW, Place, Section
from evagen.data.clips import SkippedClip
from evagen.data.curation_record import CurationRecord, check_alike, read_record
from evagen.errors import UserError
from evagen.eval import FrameDistance, PreparedDetector, get_protocol
from evagen.kernels.files import atomic_write, write_whole
from evagen.kernels.levels import floats_to_levels
from evagen.models.fit import check_same_tokenizer
from evagen.models.inference import autocast, load_for
from evagen.models.lengths import check_asked
from evagen.models.loading import fingerprint
from evagen.models.networks import DetectorName, PerceptualNetwork, choose_detector, gives_fvd
from evagen.report.quality_cost_plot import draw
from evagen.run import Infers, RunFolder, claim_folder
from evagen.scoring.length_choices import (
    Choice,
    ClipSet,
    CostPoint,
    best_uniform,
    frechet_distances,
    in_turn,
    max_reward,
    mirror_image,
    routed,
    spread,
    threshold,
    uniform,
)
from evagen.scoring.reconstruction import ReconstructionScores, score_reconstruction
from evagen.tokenizer import AssignmentSpace, RewardScale, Router, VideoTokenizer
from evagen.tokenizer.reward import ScaleName

SEARCHED_RANGE = (0.4, 2.0)
"""Of w_q for lengths found by search (EVATok §4.2). Routers are asked for what they were trained for."""


PROTOCOL = "evatok-ucf101-recon"
"""Whose way into the network the clips take."""


class StudyRun(Infers, RunFolder):
    pass


class FrechetDistances(Section):
    """Fréchet distances of reconstructions by the proxy tokenizer from the clips."""

    detector: DetectorName
    """`protocol`: I3D, for rFVD. `offline`: the ImageNet network that comes as a package. `videomae`."""
    weights: Place | None = None
    """File of I3D, or folder or hub id of VideoMAE."""
    points: int = Field(5, ge=2)
    """How many choices of each way are measured, from one end of its dial to the other."""

    def load(self) -> PreparedDetector:
        """Raises UserError where the network is not within reach."""
        return choose_detector(get_protocol(PROTOCOL), self.detector, self.weights, None, download=True)


class QualityCost(Section):
    run: StudyRun
    record: Place
    """The curation record that the router was trained on; its scale of quality holds for all."""
    held_out: dict[str, Place] = Field(min_length=1)
    """Curation records of clips that nothing was trained on, by name."""
    mirrored: dict[str, Place] = Field(default_factory=dict)
    """Records of the same clips' mirror images (`mirrored=true` of `curate`), by the names in `held_out`. Choosing by
    them is the best that a look at a clip can be asked for, where the tokenizer was trained on mirrored clips too: the
    rest is how it happens to draw a clip."""
    proxy: Place
    """The tokenizer of stage 1, by whose pictures lengths are compared."""
    final: Place
    """The tokenizer of stage 4."""
    router: Place
    """Conditioned on the preference."""
    single_routers: dict[float, Place] = Field(default_factory=dict)
    """Routers trained for one preference each."""
    reward_scale: ScaleName | None = None
    """That of the routers if None, and no other one."""
    preference: float = Field(1.2, ge=0, le=2)
    """At which proxy and final tokenizer are compared."""
    compare: PerceptualNetwork = PerceptualNetwork()
    """What compares the frames of proxy and final tokenizer. The other ways have the distance of their record, so it
    should be the one that the records were curated with."""
    frechet: FrechetDistances | None = None
    """For figures like the paper's with rFVD. It takes about as long as encoding and decoding all clips `points` times
    for each way."""
    num_preferences: int = Field(33, ge=2)
    """Points of each way that has a dial, evenly over the dial's range: what a router was trained for, or 0.4 to 2 for
    what is searched, which has the routers' points too."""
    batch_size: Annotated[int, ONLY_HOW] = Field(16, ge=1)
    """Clips in memory together."""

    @model_validator(mode="after")
    def _mirrored_names_are_those_of_clips(self) -> "QualityCost":
        if unknown := self.mirrored.keys() - self.held_out.keys():
            raise ValueError(
                f"mirrored names {', '.join(sorted(unknown))}, which held_out does not; its names are "
                f"{', '.join(self.held_out)}"
            )
        return self


@dataclass(frozen=True)
class Models:
    """The networks of a study. singles: routers by the one preference that each knows; detector: None where no Fréchet
    distance is asked for."""

    proxy: VideoTokenizer
    final: VideoTokenizer
    router: Router
    singles: dict[float, Router]
    perceptual: FrameDistance
    detector: PreparedDetector | None


def main(config: QualityCost) -> Path:
    """Measures every way on every set of clips; returns the run folder."""
    claim_folder(config, config.run.out)
    device = PartialState().device
    models = load_models(config, device)
    records = read_records(config)
    record = records[config.record]
    scale = RewardScale.of(record.distance, record.space, scale_of(config, models.router, models.singles))
    check_candidates(config, record.space, models.router, models.singles)
    check_preferences(config, models.router, models.singles)
    check_same_tokenizer(
        record.measured_with.tokenizer, fingerprint(models.proxy),
        "the records were measured with", f"proxy={config.proxy}", "give the tokenizer of the records",
    )  # fmt: skip
    sets = [
        _load(name, records[folder], scale, records[config.mirrored[name]] if name in config.mirrored else None)
        for name, folder in config.held_out.items()
    ]
    points, summary = [], {}
    for clips in sets:
        with autocast(config.run, device):
            here, summary[clips.name] = _measure(config, clips, models)
        points += here
    with (
        atomic_write(config.run.out / "points.csv") as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, list(asdict(points[0])))
        writer.writeheader()
        writer.writerows(asdict(point) for point in points)
    write_whole(config.run.out / "summary.json", json.dumps(summary, indent=1))
    draw(points, config.run.out / "quality_cost.png", _axis_of(models.detector) if models.detector else None)
    print(json.dumps(summary, indent=1))
    return config.run.out


def load_models(config: QualityCost, device: torch.device) -> Models:
    """Raises UserError where one is not within reach."""
    return Models(
        proxy=load_for(config.run, VideoTokenizer, config.proxy, device),
        final=load_for(config.run, VideoTokenizer, config.final, device),
        router=load_for(config.run, Router, config.router, device),
        singles={w_q: load_for(config.run, Router, folder, device) for w_q, folder in config.single_routers.items()},
        perceptual=config.compare.load().to(device),
        detector=config.frechet.load().to(device) if config.frechet else None,
    )


def _axis_of(detector: PreparedDetector) -> str:
    name = "rFVD" if gives_fvd(detector.fingerprint) else f"Fréchet distance in {detector.name}"
    return f"{name} (lower is better)"


def _measure(config: QualityCost, clips: ClipSet, models: Models) -> tuple[list[CostPoint], dict]:
    """Every way on one set of clips: its points, and its summary."""
    preferences = _evenly(models.router.preference_range, config.num_preferences)
    searched = sorted({*preferences, *_evenly(SEARCHED_RANGE, config.num_preferences)})
    asked = {*preferences, *models.singles, config.preference}
    by_router = {p: routed("router", models.router, clips, p, config.batch_size) for p in asked}
    choices = [
        *uniform(clips),
        *threshold(clips, config.num_preferences),
        *(max_reward(clips, p) for p in searched),
        *(mirror_image(clips, p) for p in searched if clips.mirrored),
        *(best_uniform(clips, p) for p in searched),
        *(by_router[p] for p in preferences),
        *(routed("single router", one, clips, p, config.batch_size) for p, one in models.singles.items()),
    ]
    points = [clips.point(choice) for choice in choices]
    if config.frechet and models.detector:
        places = spread(choices, config.frechet.points)
        measured = [choices[place] for place in places]
        distances = frechet_distances(models.proxy, clips, measured, models.detector, config.batch_size)
        for place, distance in zip(places, distances):
            points[place] = replace(points[place], frechet=distance)
    tokenizers = _compare_tokenizers(config, clips, by_router[config.preference], models)
    points += [point for point, _ in tokenizers.values()]
    conditioned = {p: clips.point(by_router[p]) for p in models.singles}
    return points, _summarise(points, conditioned) | {
        "tokenizers": {name: scores.as_dict() for name, (_, scores) in tokenizers.items()}
    }


def _evenly(span: tuple[float, float], count: int) -> list[float]:
    """Preferences from one end to the other."""
    return [round(preference, 6) for preference in torch.linspace(*span, count, dtype=torch.float64).tolist()]


def read_records(config: QualityCost) -> dict[str, CurationRecord]:
    """All records of the study, by their folders. Raises UserError where they do not compare, or where those in
    `mirrored` are no mirror images of those in `held_out`."""
    folders = [config.record, *config.held_out.values(), *config.mirrored.values()]
    records = {folder: read_record(folder) for folder in folders}
    check_alike(records)
    for name, folder in config.held_out.items():
        record, mirrored = records[folder], config.mirrored.get(name)
        images = records[mirrored] if mirrored else None
        if record.mirrored or (images and not (images.mirrored and torch.equal(images.keys, record.keys))):
            raise UserError(
                f"held_out takes records of clips, and mirrored records of the same clips with mirrored=true; {folder}"
                f"{f' and {mirrored}' if mirrored else ''} are not such"
            )
    return records


def _load(name: str, record: CurationRecord, scale: RewardScale, mirrored: CurationRecord | None) -> ClipSet:
    dataset, video = record.open_clips(), []
    for key in tqdm(record.keys.tolist(), desc=f"reading {name}", unit="clip", dynamic_ncols=True):
        clip = dataset[key]
        if isinstance(clip, SkippedClip):
            raise UserError(
                f"{clip.path} of the clips {name} can no longer be decoded ({clip.reason}): put the file back that the "
                "record was made from"
            )
        video.append(floats_to_levels(clip.video))
    return ClipSet(name, record, torch.stack(video), scale, mirrored)


def scale_of(config: QualityCost, router: Router, singles: dict[float, Router]) -> ScaleName:
    """The scale of the rewards that all routers were trained on. Raises UserError where one has another."""
    wanted = config.reward_scale or router.config.reward_scale
    for source, each in ((config.router, router), *((config.single_routers[w_q], one) for w_q, one in singles.items())):
        if each.config.reward_scale != wanted:
            raise UserError(
                f"the router at {source} was trained on rewards of scale {each.config.reward_scale}, whose preferences "
                f"mean something else than those of {wanted}: compare routers of one scale, or train it again with "
                f"reward_scale={wanted}"
            )
    return wanted


def check_preferences(config: QualityCost, router: Router, singles: dict[float, Router]) -> None:
    """Raises UserError for a preference that a router was not trained for, and where all share one alone."""
    check_asked(config.router, router, config.preference, *singles)
    for w_q, one in singles.items():
        check_asked(config.single_routers[w_q], one, w_q)
    low, high = router.preference_range
    if low == high:
        raise UserError(
            f"the router at {config.router} was trained for the preference {low:g} alone, and a curve needs several: "
            "give one trained with preference_range=[0.8,1.6]"
        )


def check_candidates(config: QualityCost, space: AssignmentSpace, router: Router, singles: dict[float, Router]) -> None:
    """Raises UserError unless all routers are of the assignments of the records, space."""
    spaces = {f"the router at {config.router}": router.assignments}
    spaces |= {f"the router at {config.single_routers[w_q]}": one.assignments for w_q, one in singles.items()}
    for whose, other in spaces.items():
        if (other.levels, other.num_blocks) != (space.levels, space.num_blocks):
            raise UserError(
                f"{whose} is of {other.num_blocks} blocks with levels {list(other.levels)}, the record in "
                f"{config.record} of {space.num_blocks} blocks with levels {list(space.levels)}: a study compares one "
                "set of assignments; give what was made with the tokenizer of that record"
            )


def _compare_tokenizers(
    config: QualityCost, clips: ClipSet, choice: Choice, models: Models
) -> dict[str, tuple[CostPoint, ReconstructionScores]]:
    """Both tokenizers at the same assignments, all frames compared: their points and scores by name."""
    lengths, found = clips.space.lengths_of(choice.numbers), {}
    for name, tokenizer in {"proxy": models.proxy, "final": models.final}.items():
        batches = clips.batches(config.batch_size, f"{name} on {clips.name}")
        scores = score_reconstruction(tokenizer, batches, in_turn(lengths), models.perceptual)
        point = CostPoint(
            clips.name, f"{name} tokenizer", choice.dial, scores.tokens_per_clip, scores.psnr, scores.perceptual,
            scores.motion,
        )  # fmt: skip
        if models.detector:
            (distance,) = frechet_distances(tokenizer, clips, [choice], models.detector, config.batch_size)
            point = replace(point, frechet=distance)
        found[name] = point, scores
    return found


def _summarise(points: list[CostPoint], conditioned: dict[float, CostPoint]) -> dict:
    """The comparisons by their figures. conditioned: the router's points at the single routers' preferences."""
    by_way = {way: [point for point in points if point.way == way] for way in {point.way for point in points}}
    return {
        "saved_tokens_over_uniform": _all_saved(by_way, with_motion=False),
        "saved_tokens_over_uniform_motion_too": _all_saved(by_way, with_motion=True),
        "reward_percentile": {
            way: {f"{point.dial:g}": point.percentile for point in by_way[way]} for way in ("router", "best uniform")
        },
        "router_reward_over_max_reward": {
            f"{routed.dial:g}": _reached(routed, best) for routed, best in _at_one_dial(by_way, "max reward")
        },
        "router_reward_over_mirror_image": {
            f"{routed.dial:g}": _reached(routed, mirror) for routed, mirror in _at_one_dial(by_way, "mirror image")
        },
        "conditioned_over_single_router_reward": {
            f"{single.dial:g}": _reached(conditioned[single.dial], single) for single in by_way.get("single router", [])
        },
    }


def _at_one_dial(by_way: dict[str, list[CostPoint]], way: str) -> list[tuple[CostPoint, CostPoint]]:
    """The router's points, each beside another way's at the same preference."""
    others = {point.dial: point for point in by_way.get(way, [])}
    return [(routed, others[routed.dial]) for routed in by_way["router"] if routed.dial in others]


def _reached(point: CostPoint, other: CostPoint) -> float:
    """A reward relative to another's, 1 where they are equal. A reward is negative where quality is below that of the
    shortest assignment of the clips that set the scale, as on unlike clips, so it is the gap that counts."""
    assert point.reward is not None
    assert other.reward is not None
    return 1 - (other.reward - point.reward) / abs(other.reward)


def _all_saved(by_way: dict[str, list[CostPoint]], with_motion: bool) -> dict[str, dict[str, float | None]]:
    return {
        way: {
            f"{round(uniform.tokens)} tokens": _saved(uniform, by_way[way], with_motion)
            for uniform in by_way["uniform"][1:]
        }
        for way in ("router", "max reward", "threshold")
    }


def _saved(uniform: CostPoint, candidates: list[CostPoint], with_motion: bool) -> float | None:
    """Share of tokens that the cheapest point at least as good in PSNR and perceptual distance saves, or in these and
    in motion explained; None where there is none."""
    cheapest = min((point.tokens for point in candidates if point.is_as_good_as(uniform, with_motion)), default=None)
    return None if cheapest is None else 1 - cheapest / uniform.tokens
