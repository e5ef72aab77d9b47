"""What `evagen tokenize` leaves: a row for each view of each clip.

Columns: codes, lengths, label, path, start, flipped, and for frame prediction also given_codes and given_lengths. Rows
stand epoch by epoch, in each clip by clip in the data set's order, a clip before its mirror image.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from pydantic import Field

from evagen.ar_model import ClipTokens
from evagen.config import Section, check_config
from evagen.data.clip_table import check_lists, damaged, numbers_of, open_table
from evagen.errors import UserError
from evagen.kernels.model_files import LARGEST, MOST_CODES
from evagen.models.fit import check_not_replaced
from evagen.tokenizer import AssignmentSpace

WINDOWS_OVERLAP = 4
"""A window begins at every `blocks // WINDOWS_OVERLAP`-th block."""


@dataclass(frozen=True)
class Corpus:
    """A token corpus. table: its rows, memory-mapped; codebook_size, levels, num_blocks: of the tokenizer; class_names
    in label order; tokenizer_fingerprint, tokenizer_source: of the tokenizer, and where it was; given_frames,
    num_given_blocks: of frame prediction, or 0."""

    table: Dataset
    codebook_size: int
    levels: list[int]
    num_blocks: int
    class_names: list[str]
    tokenizer_fingerprint: str
    tokenizer_source: str
    given_frames: int = 0
    num_given_blocks: int = 0
    memory_blocks: int | None = None

    def lengths(self, name: str = "lengths") -> np.ndarray:
        """Of the blocks of each row, int32 (rows, T), read as a whole; the smallest column."""
        column = self.table.select_columns(name).with_format("arrow")
        parts = [rows[name].combine_chunks().flatten().to_numpy() for rows in column.iter(batch_size=10_000)]
        return np.concatenate(parts).reshape(len(self.table), -1)


def _step(blocks: int) -> int:
    """From a window of so many blocks to the next in its row."""
    return max(1, blocks // WINDOWS_OVERLAP)


class Windows:
    """What a generator learns from: whole rows of a corpus, or windows of so many blocks of them.

    Attributes: rows, starts: int64 (n,), the row of each and its first block; targets: how many tokens of each sequence
    are learnt, and tokens: how long it is, int64 (n,) each.

    Raises UserError for windows of a tokenizer without a memory, whose blocks say nothing without the whole clip, and
    for windows of which a row has no later one."""

    def __init__(self, corpus: Corpus, blocks: int | None = None):
        if blocks is not None and corpus.memory_blocks is None:
            raise UserError(
                f"blocks={blocks}: the corpus is of a tokenizer without a memory, of whose clips no windows can be "
                "learnt; leave it out"
            )
        possible = [n for n in range(2, corpus.num_blocks) if n + _step(n) <= corpus.num_blocks]
        if blocks is not None and blocks not in possible:
            advice = f"give at most {possible[-1]}" if possible else "leave it out"
            raise UserError(
                f"blocks={blocks}: the rows of the corpus have {corpus.num_blocks} blocks, and going on is learnt from "
                f"windows of at least 2 that begin later in a row; {advice}, or tokenize longer clips (data.frames)"
            )
        self.corpus, self.blocks = corpus, blocks or corpus.num_blocks
        lengths = corpus.lengths()  # (rows, T)
        firsts = np.arange(0, corpus.num_blocks - self.blocks + 1, _step(self.blocks))
        self.rows, self.starts = np.repeat(np.arange(len(lengths)), len(firsts)), np.tile(firsts, len(lengths))
        ends = np.pad(lengths.cumsum(1, dtype=np.int64), ((0, 0), (1, 0)))  # (rows, T + 1): tokens before each block
        contents = (ends[:, firsts + self.blocks] - ends[:, firsts]).flatten()
        self.targets = contents + self.blocks
        self.tokens = self.targets + 2 + (self.starts > 0)
        if corpus.num_given_blocks:
            given = corpus.lengths("given_lengths")
            self.tokens = self.tokens + given.sum(1, dtype=np.int64) + given.shape[1] + 1

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, numbers: list[int]) -> tuple[list[ClipTokens], torch.Tensor, list[ClipTokens] | None, list[bool]]:
        """Some of them: clips, labels int64 (B,), given blocks or None, and which do not begin where their row,
        and with it the tokenizer's memory, does. Raises UserError for codes that the tokenizer does not have."""
        found = self.corpus.table[self.rows[numbers].tolist()]
        for codes in (*found["codes"], *found.get("given_codes", ())):
            if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < self.corpus.codebook_size:
                raise UserError(
                    f"the token corpus is damaged: codes run from {int(codes.min())} to {int(codes.max())}, of "
                    f"{self.corpus.codebook_size} codes; run `evagen tokenize` again with another run.out"
                )
        starts, clips = self.starts[numbers].tolist(), []
        for codes, lengths, start in zip(found["codes"], found["lengths"], starts):
            before, inside = lengths[:start].sum(), lengths[start : start + self.blocks]
            clips.append(ClipTokens(codes[before : before + inside.sum()], inside))
        given = None
        if self.corpus.num_given_blocks:
            given = [ClipTokens(*clip) for clip in zip(found["given_codes"], found["given_lengths"])]
        return clips, torch.as_tensor(found["label"]), given, [start > 0 for start in starts]


class _Contents(Section):
    """What the table says of itself, as `Corpus` has it."""

    codebook_size: int = Field(ge=1, le=MOST_CODES)
    levels: list[int]
    num_blocks: int = Field(ge=1, le=LARGEST)
    class_names: list[str]
    tokenizer_fingerprint: str
    tokenizer_source: str
    given_frames: int = Field(0, ge=0, le=LARGEST)
    num_given_blocks: int = Field(0, ge=0, le=LARGEST)
    memory_blocks: int | None = Field(None, ge=1, le=LARGEST)


def read_corpus(folder: str | Path) -> Corpus:
    """A corpus to be trained on. Raises UserError as `open_corpus` does, and where its tokenizer's folder holds another
    tokenizer by now: what is trained on it could not be decoded."""
    corpus = open_corpus(folder)
    whose = f"the corpus in {folder} holds tokens of"
    check_not_replaced(corpus.tokenizer_source, corpus.tokenizer_fingerprint, whose, "tokenize")
    return corpus


def open_corpus(folder: str | Path) -> Corpus:
    """A corpus by its run folder. Raises UserError where it is missing, unfinished or damaged, and where its lengths
    and labels are not those that it says it has. Codes stay on disk, and are looked at when they are read."""
    path = Path(folder) / "table"
    table, about = open_table(path, "token corpus", "tokenize")
    contents = check_config(_Contents, about.contents, f"{path / 'about.json'}, contents")
    corpus = Corpus(table.with_format("torch"), **contents.model_dump())
    try:
        for rows in table.with_format("arrow").iter(batch_size=10_000):
            _check_rows(corpus, rows)
    except ValueError as error:
        raise damaged(path, "token corpus", "tokenize", error) from error
    return corpus


def _check_rows(corpus: Corpus, rows: pa.Table) -> None:
    """Raises ValueError for rows that are not of this corpus' tokenizer and classes."""
    space = AssignmentSpace(corpus.levels, corpus.num_blocks)
    pairs = [("codes", "lengths", corpus.num_blocks)]
    pairs += [("given_codes", "given_lengths", corpus.num_given_blocks)] if corpus.num_given_blocks else []
    for codes_name, lengths_name, num_blocks in pairs:
        num_codes, lengths = check_lists(rows, codes_name, None, True), numbers_of(rows, lengths_name, num_blocks, True)
        if unknown := sorted(set(np.unique(lengths).tolist()) - set(space.levels)):
            raise ValueError(f"{unknown[:5]} in {lengths_name} are none of its levels {list(space.levels)}")
        sums = lengths.reshape(-1, num_blocks).sum(1, dtype=np.int64)  # (rows,)
        if (sums != num_codes).any():
            raise ValueError(f"{lengths_name} do not add up to the number of {codes_name}")
    labels = rows["label"].to_numpy() if "label" in rows.column_names else np.array(["none"])
    if labels.dtype.kind != "i" or (len(labels) and not -1 <= labels.min() <= labels.max() < len(corpus.class_names)):
        raise ValueError(f"its labels are not those of {len(corpus.class_names)} classes")
