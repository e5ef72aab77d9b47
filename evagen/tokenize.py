"""Turns a video data set into a token corpus with a trained tokenizer and router.

accelerate launch -m evagen.tokenize configs/quickstart/tokens.yaml [key=value …]

The corpus is a `datasets` table with a row for each view of each clip: codes, lengths, label, path, start,
flipped. `corpus.json` beside it says which tokenizer made it and what the labels are called.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset, load_from_disk
from pydantic import Field
from tqdm.auto import tqdm

from evagen.checkpoints import load_model
from evagen.config import Section
from evagen.curate import check_clips_fit
from evagen.data.clips import ClipDataset, DataConfig, ordered_loader, report_skipped
from evagen.errors import UserError
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


@dataclass(frozen=True)
class Corpus:
    """A token corpus. table: its rows; codebook_size, levels, num_blocks: of the tokenizer; class_names in
    label order; tokenizer_fingerprint."""

    table: Dataset
    codebook_size: int
    levels: list[int]
    num_blocks: int
    class_names: list[str]
    tokenizer_fingerprint: str


def main(config: Tokenization) -> Path:
    """Writes the corpus into `run.out`; does nothing if it is there already."""
    out = config.run.out
    if (out / "corpus.json").exists():
        return out
    accelerator = start_accelerator(config, config.run)
    if accelerator.num_processes > 1:
        raise UserError("tokenization runs in one process; launch it with --num_processes 1")
    tokenizer = load_model(VideoTokenizer, config.tokenizer, accelerator.device)
    router = load_model(Router, config.router, accelerator.device)
    check_clips_fit(tokenizer, config.data)
    dataset = ClipDataset(config.data)
    rows, skipped = [], list(dataset.skipped)
    with tqdm(total=len(dataset), desc="tokenization", unit="clip", dynamic_ncols=True) as bar:
        for batch in ordered_loader(dataset, config.batch_size, config.run.num_workers):
            skipped += batch.skipped
            bar.update(len(batch) + len(batch.skipped))
            for flipped in (False, True)[: 1 + config.flips] if batch else ():
                video = batch.video.to(tokenizer.device)
                video = video.flip(-1) if flipped else video
                clips = tokenizer.encode(video, router.assign(video, config.preference)).split()
                rows += [
                    {
                        "codes": clip.codes.cpu().numpy(),
                        "lengths": clip.lengths[0].numpy(),
                        "label": int(batch.label[i]),
                        "path": batch.paths[i],
                        "start": batch.starts[i],
                        "flipped": flipped,
                    }
                    for i, clip in enumerate(clips)
                ]
    Dataset.from_list(rows).save_to_disk(out / "table")
    about = {
        "codebook_size": tokenizer.config.codebook_size,
        "levels": list(tokenizer.config.levels),
        "num_blocks": tokenizer.assignments.num_blocks,
        "class_names": dataset.class_names,
        "tokenizer_fingerprint": fingerprint(tokenizer),
    }
    (out / "corpus.json").write_text(json.dumps(about, indent=1))
    report_skipped(skipped, dataset.num_files)
    return out


def read_corpus(folder: str | Path) -> Corpus:
    """A corpus by its folder. Raises UserError where there is none or it is half-written."""
    folder = Path(folder)
    if not (folder / "corpus.json").exists():
        raise UserError(f"{folder} holds no finished token corpus; run `evagen tokenize` with run.out={folder}")
    return Corpus(
        load_from_disk(folder / "table").with_format("torch"),
        **json.loads((folder / "corpus.json").read_text()),
    )


def fingerprint(model: torch.nn.Module) -> str:
    """16 hexadecimal digits that change with any weight."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    from evagen.cli import stage_main

    stage_main("evagen.tokenize")
