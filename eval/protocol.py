"""A protocol: everything that a published score depends on besides the model, as data. `protocols.py` has the table.

    protocol = get_protocol("larp-ucf101-class2video")
    videos = [SourceVideo("Archery/v_Archery_g01_c01.avi", num_frames=200, label=2), ...]
    clips = protocol.real_clips(videos)
    video = protocol.prepare(frames_of(clips[0]))               # uint8 F H W C → float32 C F S S in [-1, 1]
    labels = protocol.labels_to_generate(clips, videos)
    detector = load_detector(protocol)
    metric = FrechetVideoDistance(detector, ddof=protocol.ddof)

Scores of different protocols do not compare. The facts were read from the public code that the `sources` name.

Letters: B videos, C = 3 channels, F frames of a video, S = height = width.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from evagen.eval.clip_choice import ClipChoice, SourceClip, SourceVideo
from evagen.eval.frames import FramePreparation
from evagen.eval.network_input import NetworkInput
from evagen.kernels.backends import Precision

Task = Literal["reconstruction", "class-to-video", "frame-prediction", "generation"]
ScoredFrames = Literal["generated", "paste-given", "predicted-only"]


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
    frames_per_second: in place of a stride, clips are resampled in time to this rate.
    frames: how they are made square clips.
    num_real, num_generated: how many clips each side has; None for as many as the videos give, and for one generated
        clip for each real one.
    network, network_input: what the distance is measured in, and how clips go in.
    ddof: covariances are divided by the count less this.
    guidance, temperature, top_k, top_p: of sampling; None where nothing is sampled or a model's own choice stands
        (no restriction for `top_k` and `top_p`).
    tokenizer_precision, generator_precision: of their matrix products. fp32 also where the original does not tell.
    given_frames: the frames at the start of a real clip that a frame prediction continues.
    given_lengths: tokens of each block that the given frames reach into; none where a router or the user chooses them.
    scored_frames: of a frame prediction, `generated` scores what the model wrote, the given frames included;
        `paste-given` puts the real given frames in their place; `predicted-only` leaves them out on both sides.
    explanation: for people, one paragraph.
    published: (method, score) under this protocol.
    differences: where this reproduction is known to differ from the original.
    sources: where the facts come from."""

    name: str
    task: Task
    dataset: Literal["ucf101", "kinetics600", "webvid"]
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
    frames_per_second: float | None = None
    network: Literal["i3d"] = "i3d"
    network_input: NetworkInput = field(default_factory=NetworkInput)
    ddof: int = 0
    guidance: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    tokenizer_precision: Precision = "fp32"
    generator_precision: Precision = "fp32"
    given_frames: int = 0
    given_lengths: tuple[int, ...] = ()
    scored_frames: ScoredFrames = "generated"
    published: tuple[tuple[str, float], ...] = ()
    differences: tuple[str, ...] = ()

    def real_clips(self, videos: Sequence[SourceVideo]) -> list[SourceClip]:
        """The clips of the real set, in the order in which they are scored, of all videos of the split. Raises
        ValueError where they are not as many as the protocol scores; `changed(num_real=None)` scores what there is."""
        clips = self.clips(videos, self.num_frames, self.stride, self.frames_per_second)
        if not clips:
            raise ValueError(f"{self.name}: none of {len(videos)} videos has the {self.num_frames} frames of a clip")
        if self.num_real is not None and len(clips) != self.num_real:
            raise ValueError(
                f"{self.name} scores {self.num_real:,} real clips, and these {len(videos):,} videos give "
                f"{len(clips):,}; is this the {self.split} split, and is it complete?"
            )
        return clips

    def prepare(self, frames: Tensor | np.ndarray) -> Tensor:
        """The frames that a `SourceClip` names, uint8 `F H W C`, as `read_frames` gives them → float32
        `C num_frames S S` in [-1, 1]."""
        return self.frames(frames, self.num_frames)

    def labels_to_generate(self, clips: Sequence[SourceClip], videos: Sequence[SourceVideo]) -> list[int]:
        """The label of every clip to generate, from the real clips and all videos of the split: for `generation`, of
        `num_generated` clips that are drawn with the choice's seed, with replacement, from those of all videos, however
        few of them are scored; otherwise of each real clip in turn."""
        if self.task == "generation" and self.num_generated is not None:
            every = replace(self.clips, first_videos=None, drawn=None)
            of_all = every(videos, self.num_frames, self.stride, self.frames_per_second)
            return random.Random(self.clips.seed).choices([clip.label for clip in of_all], k=self.num_generated)
        return [clip.label for clip in clips]

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
        with a new `drawn` or `first_videos`, or other frames of a clip, for which more or fewer videos are long enough,
        `num_real` is what the choice then gives. Raises ValueError for other names."""
        inner = {"size": "frames", "drawn": "clips", "first_videos": "clips", "seed": "clips"}
        known = {each.name for each in fields(self)} - {"name"} | set(inner)
        unknown = sorted(set(changes) - known)
        if unknown:
            raise ValueError(f"a protocol has no {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        label = ", ".join(f"{key}={value}" for key, value in sorted(changes.items()))
        outer: dict[str, Any] = {key: value for key, value in changes.items() if key not in inner}
        for key, part in inner.items():
            if key in changes:
                outer[part] = replace(outer.get(part, getattr(self, part)), **{key: changes[key]})
        if {"drawn", "first_videos", "num_frames", "stride", "frames_per_second"} & set(changes):
            outer.setdefault("num_real", outer.get("clips", self.clips).fixed_count)
        return replace(self, name=f"{self.name} [{label}]", published=(), **outer)

    def as_dict(self) -> dict[str, Any]:
        """All fields, as JSON holds them."""
        return asdict(self)
