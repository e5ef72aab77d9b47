"""Writes new clips: class-conditional sampling, frame prediction, continuation; clips of any length.

evagen sample quickstart/sample [key=value …]

Leaves `<run.out>/<class>/<number>.<format>`, `tokens.jsonl` with every clip's lengths and codes, and
`manifest.json` with all that is needed to write them again. A clip depends on the seed and its own number
alone, so the same clips come out with any number of slots and processes. Running again goes on where an earlier run
stopped.
"""

import difflib
import errno
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from tqdm.auto import tqdm

from evagen.ar_model import ClipRequest, ClipTokens, LengthDials, SamplingOptions, VideoGenerator, sample
from evagen.config import ONLY_HOW, Section, section_of
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.levels import video_to_frames
from evagen.models.loading import fingerprint, load_model
from evagen.sampling.given import Given, GivenClips
from evagen.sampling.rows import SampleRows
from evagen.sampling.windows import Writing, plan_windows
from evagen.tokenizer import TokenizedClips, VideoTokenizer
from evagen.training.run import RunConfig, start_accelerator
from evagen.versions import versions

OptionsConfig = section_of(SamplingOptions)
DECODED_TOGETHER = 8
"""Clips."""
SEEDS_BETWEEN_WINDOWS = 2**40
"""More than there are clips, so that no window repeats another clip's random numbers."""


class Lengths(section_of(LengthDials)):  # type: ignore[misc]
    @pydantic.model_validator(mode="before")
    @classmethod
    def _forced_alone(cls, values: Any) -> Any:
        """`lengths=256,64,free,32` and `lengths=[256, 64, null, 32]` are short for `lengths.forced=…`."""
        if isinstance(values, str):
            values = [None if part.strip() == "free" else part.strip() for part in values.split(",")]
        return {"forced": values} if isinstance(values, list) else values


class Sampling(Section):
    run: RunConfig
    generator: str
    """A trained generator, folder or hub id."""
    tokenizer: str
    """The tokenizer whose tokens it was trained on."""
    classes: list[str] | None = None
    """Classes to sample, by name; all if None."""
    clips_per_class: int = Field(4, ge=1)
    """Clips of each class; or of each given clip; or in all, where there are neither."""
    given: Given | None = None
    """Videos to begin from: for frame prediction with a generator trained for it, else for continuation."""
    options: OptionsConfig = OptionsConfig()  # type: ignore[valid-type]
    lengths: Lengths = Field(default_factory=Lengths)
    """Tokens of the blocks: as the generator likes, unless asked otherwise."""
    blocks: int | None = Field(None, ge=1)
    """Temporal blocks of each video; as trained if None. Longer ones are written in windows that move on."""
    overlap: int | None = Field(None, ge=1)
    """Blocks that a window shares with the one before; half of it if None."""
    slots: Annotated[int, ONLY_HOW] = Field(64, ge=1)
    """Clips written side by side in each process."""
    formats: list[Literal["mp4", "gif", "avi", "mkv", "png"]] = Field(["mp4"], min_length=1)
    """`mkv` is lossless, for scoring; `png` is one picture of all frames, a row for each block."""
    frames_per_second: int = Field(15, ge=1)


def main(config: Sampling) -> Path:
    """Samples every clip that is not there yet; returns the run folder."""
    accelerator = start_accelerator(config, config.run)
    generator = load_model(VideoGenerator, config.generator, accelerator.device)
    tokenizer = load_model(VideoTokenizer, config.tokenizer, accelerator.device)
    check_tokenizer(generator, tokenizer)
    clips = _Clips(config, generator, tokenizer)
    rows = SampleRows(config.run.out, accelerator.process_index)
    accelerator.wait_for_everyone()  # all have read what is there before one writes
    todo = [number for number in range(len(clips)) if number not in rows.done]
    mine = todo[accelerator.process_index :: accelerator.num_processes]
    with (
        explained_failure(rows, len(clips)),
        tqdm(total=len(mine), desc="sampling", unit="clip", disable=not accelerator.is_main_process) as bar,
    ):
        for number, clip in clips.written(mine):
            path = Path(clips.name_of(number)) / f"{number:06d}"
            video = video_to_frames(clip.video)
            for suffix in config.formats:
                target = config.run.out / path.with_suffix(f".{suffix}")
                target.parent.mkdir(parents=True, exist_ok=True)
                if suffix == "png":
                    frame_grid(video, tokenizer.config.temporal_patch).save(target)
                else:
                    write_video(target, video, config.frames_per_second)
            rows.add(
                number,
                path=str(path.with_suffix(f".{config.formats[0]}")), seed=clips.seed_of(number),
                **{"class": clips.class_of(number)}, **clips.source_of(number), **clip.as_row(),
            )  # fmt: skip
            bar.update()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        rows.join()
        manifest = {
            "config": config.model_dump(mode="json"),
            "clips": len(clips),
            "generator_fingerprint": fingerprint(generator),
            "tokenizer_fingerprint": fingerprint(tokenizer),
            "versions": versions(),
            "device": str(accelerator.device),
        }
        rows.write_manifest(manifest)
    accelerator.wait_for_everyone()
    return config.run.out


class _Clips:
    """The clips of one run by their numbers: what is asked of each, and how it is written."""

    def __init__(self, config: Sampling, generator: VideoGenerator, tokenizer: VideoTokenizer):
        self.config, self.generator, self.tokenizer = config, generator, tokenizer
        given_frames = generator.config.given_frames
        if given_frames and config.given is None:
            raise UserError(
                f"this generator predicts what follows {given_frames} given frames: give it videos, given.data.root=…"
            )
        self.given = GivenClips(config.given, generator, tokenizer) if config.given else None
        try:
            self.options = SamplingOptions(**config.options.model_dump())
            self.dials = LengthDials(**config.lengths.model_dump())
            self.dials.check(generator.grammar)
        except ValueError as error:
            raise UserError(str(error)) from error
        self.num_windows, self.overlap = plan_windows(config.blocks, config.overlap, generator)
        known = list(generator.config.class_names)
        self.names = config.classes or known or [None]
        self.labels = [label_of(name, known) for name in self.names]

    def __len__(self) -> int:
        return (len(self.given) if self.given else len(self.names)) * self.config.clips_per_class

    def class_of(self, number: int) -> str | None:
        of_what = number // self.config.clips_per_class
        return self.given.class_of(of_what) if self.given else self.names[of_what]

    def name_of(self, number: int) -> str:
        return self.class_of(number) or "clips"

    def source_of(self, number: int) -> dict:
        return {"given": self.given.source_of(number // self.config.clips_per_class)} if self.given else {}

    def seed_of(self, number: int) -> int:
        return clip_seed(self.config.run.seed, number)

    def request(self, number: int) -> ClipRequest:
        of_what = number // self.config.clips_per_class
        if self.given:
            return ClipRequest(self.seed_of(number), self.given.label(of_what), self.given.tokens(of_what), self.dials)
        return ClipRequest(self.seed_of(number), self.labels[of_what], dials=self.dials)

    def written(self, numbers: list[int]) -> Iterator[tuple[int, Writing]]:
        """These clips, as they get finished. Raises UserError where one cannot be as asked."""
        try:
            if self.num_windows == 1:
                for i, window, video in self._windows([self.request(number) for number in numbers]):
                    yield numbers[i], Writing(video, [window])
                return
            for start in range(0, len(numbers), self.config.slots):  # windows of so many clips, then their next ones
                group = numbers[start : start + self.config.slots]
                yield from zip(group, self._long([self.request(number) for number in group]))
        except ValueError as error:
            raise UserError(str(error)) from error

    def _long(self, requests: list[ClipRequest]) -> list[Writing]:
        patch = self.tokenizer.config.temporal_patch
        new_frames = (self.generator.grammar.num_blocks - self.overlap) * patch
        clips = {i: Writing(video, [window]) for i, window, video in self._windows(requests)}
        for number in range(1, self.num_windows):
            following = [
                replace(
                    request,
                    seed=request.seed + number * SEEDS_BETWEEN_WINDOWS,
                    given=clips[i].beginning(self.tokenizer, self.overlap),
                )
                for i, request in enumerate(requests)
            ]
            for i, window, video in self._windows(following):
                clips[i].extend(window, video, new_frames)
        for clip in clips.values():
            clip.video = clip.video[:, : self.config.blocks * patch]
        return [clips[i] for i in range(len(requests))]

    def _windows(self, requests: list[ClipRequest]) -> Iterator[tuple[int, ClipTokens, Tensor]]:
        """The clip of each request and its video (C, F, H, W), as they get finished."""
        clips = sample(self.generator, requests, self.options, self.config.slots)
        while some := list(itertools.islice(clips, DECODED_TOGETHER)):
            videos = decode_clips(self.tokenizer, [clip for _, clip in some])
            for (i, clip), video in zip(some, videos):
                yield i, clip, video


def frame_grid(frames: np.ndarray, columns: int) -> Image.Image:
    """All frames, uint8 F H W C, as one picture with so many a row and a gap of two pixels between them."""
    count, height, width, _ = frames.shape
    rows = -(-count // columns)
    picture = np.full((rows * (height + 2) - 2, columns * (width + 2) - 2, 3), 255, np.uint8)
    for i, frame in enumerate(frames):
        y, x = (i // columns) * (height + 2), (i % columns) * (width + 2)
        picture[y : y + height, x : x + width] = frame
    return Image.fromarray(picture)


class explained_failure:
    """A full disk stops sampling with a message; what was finished stays."""

    def __init__(self, rows: SampleRows, wanted: int):
        self.rows, self.wanted = rows, wanted

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk that holds {self.rows.folder} is full; {self.rows.count_all()} of {self.wanted} clips are "
                "finished and stay: make room and give the same command again"
            ) from error


def clip_seed(seed: int, number: int) -> int:
    """The seed of one clip of a sampling run."""
    return seed * 1_000_003 + number


def label_of(name: str | None, known: list[str]) -> int:
    """A class's label, -1 for None. Raises UserError with the nearest name for an unknown class."""
    if name is None:
        return -1
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        raise UserError(f"the generator knows no class {name!r}; the nearest are {', '.join(near) or 'none at all'}")
    return known.index(name)


def check_tokenizer(generator: VideoGenerator, tokenizer: VideoTokenizer) -> None:
    """Raises UserError unless the tokenizer is the one whose tokens the generator was trained on."""
    wanted, found = generator.config.tokenizer_fingerprint, fingerprint(tokenizer)
    if wanted not in (None, found):
        raise UserError(
            f"the generator was trained on the tokens of tokenizer {wanted}; this one is {found}: give the folder "
            "of the tokenizer that made its corpus"
        )


def decode_clips(tokenizer: VideoTokenizer, clips: list[ClipTokens]) -> Tensor:
    """Sampled tokens → video B C F H W in [-1, 1]."""
    joined = TokenizedClips(torch.cat([c.codes for c in clips]), torch.stack([c.lengths for c in clips]))
    return tokenizer.decode(TokenizedClips(joined.codes.to(tokenizer.device), joined.lengths))
