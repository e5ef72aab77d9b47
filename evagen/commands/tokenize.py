"""Turns a video data set into a token corpus with a trained tokenizer and router.

evagen tokenize quickstart/tokens [key=value …]

The corpus is a `datasets` table with a row for each view of each clip, see `evagen.data.corpus`. Any number of
processes gives the same corpus; stopped half-way, the same command goes on where it was.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from evagen.ar_model import ClipTokens
from evagen.config import ONLY_HOW, Place
from evagen.data.clip_table import fill_table
from evagen.data.clips import ClipDataset, SeveralEpochs
from evagen.data.loader import ClipBatch
from evagen.data.sources import DataConfig
from evagen.errors import UserError
from evagen.kernels.names import as_text
from evagen.models.fit import check_clips
from evagen.models.inference import autocast, load_for, made_in
from evagen.models.lengths import Assign, LengthChoice
from evagen.models.loading import fingerprint
from evagen.run import PATIENCE, Infers, ReadsClips, RunFolder, start_accelerator
from evagen.sampling.given import encode_given
from evagen.tokenizer import VideoTokenizer


class TokenizationRun(Infers, ReadsClips, RunFolder):
    pass


class Tokenization(LengthChoice):
    run: TokenizationRun
    data: DataConfig
    tokenizer: Place
    """The final tokenizer, folder or hub id."""
    flips: bool = True
    """Adds the mirrored view of each clip."""
    epochs: int = Field(1, ge=1)
    """Times that the data set is gone over. With `data.clip=random` each time takes another clip of every video, so a
    generator sees many beginnings, as in a training that cuts its clips itself (LARP's)."""
    given_frames: int = Field(0, ge=0)
    """For frame prediction: the tokens of each clip's first frames, by themselves, are stored too; 5 on K600."""
    batch_size: int = Field(16, ge=1)
    """Clips that are encoded together."""
    save_seconds: Annotated[float, ONLY_HOW] = Field(60, ge=0)
    """Seconds between saves, which is what a killed process loses at most."""

    @model_validator(mode="after")
    def _epochs_differ(self) -> "Tokenization":
        if self.epochs > 1 and "random" not in (self.data.clip, self.data.crop) and not self.data.flip:
            raise ValueError(
                f"epochs={self.epochs}: nothing is random in the clips of data.clip={self.data.clip}, so every epoch "
                "would be the same; give data.clip=random, or epochs=1"
            )
        return self


def main(config: Tokenization) -> Path:
    """Writes the corpus into `run.out`; does nothing if it is there already."""
    accelerator = start_accelerator(config, config.run.out, patience=PATIENCE)
    table = config.run.out / "table"
    if table.exists():
        return config.run.out
    tokenizer = load_for(config.run, VideoTokenizer, config.tokenizer, accelerator.device)
    assign = config.load(tokenizer)
    check_clips(tokenizer, config.data.frames, config.data.size, "the clips", "change data.frames and data.size")
    if config.given_frames >= config.data.frames:
        raise UserError(f"given_frames={config.given_frames}: clips have {config.data.frames} frames, so give fewer")
    dataset = ClipDataset(config.data)
    made_by = fingerprint(tokenizer)
    # Classes that the config leaves out have no number here, or a generator would offer to write what it never saw.
    numbers = {label: number for number, label in enumerate(sorted(set(dataset.labels) - {-1}))}
    contents = {
        "tokenizer_source": config.tokenizer,
        "tokenizer_fingerprint": made_by,
        "codebook_size": tokenizer.config.codebook_size,
        "levels": list(tokenizer.config.levels),
        "num_blocks": config.data.frames // tokenizer.config.temporal_patch,
        "memory_blocks": tokenizer.config.memory_blocks,
        "class_names": [dataset.class_names[label] for label in numbers],
        "given_frames": config.given_frames,
        "num_given_blocks": -(-config.given_frames // tokenizer.config.temporal_patch),
    }
    with autocast(config.run, accelerator.device):
        fill_table(
            table, SeveralEpochs(dataset, config.epochs),
            lambda batch: _tokens(batch, tokenizer, assign, config, numbers),
            {"tokenizer": made_by, "lengths": str(assign), **made_in(config.run, accelerator.device)}, accelerator,
            config.batch_size, config.run.num_workers, config.save_seconds, contents,
        )  # fmt: skip
    return config.run.out


def _tokens(
    batch: ClipBatch, tokenizer: VideoTokenizer, assign: Assign, config: Tokenization, numbers: dict[int, int]
) -> list[dict]:
    views, given = [], []  # the clips as they are, then all of them mirrored
    for flipped in (False, True)[: 1 + config.flips]:
        video = batch.video.to(tokenizer.device)  # B C F H W
        video = video.flip(-1) if flipped else video
        views.append(tokenizer.encode(video, assign(video)).split())
        if config.given_frames:
            given.append(encode_given(video[:, :, : config.given_frames], tokenizer, assign))
    return [
        {
            "codes": tokens.codes.cpu().numpy().astype(np.int32),
            "lengths": tokens.lengths[0].numpy().astype(np.int32),
            "label": numbers.get(int(batch.label[i]), -1),
            "path": as_text(batch.paths[i]),
            "start": batch.starts[i],
            "flipped": bool(flipped),
        }
        | (_given_columns(given[flipped][i]) if given else {})
        for i, clips in enumerate(zip(*views))
        for flipped, tokens in enumerate(clips)
    ]


def _given_columns(clip: ClipTokens) -> dict:
    columns = {"given_codes": clip.codes, "given_lengths": clip.lengths}
    return {name: tensor.numpy().astype(np.int32) for name, tensor in columns.items()}
