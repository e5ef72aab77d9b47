"""What `evagen tokenize` leaves: a row for each view of each clip.

Columns: codes, lengths, label, path, start, flipped, and for frame prediction also given_codes and given_lengths. Rows
stand epoch by epoch, in each clip by clip in the data set's order, a clip before its mirror image.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from evagen.data.clip_table import open_table
from evagen.models.fit import check_not_replaced


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

    def tokens_per_clip(self) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens of each clip's sequence are learnt, and its length; int64 (rows,) each, from the smallest
        columns."""
        targets = self._tokens_of_blocks("lengths", self.num_blocks)
        tokens = targets + 2
        if self.num_given_blocks:
            tokens = tokens + self._tokens_of_blocks("given_lengths", self.num_given_blocks) + 1
        return targets, tokens

    def _tokens_of_blocks(self, name: str, num_blocks: int) -> np.ndarray:
        column = self.table.select_columns(name).with_format("arrow")
        parts = [rows[name].combine_chunks().flatten().to_numpy() for rows in column.iter(batch_size=10_000)]
        return np.concatenate(parts).reshape(-1, num_blocks).sum(1, dtype=np.int64) + num_blocks  # rows


def read_corpus(folder: str | Path) -> Corpus:
    """A corpus by its run folder. Raises UserError where it is missing, unfinished or damaged, or where its
    tokenizer's folder holds another tokenizer by now: what is trained on it could not be decoded."""
    table, about = open_table(Path(folder) / "table", "token corpus", "tokenize")
    contents = dict(about.contents)
    source, wanted = contents.pop("tokenizer_source"), contents["tokenizer_fingerprint"]
    check_not_replaced(source, wanted, f"the corpus in {folder} holds tokens of", "tokenize")
    return Corpus(table.with_format("torch"), **contents)
