"""Turns a video data set into a token corpus with a trained tokenizer and router.

evagen tokenize quickstart/tokens [key=value …]

The corpus is a `datasets` table with a row for each view of each clip: codes, lengths, label, path, start, flipped, and
with `given_frames` also given_codes and given_lengths. Rows stand clip by clip in the data set's order, a clip before
its mirror image. `corpus.json` beside the table says which tokenizer made it and what the labels are called. Any number
of processes gives the same corpus; stopped half-way, the same command goes on where it was.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from datasets import Dataset
from pydantic import Field

from evagen.ar_model import ClipTokens
from evagen.commands.curate import check_clips_fit
from evagen.config import ONLY_HOW, Section
from evagen.data.clip_table import PATIENCE, fill_table, open_table, unfinished
from evagen.data.clips import ClipDataset
from evagen.data.loader import ClipBatch
from evagen.data.sources import DataConfig
from evagen.errors import UserError
from evagen.kernels.files import atomic_write
from evagen.models.lengths import Assign, load_assigner
from evagen.models.loading import fingerprint, load_model
from evagen.sampling.given import encode_given
from evagen.tokenizer import VideoTokenizer
from evagen.training.run import RunConfig, start_accelerator


class Tokenization(Section):
    run: RunConfig
    data: DataConfig
    tokenizer: str
    """The final tokenizer, folder or hub id."""
    router: str | None = None
    """The router that says how many tokens each block gets."""
    preference: float = Field(1.2, ge=0, le=2)
    """w_q: higher spends more tokens."""
    uniform_length: int | None = Field(None, ge=1)
    """In place of a router: so many tokens for every block."""
    flips: bool = True
    """Adds the mirrored view of each clip."""
    given_frames: int = Field(0, ge=0)
    """For frame prediction: the tokens of each clip's first frames, by themselves, are stored too; 5 on K600."""
    batch_size: int = Field(16, ge=1)
    save_seconds: Annotated[float, ONLY_HOW] = Field(60, ge=0)
    """Seconds between saves, which is what a killed process loses at most."""


@dataclass(frozen=True)
class Corpus:
    """A token corpus. table: its rows, memory-mapped; codebook_size, levels, num_blocks: of the tokenizer; class_names
    in label order; tokenizer_fingerprint; given_frames, num_given_blocks: of frame prediction, or 0."""

    table: Dataset
    codebook_size: int
    levels: list[int]
    num_blocks: int
    class_names: list[str]
    tokenizer_fingerprint: str
    given_frames: int = 0
    num_given_blocks: int = 0


def main(config: Tokenization) -> Path:
    """Writes the corpus into `run.out`; does nothing if it is there already."""
    accelerator = start_accelerator(config, config.run, patience=PATIENCE)
    out = config.run.out
    if (out / "corpus.json").exists():
        return out
    tokenizer = load_model(VideoTokenizer, config.tokenizer, accelerator.device)
    assign = load_assigner(tokenizer, config.router, config.preference, config.uniform_length)
    check_clips_fit(tokenizer, config.data)
    if config.given_frames >= tokenizer.config.num_frames:
        raise UserError(
            f"given_frames={config.given_frames}: clips have {tokenizer.config.num_frames} frames, so give fewer"
        )
    dataset = ClipDataset(config.data)
    about = {"tokenizer": fingerprint(tokenizer), "lengths": str(assign)}
    fill_table(
        out / "table", dataset, lambda batch: _tokens(batch, tokenizer, assign, config), about,
        accelerator, config.batch_size, config.run.num_workers, config.save_seconds,
    )  # fmt: skip
    if accelerator.is_main_process:
        about = {
            "codebook_size": tokenizer.config.codebook_size,
            "levels": list(tokenizer.config.levels),
            "num_blocks": tokenizer.assignments.num_blocks,
            "class_names": dataset.class_names,
            "tokenizer_fingerprint": about["tokenizer"],
            "given_frames": config.given_frames,
            "num_given_blocks": -(-config.given_frames // tokenizer.config.temporal_patch),
        }
        with atomic_write(out / "corpus.json") as partial:
            partial.write_text(json.dumps(about, indent=1))
    accelerator.wait_for_everyone()
    return out


def read_corpus(folder: str | Path) -> Corpus:
    """A corpus by its folder. Raises UserError where it is missing, unfinished or damaged."""
    folder = Path(folder)
    if not (folder / "corpus.json").exists():
        raise unfinished(folder / "table", "token corpus", "tokenize")
    table, _ = open_table(folder / "table", "token corpus", "tokenize")
    return Corpus(table.with_format("torch"), **json.loads((folder / "corpus.json").read_text()))


def _tokens(batch: ClipBatch, tokenizer: VideoTokenizer, assign: Assign, config: Tokenization) -> list[dict]:
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
            "label": int(batch.label[i]),
            "path": batch.paths[i],
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
