"""Given frames: what frame prediction and continuation begin from.

Given frames are told to the generator as the tokens of the blocks that they reach into, the last frame repeated to the
end of its block. The assigner sees them with the last frame repeated to a whole clip, so that lengths say nothing of
what follows. Blocks are encoded from the past alone, so the tokens are those of any clip that begins with these frames.
With a memory lengths follow from the past anyway, and a beginning may have any number of blocks.

Legend: B clips, C = 3, F frames of a whole clip, n given frames, H × W pixels.
"""

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from evagen.ar_model import ClipTokens, VideoGenerator
from evagen.data.clips import BeginningOf, ClipDataset
from evagen.data.layouts import class_of
from evagen.data.loader import clip_loader
from evagen.data.sources import DataConfig
from evagen.errors import UserError
from evagen.models.fit import check_clips
from evagen.models.lengths import Assign, LengthChoice
from evagen.tokenizer import VideoTokenizer

FRAMES_TOGETHER = 256
"""That are encoded at a time: of whole clips, which are short unless the tokenizer has a memory."""


class Given(LengthChoice):
    data: DataConfig
    """Videos, of which the first frames of each clip are given."""
    frames: int | None = Field(None, ge=1)
    """Frames given of each clip. Frame prediction: as the generator was trained. Continuation: whole blocks, half of
    the clip if None, or of a window of a generator without an end, which can be given any number."""


def encode_given(frames: Tensor, tokenizer: VideoTokenizer, assign: Assign) -> list[ClipTokens]:
    """Given frames (B, C, n, H, W) in [-1, 1] → each clip's given blocks, on the CPU."""
    patch, whole = tokenizer.config.temporal_patch, tokenizer.config.num_frames
    num_blocks = -(-frames.shape[2] // patch)
    if tokenizer.config.memory_blocks is not None:
        whole = num_blocks * patch
    repeated = frames[:, :, -1:].expand(-1, -1, whole - frames.shape[2], -1, -1)
    padded = torch.cat([frames, repeated], dim=2)  # (B, C, F, H, W)
    lengths = assign(padded)[:, :num_blocks]
    tokens = tokenizer.encode(padded[:, :, : num_blocks * patch], lengths)
    return [ClipTokens(clip.codes.cpu(), clip.lengths[0]) for clip in tokens.split()]


class GivenClips:
    """The clips of a data set as beginnings for a generator. Raises UserError where they cannot be that."""

    def __init__(self, config: Given, generator: VideoGenerator, tokenizer: VideoTokenizer):
        self.config, self.tokenizer = config, tokenizer
        frames, size = config.data.frames, config.data.size
        check_clips(tokenizer, frames, size, "given clips", "change given.data.frames and given.data.size")
        self.assign = config.load(tokenizer)
        self.num_frames = given_frames(config.frames, generator, tokenizer)
        if self.num_frames > frames:
            raise UserError(
                f"{self.num_frames} frames are to be given, but the clips have {frames}: give "
                f"given.data.frames={self.num_frames}, or fewer given.frames"
            )
        self.dataset = ClipDataset(config.data)
        self.known = list(generator.config.class_names)
        self._check_classes()
        self._sources: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def class_of(self, index: int) -> str | None:
        """The clip's class, where both the generator and the videos know classes; without it the generator is not
        told one."""
        return class_of(self.dataset.labels[index], self.dataset.class_names) if self.known else None

    def label(self, index: int) -> int:
        """-1 for no class."""
        name = self.class_of(index)
        return -1 if name is None else self.known.index(name)

    def source_of(self, index: int) -> str:
        """The file and first frame of a clip that has been encoded."""
        return self._sources[index]

    def _check_classes(self) -> None:
        """Raises UserError for videos of classes that the generator does not know: it would write these clips as if no
        class had been asked for."""
        names = {class_of(label, self.dataset.class_names) for label in set(self.dataset.labels)} - {None}
        unknown = sorted(names - set(self.known))
        if self.known and unknown:
            raise UserError(
                f"given videos are of classes that the generator does not know: {', '.join(unknown[:5])}; it knows "
                f"{', '.join(self.known[:10])}{' …' if len(self.known) > 10 else ''}. Name the class folders as these, "
                "choose with given.data.classes, or put the videos into one folder without classes"
            )

    def encode(self, indices: Sequence[int], num_workers: int = 0) -> Iterator[ClipTokens]:
        """The given blocks of these clips, one by one, read by so many processes beside this one. Raises UserError for
        a clip that cannot be decoded."""
        together = max(1, FRAMES_TOGETHER // self.config.data.frames)
        keys = [BeginningOf(index, self.num_frames) for index in indices]
        batches = [keys[first : first + together] for first in range(0, len(keys), together)]
        for batch in clip_loader(self.dataset, batches, num_workers):
            for clip in batch.skipped:
                raise UserError(
                    f"{clip.path} cannot be decoded ({clip.reason}): take it out and give the command again"
                )
            for index, path, start in zip(batch.index.tolist(), batch.paths, batch.starts):
                self._sources[index] = f"{path}@{start}"
            frames = batch.video.to(self.tokenizer.device)  # (B, C, n, H, W)
            yield from encode_given(frames, self.tokenizer, self.assign)


def given_frames(asked: int | None, generator: VideoGenerator, tokenizer: VideoTokenizer) -> int:
    """How many frames are given. Raises UserError for a number that the generator cannot begin from."""
    trained, patch, grammar = generator.config.given_frames, tokenizer.config.temporal_patch, generator.grammar
    if trained:
        if asked not in (None, trained):
            raise UserError(f"this generator was trained to predict what follows {trained} frames, not {asked}")
        return trained
    window = grammar.num_blocks * patch if grammar.endless else tokenizer.config.num_frames
    frames = asked or max(patch, window // 2 // patch * patch)
    if frames % patch:
        raise UserError(f"{frames} given frames: continuation begins from whole blocks, so give a multiple of {patch}")
    if frames >= window and not grammar.endless:
        raise UserError(f"{frames} given frames leave nothing to write of a clip of {window}: give fewer")
    return frames
