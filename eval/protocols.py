"""The named protocols: everything that a published score depends on besides the model, as data.

    protocol = get_protocol("larp-ucf101-class2video")
    clips = protocol.real_clips([SourceVideo("Archery/v_Archery_g01_c01.avi", num_frames=200, label=2), ...])
    video = protocol.prepare(frames_of(clips[0]))               # uint8 F H W C → float32 C F S S in [-1, 1]
    labels = protocol.labels_to_generate(clips)
    detector = load_detector(protocol)
    metric = FrechetVideoDistance(detector, ddof=protocol.ddof)

Scores of different protocols do not compare. The facts were read from the public code that the `sources` name.

Letters: B videos, C = 3 channels, F frames of a video, S = height = width.
"""

import difflib
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from evagen.eval.clip_choice import ClipChoice, SourceClip, SourceVideo
from evagen.eval.frames import FramePreparation
from evagen.eval.network_input import NetworkInput

Task = Literal["reconstruction", "class-to-video", "frame-prediction", "generation"]
ScoredFrames = Literal["generated", "paste-given", "predicted-only"]

UCF101_TRAIN_VIDEOS, UCF101_VIDEOS = 9_537, 13_320
"""Videos of UCF-101 in the first official training list, and in all."""


@dataclass(frozen=True)
class Protocol:
    """One way of scoring.

    name: unique; scores of equal names compare.
    task: `reconstruction` compares every real clip with its reconstruction; `class-to-video` with as many clips
        generated for the same labels; `frame-prediction` with continuations of its first frames; `generation` with
        clips of any model.
    dataset, split, split_index: whose videos are real. `split_index` counts UCF-101's official lists.
    clips: which clips of these videos.
    num_frames, stride: frames of a clip and the distance between them in the file.
    frames: how they are made square clips.
    num_real, num_generated: how many clips each side has; None for as many as the videos give, and for one generated
        clip for each real one.
    network, network_input: what the distance is measured in, and how clips go in.
    ddof: covariances are divided by the count less this.
    guidance, temperature, top_k, top_p: of sampling; None where nothing is sampled or a model's own choice stands
        (no restriction for `top_k` and `top_p`).
    tokenizer_dtype, generator_dtype: precision in which the published figures were computed, None for any.
    given_frames: the frames at the start of a real clip that a frame prediction continues.
    scored_frames: of a frame prediction, `generated` scores what the model wrote, the given frames included;
        `paste-given` puts the real given frames in their place; `predicted-only` leaves them out on both sides.
    explanation: for people, one paragraph.
    published: (method, score) under this protocol.
    differences: where this reproduction is known to differ from the original.
    sources: where the facts come from."""

    name: str
    task: Task
    dataset: Literal["ucf101", "kinetics600"]
    split: Literal["train", "test", "val", "all"]
    clips: ClipChoice
    frames: FramePreparation
    num_real: int | None
    num_generated: int | None
    explanation: str
    sources: tuple[str, ...]
    split_index: int | None = None
    num_frames: int = 16
    stride: int = 1
    network: Literal["i3d"] = "i3d"
    network_input: NetworkInput = field(default_factory=NetworkInput)
    ddof: int = 0
    guidance: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    tokenizer_dtype: str | None = None
    generator_dtype: str | None = None
    given_frames: int = 0
    scored_frames: ScoredFrames = "generated"
    published: tuple[tuple[str, float], ...] = ()
    differences: tuple[str, ...] = ()

    def real_clips(self, videos: Sequence[SourceVideo]) -> list[SourceClip]:
        """The clips of the real set, in the order in which they are scored, of all videos of the split. Raises
        ValueError where they are not as many as the protocol scores."""
        clips = self.clips(videos, self.num_frames, self.stride)
        if not clips:
            raise ValueError(f"{self.name}: none of {len(videos)} videos has the {self.num_frames} frames of a clip")
        if self.num_real is not None and len(clips) != self.num_real:
            raise ValueError(
                f"{self.name} scores {self.num_real:,} real clips, and these {len(videos):,} videos give "
                f"{len(clips):,}; is this the {self.split} split, and is it complete? What there is can be scored "
                f"under another name: protocol.changed(num_real=None)"
            )
        return clips

    def prepare(self, frames: Tensor) -> Tensor:
        """The frames that a `SourceClip` names, uint8 `F H W C` → float32 `C num_frames S S` in [-1, 1]."""
        return self.frames(frames, self.num_frames)

    def labels_to_generate(self, clips: Sequence[SourceClip]) -> list[int]:
        """The label of every clip to generate: for `generation`, of `num_generated` real clips that are drawn with the
        choice's seed, with replacement; otherwise of each real clip in turn."""
        labels = [clip.label for clip in clips]
        if self.task == "generation" and self.num_generated is not None:
            return random.Random(self.clips.seed).choices(labels, k=self.num_generated)
        return labels

    def scored(self, generated: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Generated and real clips `B C F S S` of a frame prediction → both as they go to the detector."""
        if self.scored_frames == "paste-given":
            given = real[:, :, : self.given_frames].to(generated)
            return torch.cat([given, generated[:, :, self.given_frames :]], dim=2), real  # (B, C, F, S, S)
        if self.scored_frames == "predicted-only":
            return generated[:, :, self.given_frames :], real[:, :, self.given_frames :]  # (B, C, F - given, S, S)
        return generated, real

    def changed(self, **changes: Any) -> "Protocol":
        """A protocol that differs in the named fields and says so in its name, so that its scores stay apart:
        `changed(num_generated=256)`. `size`, `drawn`, `first_videos` and `seed` reach into frames and clip choice;
        a new `drawn` or `first_videos` is also the new `num_real`. Raises ValueError for other names."""
        inner = {"size": "frames", "drawn": "clips", "first_videos": "clips", "seed": "clips"}
        known = {each.name for each in fields(self)} - {"name"} | set(inner)
        unknown = sorted(set(changes) - known)
        if unknown:
            raise ValueError(f"a protocol has no {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        label = ", ".join(f"{key}={value}" for key, value in sorted(changes.items()))
        outer: dict[str, Any] = {key: value for key, value in changes.items() if key not in inner}
        for key in ("drawn", "first_videos"):
            if key in changes:
                outer.setdefault("num_real", changes[key])
        for key, part in inner.items():
            if key in changes:
                outer[part] = replace(outer.get(part, getattr(self, part)), **{key: changes[key]})
        return replace(self, name=f"{self.name} [{label}]", published=(), **outer)

    def as_dict(self) -> dict[str, Any]:
        """All fields, as JSON holds them."""
        return asdict(self)


def get_protocol(name: str) -> Protocol:
    """The protocol of this name. Raises ValueError, which names the nearest, where there is none."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    nearest = difflib.get_close_matches(name, PROTOCOLS, n=1, cutoff=0.0)
    raise ValueError(f"there is no protocol {name!r}; did you mean {nearest[0]!r}? There are: {', '.join(PROTOCOLS)}")


LARP_FRAMES = FramePreparation(128, "bilinear", "floor", "round")

_LARP_SOURCES = (
    "github.com/hywang66/LARP: sample.py, eval/rfvd_evaluator.py, datasets/video_dataset.py",
    "Wang et al. 2025, arXiv 2410.21264",
)
_ADAPTOK_SOURCES = (
    "github.com/VisionXLab/AdapTok: eval/eval_adaptok.py, sample.py",
    "Li et al. 2025, arXiv 2505.17011",
)
_DECODER = "frames are decoded by FFmpeg with accurate colour conversion, the original's by decord"

LARP_RECON = Protocol(
    name="larp-ucf101-recon",
    task="reconstruction",
    dataset="ucf101",
    split="train",
    split_index=1,
    clips=ClipChoice("random", short="pad"),
    frames=LARP_FRAMES,
    num_real=UCF101_TRAIN_VIDEOS,
    num_generated=None,
    tokenizer_dtype="float16",
    explanation=(
        "rFVD as LARP reports it. One clip of 16 consecutive frames of each of the 9,537 videos of UCF-101's first "
        "training list, at a random place, short videos filled up with their last frame; short side to 128 pixels, "
        "centre crop. The same clips, encoded with the most likely codes and decoded, are the other side. Clips go "
        "into I3D as floats, without rounding to 8 bits. These are videos that the tokenizer was trained on."
    ),
    published=(("LARP-L-Long", 20.0),),
    differences=("the original draws the places unseeded, here they follow from a seed and the path", _DECODER),
    sources=_LARP_SOURCES,
)

ADAPTOK_RECON = replace(
    LARP_RECON,
    name="adaptok-ucf101-recon",
    clips=ClipChoice("first", short="pad"),
    explanation=(
        "rFVD as AdapTok reports it: LARP's protocol, except that each video gives its first 16 frames, so that "
        "nothing is random. 9,537 videos of UCF-101's first training list, on which the tokenizer was trained too; "
        "floats, not rounded."
    ),
    published=(("AdapTok", 28.0), ("AdapTok, its other setting", 36.0)),
    differences=(_DECODER,),
    sources=_ADAPTOK_SOURCES,
)

LARP_CLASS2VIDEO = replace(
    LARP_RECON,
    name="larp-ucf101-class2video",
    task="class-to-video",
    clips=ClipChoice("all", drawn=10_000, seed=42),
    num_real=10_000,
    guidance=1.25,
    temperature=1.0,
    generator_dtype="bfloat16",
    explanation=(
        "gFVD as LARP, AdapTok and EVATok report it. All clips of 16 frames that do not overlap, of the videos of "
        "UCF-101's first training list, are numbered in the order of their paths, and 10,000 are drawn with seed 42. "
        "They are the real set, and one clip is generated for the label of each: temperature 1, neither top-k nor "
        "top-p, guidance 1.25 (LARP; AdapTok uses 1.0). Clips go into I3D as floats. The generator was trained on "
        "these videos: a model that repeats its training set scores well."
    ),
    published=(("LARP-L-Long", 57.0), ("AdapTok, guidance 1.0", 67.0), ("EVATok", 48.0)),
    differences=(_DECODER,),
    sources=_LARP_SOURCES + _ADAPTOK_SOURCES,
)

HELDOUT = replace(
    LARP_CLASS2VIDEO,
    name="evagen-ucf101-heldout",
    split="test",
    explanation=(
        "gFVD against videos that nothing was trained on: `larp-ucf101-class2video` in every detail, but with clips "
        "and labels of UCF-101's first test list (3,783 videos, of other recordings than the training list's). It is "
        "larger than gFVD against the training list, and it does not reward a model for repeating that."
    ),
    published=(),
    differences=(),
    sources=("this project",),
)

LARP_PREDICTION = Protocol(
    name="larp-k600-frame-prediction",
    task="frame-prediction",
    dataset="kinetics600",
    split="val",
    clips=ClipChoice("all", drawn=50_000, seed=42),
    frames=LARP_FRAMES,
    num_real=50_000,
    num_generated=None,
    network_input=NetworkInput(size=64),
    guidance=1.0,
    temperature=1.0,
    tokenizer_dtype="float32",
    generator_dtype="bfloat16",
    given_frames=5,
    explanation=(
        "FVD of frame prediction as LARP, AdapTok and EVATok report it. Of all clips of 16 frames that do not "
        "overlap, of Kinetics-600's validation videos in the order of their paths, 50,000 are drawn with seed 42. The "
        "first 5 frames of each, the fifth repeated to 16, are encoded and stand before the separator; the model then "
        "writes all 16 frames, without guidance. The frames it was given are scored as it wrote them, real ones are "
        "not put back. Both sides are resized from 128 to 64 pixels (bilinear, antialiased) before I3D enlarges them."
    ),
    published=(("LARP-L-Long", 5.1), ("AdapTok", 11.0), ("EVATok", 4.0)),
    differences=(
        _DECODER,
        "which 50,000 clips are drawn depends on the order of the paths and on which videos a copy of Kinetics lacks: "
        "29,739 videos are complete here, and nobody published a list",
    ),
    sources=_LARP_SOURCES,
)

PASTE_GIVEN = replace(
    LARP_PREDICTION,
    name="larp-k600-frame-prediction:paste-given",
    scored_frames="paste-given",
    explanation=(
        "`larp-k600-frame-prediction` with the 5 real frames put back over the generated ones before scoring, as "
        "several earlier papers do. It is to be expected lower, since 5 of 16 frames are then perfect."
    ),
    published=(),
)

PREDICTED_ONLY = replace(
    LARP_PREDICTION,
    name="larp-k600-frame-prediction:predicted-only",
    scored_frames="predicted-only",
    explanation=(
        "`larp-k600-frame-prediction` with the 11 predicted frames alone on both sides, which is just enough for "
        "I3D's least of 10. It is to be expected higher, since the easy frames are left out."
    ),
    published=(),
)

STYLEGANV = Protocol(
    name="styleganv-fvd2048-16f",
    task="generation",
    dataset="ucf101",
    split="all",
    clips=ClipChoice("random", first_videos=2_048),
    frames=FramePreparation(256, "lanczos", "floor", "round"),
    num_real=2_048,
    num_generated=2_048,
    network_input=NetworkInput(rounding="nearest"),
    explanation=(
        "StyleGAN-V's fvd2048_16f. The real side is one clip of 16 consecutive frames, at a random place, of each of "
        "the first 2,048 videos of at least 16 frames in the order of their names; of UCF-101 this takes training and "
        "test list together, and the first 2,048 videos are those of the first sixteen classes or so. Frames are "
        "resized by Pillow's Lanczos filter to the model's resolution (256 unless changed) and cropped. 2,048 "
        "generated clips are rounded to 8 bits, and I3D takes the bytes and scales them itself."
    ),
    differences=(
        "the original draws the places unseeded, here they follow from a seed and the path",
        "the original's real frames went through JPEG files (Pillow's quality 75, since its script names the setting "
        "`q`), here they do not",
        _DECODER.replace("decord", "moviepy"),
    ),
    sources=(
        "github.com/universome/stylegan-v: src/metrics, src/training/dataset.py, "
        "src/scripts/convert_videos_to_frames.py",
        "Skorokhodov et al. 2022, arXiv 2112.14683",
    ),
)

CDFVD = Protocol(
    name="cdfvd",
    task="generation",
    dataset="ucf101",
    split="all",
    clips=ClipChoice("random"),
    frames=FramePreparation(256, "bilinear", "ceil", "floor"),
    num_real=UCF101_VIDEOS,
    num_generated=2_048,
    network_input=NetworkInput(rounding="truncate", network_size=224),
    explanation=(
        "FVD as the package cd-fvd computes it with I3D. The real side is one clip of 16 consecutive frames, at a "
        "random place, of every video of UCF-101's training and test lists; short side to 256 pixels by default "
        "(bilinear, antialiased, the long side rounded up), centre crop. 2,048 generated clips. Floats are cut off, "
        "not rounded, to 8 bits, then resized to 224×224 bilinearly without antialiasing, then scaled to [-1, 1]."
    ),
    differences=(
        "the original uses i3d_pretrained_400.pt, another port of the same network, whose distances are nearly those "
        "of the TorchScript file used here (JunyaoHu/common_metrics_on_video_quality, issue 4)",
        "the original's places depend on the workers of its loader, here they follow from a seed and the path",
        "where a video is too short the original takes the next one twice, here it is left out",
    ),
    sources=(
        "github.com/songweige/content-debiased-fvd: cdfvd/fvd.py, utils/data_utils.py, third_party/i3d/utils.py",
        "Ge et al. 2024, arXiv 2404.12391",
    ),
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        LARP_RECON,
        LARP_CLASS2VIDEO,
        ADAPTOK_RECON,
        LARP_PREDICTION,
        PASTE_GIVEN,
        PREDICTED_ONLY,
        STYLEGANV,
        CDFVD,
        HELDOUT,
    )
}
