"""The whole road on real video, small: data → proxy tokenizer → curation → router → final tokenizer → tokens →
generator → samples → scores → report.

Every stage is the ordinary command with a config of `configs/quickstart/`, which is copied into the run folder
with its paths. Started again, it goes on where it stopped.
"""

import json
import os
import platform
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evagen.ar_model import ClipRequest, ClipTokens, sample_in_order
from evagen.commands import COMMANDS, Command, sample, tokenize, train_generator, train_tokenizer
from evagen.commands.sample import decode_clips
from evagen.config import find_config, load_config, read_header
from evagen.data.arcade import build_arcade
from evagen.data.clips import ClipDataset
from evagen.data.loader import collate_clips
from evagen.data.sources import DataConfig
from evagen.eval import ImageNetworkDetector, PerceptualDistance, psnr_of_mse
from evagen.kernels.levels import video_to_frames
from evagen.models.loading import load_model
from evagen.report.page import ClipPair, CurvePoint, GeneratedClip, LossCurve, RealClip, Report, write_report
from evagen.report.stopwatch import StageClock
from evagen.sampling.rows import read_rows
from evagen.scoring.reconstruction import ReconstructionScores, frechet_between, score_reconstruction
from evagen.tokenizer import AssignmentSpace, Router, VideoTokenizer
from evagen.training.run import read_metrics

ARCADE = {"games": ["boxing", "enduro", "skiing", "tennis"], "clips_per_game": 128, "size": 64, "seed": 0}
FURTHER_PREFERENCES = (1.2, 1.6)
"""w_q that the report shows beside the run's own, which is that of `final.yaml`."""
PAIRS_SHOWN_PER_CLASS, GENERATED_SHOWN_PER_CLASS, REAL_SHOWN_PER_CLASS = 3, 4, 2
SCORING_BATCH = 16


STAGES = {
    "proxy tokenizer": "proxy", "curation": "curation", "router": "router", "final tokenizer": "final",
    "tokens": "tokens", "generator": "generator", "samples": "sample",
}  # fmt: skip
"""Their names in the report, and the configs of `configs/quickstart/` that they run."""


def main(out: Path) -> Path:
    """Runs what has not finished in `out` yet; returns the path of the report."""
    with StageClock(out) as clock:
        clock.run("data", lambda: build_arcade(out / "arcade", **ARCADE), done=(out / "proxy").exists())
        for stage, name in STAGES.items():
            command = _command_of(name)
            config = command.load(_copy_config(name, out))
            started = (config.run.out / "done").exists()
            clock.run(stage, lambda command=command, config=config: command.run(config), done=started)
            (config.run.out / "done").touch()
        report = clock.run("scores", lambda: _score(out))
    report.summary |= {"total_seconds": clock.total_seconds, "peak_rss_mb": clock.peak_rss_mb, "stages": clock.stages}
    (out / "summary.json").write_text(json.dumps(report.summary, indent=1))
    path = write_report(report, out / "report.html")
    print(f"report: {path.resolve().as_uri()}")
    return path


def _command_of(config: str) -> Command:
    return COMMANDS[read_header(find_config(f"quickstart/{config}")).command]


def _copy_config(name: str, out: Path) -> Path:
    """The shipped config with the run folder's paths, written beside the results."""
    path = out / "configs" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(find_config(f"quickstart/{name}").read_text().replace("runs/quickstart", str(out)))
    return path


def _score(out: Path) -> Report:
    """Everything the report shows, measured on clips held out from training."""
    proxy, final = (load_model(VideoTokenizer, out / name) for name in ("proxy", "final"))
    router = load_model(Router, out / "router")
    config = load_config(train_tokenizer.TokenizerTraining, out / "configs" / "final.yaml")
    held_out = HeldOut.load(config.data)
    perceptual = PerceptualDistance()

    def score(tokenizer: VideoTokenizer, assign) -> ReconstructionScores:
        return score_reconstruction(tokenizer, held_out.batches(), assign, perceptual)

    space = proxy.assignments
    uniform = [score(proxy, lambda v, k=level: space.uniform(k, len(v))) for level in space.levels]
    preferences = (config.preference, *FURTHER_PREFERENCES)
    routed = {p: score(proxy, lambda v, p=p: router.assign(v, p)) for p in preferences}
    adaptive = routed.pop(config.preference)
    final_scores = score(final, lambda v: router.assign(v, config.preference))
    by_block = adaptive.lengths.double().mean(0).tolist()
    generation, generated = _score_generation(out, final, held_out)
    return Report(
        title="evagen quickstart",
        summary={
            "total_seconds": 0.0, "peak_rss_mb": 0.0, "stages": {},
            "reconstruction": {
                "uniform": [scores.as_dict() for scores in uniform],
                "adaptive": {**adaptive.as_dict(), "preference": config.preference, "lengths_by_block": by_block},
                "further_preferences": [{"preference": p, **scores.as_dict()} for p, scores in routed.items()],
                "final": final_scores.as_dict(),
            },
            "generation": generation,
        },
        pairs=_pairs(final, router, held_out, config.preference),
        generated=generated,
        real=[
            RealClip(video_to_frames(held_out.video[i]), held_out.class_names[int(held_out.label[i])])
            for i in held_out.first_of_each_class(REAL_SHOWN_PER_CLASS)
        ],
        lengths_by_class=_lengths_by_class(final_scores, held_out),
        router=[CurvePoint(f"w_q = {p}", s.tokens_per_clip, s.psnr, s.perceptual) for p, s in routed.items()],
        curves=_loss_curves(out),
        environment=_environment(),
        commands=_commands(out),
    )  # fmt: skip


@dataclass(frozen=True)
class HeldOut:
    """The clips of the test list. video: (n, C, F, H, W) in [-1, 1]; label: (n,)."""

    video: Tensor
    label: Tensor
    class_names: list[str]

    @staticmethod
    def load(data: DataConfig) -> "HeldOut":
        """The clips of the test list of a data set that is trained on, the first of each video."""
        changes = {"split": "test", "clip": "first", "flip": False, "limit": None}
        dataset = ClipDataset(data.model_copy(update=changes))
        batch = collate_clips(list(dataset))
        return HeldOut(batch.video, batch.label, dataset.class_names)

    def batches(self) -> Iterator[Tensor]:
        return iter(self.video.split(SCORING_BATCH))

    def first_of_each_class(self, count: int) -> list[int]:
        """Indices of the first clips of every class, class by class."""
        return [i for c in range(len(self.class_names)) for i in (self.label == c).nonzero().flatten()[:count].tolist()]


def _score_generation(out: Path, tokenizer: VideoTokenizer, held_out: HeldOut) -> tuple[dict, list[GeneratedClip]]:
    """Fréchet distances of the samples, of an untrained generator's samples, and of real from real clips."""
    rows = read_rows(out / "samples")
    valid = [row for row in rows if is_valid(row["lengths"], row["codes"], tokenizer.assignments, tokenizer)]
    sampled = [ClipTokens(torch.tensor(row["codes"]), torch.tensor(row["lengths"])) for row in valid]
    untrained = _untrained_samples(out, len(rows))
    detector = ImageNetworkDetector()
    half_a, half_b = held_out.video[0::2], held_out.video[1::2]

    def distance(fake: Tensor) -> float:
        return frechet_between(half_a.split(SCORING_BATCH), fake.split(SCORING_BATCH), detector)

    videos = decode_clips(tokenizer, sampled)
    generation = {
        "clips": len(rows),
        "tokens_per_clip": sum(len(row["codes"]) for row in rows) / len(rows),
        "invalid_sequences": len(rows) - len(valid),
        "frechet": {
            "detector": detector.name,
            "value": distance(videos),
            "untrained": distance(decode_clips(tokenizer, untrained)),
            "real_vs_real": distance(half_b),
        },
    }
    shown: list[GeneratedClip] = []
    for row, video in zip(valid, videos):
        if sum(clip.class_name == row["class"] for clip in shown) < GENERATED_SHOWN_PER_CLASS:
            shown.append(GeneratedClip(video_to_frames(video), row["lengths"], row["class"]))
    return generation, shown


def is_valid(lengths: list[int], codes: list[int], space: AssignmentSpace, tokenizer: VideoTokenizer) -> bool:
    """Whether stored tokens form a clip: as many lengths as blocks, all of them levels, which add up to the codes."""
    return (
        len(lengths) == space.num_blocks
        and set(lengths) <= set(space.levels)
        and sum(lengths) == len(codes)
        and all(0 <= code < tokenizer.config.codebook_size for code in codes)
    )


def _untrained_samples(out: Path, count: int) -> list[ClipTokens]:
    """Clips of the same generator before its first training step."""
    config = load_config(train_generator.GeneratorTraining, out / "configs" / "generator.yaml")
    sampling = load_config(sample.Sampling, out / "configs" / "sample.yaml")
    torch.manual_seed(config.run.seed)
    generator = train_generator.new_generator(tokenize.read_corpus(config.corpus), config).eval()
    options = sample.SamplingOptions(**sampling.options.model_dump())
    requests = [ClipRequest(seed, seed // sampling.clips_per_class) for seed in range(count)]
    return sample_in_order(generator, requests, options)


def _pairs(tokenizer: VideoTokenizer, router: Router, held_out: HeldOut, preference: float) -> list[ClipPair]:
    chosen = held_out.first_of_each_class(PAIRS_SHOWN_PER_CLASS)
    video = held_out.video[chosen]
    tokens = tokenizer.encode(video, router.assign(video, preference))
    pairs = []
    for i, original, reconstruction, lengths in zip(chosen, video, tokenizer.decode(tokens), tokens.lengths):
        psnr = psnr_of_mse((reconstruction - original).square().mean()).item()
        name = held_out.class_names[int(held_out.label[i])]
        pairs.append(ClipPair(video_to_frames(original), video_to_frames(reconstruction), lengths.tolist(), name, psnr))
    return pairs


def _lengths_by_class(scores: ReconstructionScores, held_out: HeldOut) -> dict[str, list[float]]:
    return {
        name: scores.lengths[held_out.label == c].double().mean(0).tolist()
        for c, name in enumerate(held_out.class_names)
        if (held_out.label == c).any()
    }


def _loss_curves(out: Path) -> list[LossCurve]:
    terms = {
        "proxy": ("l1", "perceptual"),
        "router": ("loss",),
        "final": ("l1", "perceptual"),
        "generator": ("length_loss", "content_loss"),
    }
    curves = []
    for stage, config in STAGES.items():
        if config in terms:
            log = read_metrics(out / config)
            values = {term: [line[term] for line in log] for term in terms[config]}
            use = [line["codes_used"] for line in log if "codes_used" in line]
            curves.append(LossCurve(stage, [int(line["step"]) for line in log], values, use))
    return curves


def _environment() -> dict[str, str]:
    return {
        "Machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "Seed": str(ARCADE["seed"]),
    }


def _commands(out: Path) -> dict[str, str]:
    quoted = shlex.quote(str(out))
    values = {key: ",".join(value) if isinstance(value, list) else value for key, value in ARCADE.items()}
    data = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in values.items())
    commands = {"data": f"evagen data arcade --out {quoted}/arcade {data}"}
    for stage, config in STAGES.items():
        commands[stage] = f"evagen {_command_of(config).name} {quoted}/configs/{config}.yaml"
    return commands
