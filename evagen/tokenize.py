"""Turns a video data set into a token corpus with a trained tokenizer and router.

accelerate launch -m evagen.tokenize configs/quickstart/tokens.yaml [key=value …]

The corpus is a `datasets` table with a row for each view of each clip: codes, lengths, label, path, start,
flipped. Rows stand clip by clip in the data set's order, a clip before its mirror image. `corpus.json` beside the
table says which tokenizer made it and what the labels are called. Any number of processes gives the same corpus;
stopped half-way, the same command goes on where it was.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from pydantic import Field

from evagen.checkpoints import fingerprint, load_model
from evagen.config import Section
from evagen.curate import check_clips_fit
from evagen.data.clips import ClipBatch, ClipDataset, DataConfig
from evagen.errors import UserError
from evagen.row_store import PATIENCE, fill_table, open_table, unfinished
from evagen.training import RunConfig, start_accelerator
from tokenizer import Router, VideoTokenizer


class Tokenization(Section):
    run: RunConfig
    data: DataConfig
    tokenizer: str
    """The final tokenizer, folder or hub id."""
    router: str
    """The router that says how many tokens each block gets."""
    preference: float = Field(1.2, ge=0, le=2)
    """w_q: higher spends more tokens."""
    flips: bool = True
    """Adds the mirrored view of each clip."""
    batch_size: int = Field(16, ge=1)
    save_seconds: float = Field(60, ge=0)
    """Seconds between saves, which is what a killed process loses at most."""


@dataclass(frozen=True)
class Corpus:
    """A token corpus. table: its rows, memory-mapped; codebook_size, levels, num_blocks: of the tokenizer; class_names
    in label order; tokenizer_fingerprint."""

    table: Dataset
    codebook_size: int
    levels: list[int]
    num_blocks: int
    class_names: list[str]
    tokenizer_fingerprint: str


def main(config: Tokenization) -> Path:
    """Writes the corpus into `run.out`; does nothing if it is there already."""
    accelerator = start_accelerator(config, config.run, patience=PATIENCE)
    out = config.run.out
    if (out / "corpus.json").exists():
        return out
    tokenizer = load_model(VideoTokenizer, config.tokenizer, accelerator.device)
    router = load_model(Router, config.router, accelerator.device)
    check_clips_fit(tokenizer, config.data)
    known, needed = ((m.assignments.num_blocks, list(m.assignments.levels)) for m in (router, tokenizer))
    if known != needed:
        raise UserError(
            f"the router at {config.router} knows assignments of {known[0]} blocks with levels {known[1]}; the "
            f"tokenizer at {config.tokenizer} takes {needed[0]} blocks with levels {needed[1]}"
        )
    dataset = ClipDataset(config.data)
    about = {"tokenizer": fingerprint(tokenizer), "router": fingerprint(router)}
    fill_table(
        out / "table", dataset, lambda batch: _tokens(batch, tokenizer, router, config), about,
        accelerator, config.batch_size, config.run.num_workers, config.save_seconds,
    )  # fmt: skip
    if accelerator.is_main_process:
        about = {
            "codebook_size": tokenizer.config.codebook_size,
            "levels": list(tokenizer.config.levels),
            "num_blocks": tokenizer.assignments.num_blocks,
            "class_names": dataset.class_names,
            "tokenizer_fingerprint": about["tokenizer"],
        }
        partial = out / "corpus.json.partial"
        partial.write_text(json.dumps(about, indent=1))
        partial.rename(out / "corpus.json")
    accelerator.wait_for_everyone()
    return out


def read_corpus(folder: str | Path) -> Corpus:
    """A corpus by its folder. Raises UserError where it is missing, unfinished or damaged."""
    folder = Path(folder)
    if not (folder / "corpus.json").exists():
        raise unfinished(folder / "table", "token corpus", "tokenize")
    table, _ = open_table(folder / "table", "token corpus", "tokenize")
    return Corpus(table.with_format("torch"), **json.loads((folder / "corpus.json").read_text()))


def _tokens(batch: ClipBatch, tokenizer: VideoTokenizer, router: Router, config: Tokenization) -> list[dict]:
    views = []  # the clips as they are, then all of them mirrored
    for flipped in (False, True)[: 1 + config.flips]:
        video = batch.video.to(tokenizer.device)  # B C F H W
        video = video.flip(-1) if flipped else video
        views.append(tokenizer.encode(video, router.assign(video, config.preference)).split())
    return [
        {
            "codes": tokens.codes.cpu().numpy().astype(np.int32),
            "lengths": tokens.lengths[0].numpy().astype(np.int32),
            "label": int(batch.label[i]),
            "path": batch.paths[i],
            "start": batch.starts[i],
            "flipped": bool(flipped),
        }
        for i, clips in enumerate(zip(*views))
        for flipped, tokens in enumerate(clips)
    ]


if __name__ == "__main__":
    from evagen.cli import stage_main

    stage_main("evagen.tokenize")
