"""What is scored: a tokenizer that reconstructs real clips, a generator that writes new ones, or a folder of videos.

Each gives `clips`, by number, and `rows` of them (`rows.py`); where it has tokens with `lengths` and `codes`; of a
reconstruction also with `psnr`, `ssim`, `perceptual`, and the squared errors where something moves, `moving_error` of
the reconstruction and `still_error` of the still background.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor

from evagen.ar_model import ClipRequest, ClipTokens, SamplingOptions, VideoGenerator, sample_in_order
from evagen.data.clip_table import NumberedClips
from evagen.data.found_files import find_videos, looked_for
from evagen.data.frame_counts import count_all_frames
from evagen.data.loader import ClipBatch
from evagen.data.video_reader import VideoError
from evagen.errors import UserError
from evagen.eval import FrameDistance, PreparedDetector, Protocol, SourceClip, moving_errors, psnr, ssim
from evagen.kernels.names import as_text
from evagen.kernels.words import counted
from evagen.models.inference import HALF, autocast_to
from evagen.models.larp import LarpTokenizer
from evagen.models.lengths import Assign
from evagen.models.loading import fingerprint
from evagen.sampling.clips import clip_seed, decode_clips
from evagen.sampling.given import encode_given
from evagen.scoring.clips import FileClips, LabelClips
from evagen.scoring.rows import scored_rows
from evagen.tokenizer import VideoTokenizer


class Subject(Interface):
    """Something that can be scored. about: what its rows follow from, besides protocol and detector; precision: of its
    models, in words, None where there are none."""

    @property
    def clips(self) -> NumberedClips: ...

    @property
    def about(self) -> dict[str, Any]: ...

    @property
    def precision(self) -> str | None: ...

    def rows(self, batch: ClipBatch) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Reconstruction:
    """The real clips, encoded and decoded."""

    clips: FileClips
    tokenizer: VideoTokenizer | LarpTokenizer
    assign: Assign
    detector: PreparedDetector
    perceptual: FrameDistance

    @property
    def about(self) -> dict[str, Any]:
        return {
            "tokenizer": fingerprint(self.tokenizer),
            "precision": self.precision,
            "lengths": str(self.assign),
            "perceptual": f"{self.perceptual.name} {self.perceptual.fingerprint}",
        }

    @property
    def precision(self) -> str:
        return self.clips.protocol.tokenizer_precision

    def rows(self, batch: ClipBatch) -> list[dict[str, Any]]:
        video = batch.video.to(self.tokenizer.device)  # B C F S S
        with autocast_to(self.clips.protocol.tokenizer_precision, video.device):
            tokens = self.tokenizer.encode(video, self.assign(video))
            again = self.tokenizer.decode(tokens, (video.shape[-2], video.shape[-1]))  # B C F S S
        measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "psnr": psnr,
            "ssim": ssim,
            "perceptual": lambda x, y: self.perceptual.video_distance(x, y).mean(1),
        }
        with torch.no_grad():
            values = {name: measure(again, video).tolist() for name, measure in measures.items()}
            values |= dict(zip(("moving_error", "still_error"), (e.tolist() for e in moving_errors(again, video))))
        rows = scored_rows(batch, self.detector, again)
        return [
            row | _token_columns(clip.codes, clip.lengths[0]) | {name: values[name][i] for name in values}
            for i, (row, clip) in enumerate(zip(rows, tokens.split()))
        ]


@dataclass(frozen=True)
class Generation:
    """One new clip for each label; or for each real clip, of which the first frames are given."""

    clips: LabelClips | FileClips
    generator: VideoGenerator
    tokenizer: VideoTokenizer
    options: SamplingOptions
    seed: int
    protocol: Protocol
    detector: PreparedDetector
    assign: Assign | None = None
    """Lengths of given frames; None where none are given."""

    @property
    def about(self) -> dict[str, Any]:
        return {
            "generator": fingerprint(self.generator),
            "tokenizer": fingerprint(self.tokenizer),
            "precision": self.precision,
            "lengths": str(self.assign) if self.assign else None,
            "options": {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self.options).items()},
            "seed": self.seed,
        }

    @property
    def precision(self) -> str:
        return f"tokenizer {self.protocol.tokenizer_precision}, generator {self.protocol.generator_precision}"

    def rows(self, batch: ClipBatch) -> list[dict[str, Any]]:
        real = batch.video.to(self.tokenizer.device)  # B C F S S, or empty
        precision, half = self.protocol.tokenizer_precision, HALF.get(self.protocol.generator_precision)
        given: Sequence[ClipTokens | None] = [None] * len(batch)
        if self.assign:
            frames = real[:, :, : self.protocol.given_frames]  # B C n S S
            with autocast_to(precision, real.device):
                given = encode_given(frames, self.tokenizer, self.assign)
        labels = batch.label.tolist() if isinstance(self.clips, LabelClips) else [-1] * len(batch)
        whole = self.protocol.num_frames // self.tokenizer.config.temporal_patch
        requests = [
            ClipRequest(clip_seed(self.seed, number), label, blocks, num_blocks=None if self.assign else whole)
            for number, label, blocks in zip(batch.index.tolist(), labels, given)
        ]
        try:
            written = sample_in_order(self.generator, requests, self.options, len(requests), half)
        except ValueError as error:
            raise UserError(f"the generator cannot write these clips: {error}") from error
        with autocast_to(precision, real.device):
            video = decode_clips(self.tokenizer, written)  # B C F S S
        if self.assign:
            video, _ = self.protocol.scored(video, real)  # B C F S S
        return [
            row | _token_columns(clip.codes, clip.lengths)
            for row, clip in zip(scored_rows(batch, self.detector, video), written)
        ]


@dataclass(frozen=True)
class FolderOfClips:
    """Video files that some program has written."""

    clips: FileClips
    detector: PreparedDetector
    device: torch.device

    @property
    def about(self) -> dict[str, Any]:
        return {"samples": self.clips.fingerprint()}

    @property
    def precision(self) -> None:
        return None

    def rows(self, batch: ClipBatch) -> list[dict[str, Any]]:
        return scored_rows(batch, self.detector, batch.video.to(self.device))


OF_RUNS = frozenset({".json", ".jsonl", ".yaml", ".png"})
"""What lies beside the videos that were sampled."""


def first_clips(folder: Path, protocol: Protocol) -> FileClips:
    """The first clip of every video below a folder, in the order of their paths; never resampled in time. Raises
    UserError where there are no videos, for such as are shorter than a clip or cannot be opened, and for one in two
    formats."""
    if not folder.is_dir():
        raise UserError(f"no folder at {folder}: a folder of videos is needed")
    files_found = find_videos(folder)
    for remark in files_found.remarks(known=OF_RUNS):
        logging.getLogger(__name__).warning(remark)
    found = files_found.videos
    if not found:
        raise UserError(f"no videos in {folder} {looked_for()}")
    names = Counter(os.path.splitext(video.path)[0] for video in found)
    if twins := [video.path for video in found if names[os.path.splitext(video.path)[0]] > 1]:
        raise UserError(
            f"{len(twins)} videos in {folder} have the name of another one but for its ending, as {twins[0]}: what was "
            "written in two formats would count twice. Leave one of them there; `evagen sample` with formats=[mkv] "
            "writes one, without loss"
        )
    span = (protocol.num_frames - 1) * protocol.stride + 1
    bad = []
    for video, count in zip(found, count_all_frames([video.path for video in found])):
        if isinstance(count, VideoError):
            bad.append(f"{video.path}: {count.reason}")
        elif count < span:
            bad.append(f"{video.path}: {counted(count, 'frame')}")
    if bad:
        raise UserError(
            f"{len(bad)} of {len(found)} videos in {folder} cannot be scored; a clip of {protocol.name} needs {span} "
            "frames:\n  " + "\n  ".join(bad[:5]) + (f"\n  and {len(bad) - 5} more" if len(bad) > 5 else "")
        )
    files = {as_text(Path(video.path).relative_to(folder).as_posix()): video.path for video in found}
    clips = [SourceClip(name, 0, protocol.num_frames, protocol.stride, -1) for name in sorted(files)]
    return FileClips(protocol, clips, files)


def _token_columns(codes: Tensor, lengths: Tensor) -> dict[str, np.ndarray]:
    return {"lengths": lengths.cpu().numpy().astype(np.int32), "codes": codes.cpu().numpy().astype(np.int32)}
