"""Clips that a generator is not trained on, and how well it predicts their tokens: the one figure that tells learning
from learning by heart. A look sees the weights that the run would leave: the averaged ones, where there is an average.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow.compute as pc
import torch
from pydantic import Field, model_validator
from torch import Tensor

from evagen.ar_model import SequenceGrammar, next_token_loss
from evagen.config import ONLY_HOW, Section
from evagen.data.corpus import Corpus, Windows, read_corpus
from evagen.errors import UserError
from evagen.kernels.transfer import send
from evagen.models.fit import check_same_tokenizer
from evagen.training.best import BestWeights
from evagen.training.run import TrainingRun


class HeldOutTokensConfig(Section):
    """Clips of another corpus whose tokens are predicted during the training: `held_out_loss`, `held_out_content_loss`
    and `held_out_length_loss` in the log, in nats a token. Where `loss` falls and these rise, clips are learnt by
    heart."""

    corpus: Annotated[Path | None, ONLY_HOW] = None
    """The run folder of `evagen tokenize` of other clips, with the same tokenizer and classes: of the data set's test
    split, for instance. None leaves it out."""
    clips: Annotated[int, ONLY_HOW] = Field(256, ge=1)
    """How many of them at most, at equal distances in the corpus."""
    every: Annotated[int, ONLY_HOW] = Field(200, ge=1)
    """Steps between looks; a look is logged with the next line of the log."""
    best: Annotated[Literal["loss"] | None, ONLY_HOW] = None
    """`loss` keeps the model that predicts them best in `best/` of the run folder: it is found as `runs/x@best`. None
    keeps only what the training ends with."""

    @model_validator(mode="after")
    def _best_needs_clips(self) -> "HeldOutTokensConfig":
        if self.best and not self.corpus:
            raise ValueError(f"best={self.best} needs clips to score: give held_out.corpus, the run folder of a corpus")
        return self


def open_held_out_tokens(
    config: HeldOutTokensConfig, learnt: Windows, run: TrainingRun, tokens_at_once: int, use_classes: bool
) -> "HeldOutTokens | None":
    """The clips; None where none are asked for. learnt: what is trained on; tokens_at_once: for which a batch
    has room. Raises UserError for a corpus of another tokenizer, of other classes or given frames, and for one that
    holds videos which are trained on."""
    if config.corpus is None:
        return None
    corpus = read_corpus(config.corpus)
    _check_fits(corpus, learnt.corpus, config.corpus, use_classes)
    windows = Windows(corpus, learnt.blocks if learnt.blocks < corpus.num_blocks else None)
    numbers = np.linspace(0, len(windows) - 1, min(config.clips, len(windows))).round().astype(int)
    _check_unseen(corpus, windows.rows[numbers], learnt.corpus, config.corpus)
    clips_at_once = max(1, tokens_at_once // int(windows.tokens.max()))
    batches = [chunk.tolist() for chunk in np.split(numbers, range(clips_at_once, len(numbers), clips_at_once))]
    return HeldOutTokens(windows, batches, config, run, _labels_to(learnt.corpus, corpus, use_classes))


def _check_fits(corpus: Corpus, learnt: Corpus, folder: Path, use_classes: bool) -> None:
    check_same_tokenizer(
        learnt.tokenizer_fingerprint, corpus.tokenizer_fingerprint, "the corpus holds tokens of",
        f"held_out.corpus={folder}", "run `evagen tokenize` on the held-out clips with the tokenizer of the corpus",
    )  # fmt: skip
    names, known = corpus.class_names, learnt.class_names
    are_known = set(names) <= set(known) and bool(names) == bool(known)  # a small data set lacks clips of some
    for what, theirs, ours, fits in (
        ("classes", names, known, are_known or not use_classes),
        ("given frames", corpus.given_frames, learnt.given_frames, corpus.given_frames == learnt.given_frames),
        ("blocks a clip", corpus.num_blocks, learnt.num_blocks, corpus.num_blocks == learnt.num_blocks),
    ):
        if not fits:
            raise UserError(
                f"held_out.corpus={folder}: its {what} are {theirs}, those of the corpus {ours}; give one that "
                "`evagen tokenize` made of the same data set with another data.split"
            )


def _labels_to(learnt: Corpus, corpus: Corpus, use_classes: bool) -> Tensor:
    """The label that the generator learns for each class of another corpus, which may lack some, and last for none."""
    labels = [learnt.class_names.index(name) if use_classes else -1 for name in corpus.class_names]
    return torch.tensor([*labels, -1])


def _check_unseen(corpus: Corpus, rows: np.ndarray, learnt: Corpus, folder: Path) -> None:
    """rows: of the corpus, that are looked at."""
    paths = corpus.table.select_columns("path").with_format("arrow")[rows.tolist()]["path"]
    for part in learnt.table.select_columns("path").with_format("arrow").iter(batch_size=100_000):
        seen = part["path"].filter(pc.is_in(part["path"], paths.combine_chunks()))
        if len(seen):
            raise UserError(
                f"held_out.corpus={folder} holds videos that are trained on, {seen[0]} for one; give a corpus of other "
                "videos, of another data.split for instance"
            )


class HeldOutTokens:
    """The clips by their numbers in the windows of a corpus, in batches, and what a look at them tells. labels: what
    the generator knows those of the corpus as, and last -1."""

    def __init__(
        self,
        windows: Windows,
        batches: list[list[int]],
        config: HeldOutTokensConfig,
        run: TrainingRun,
        labels: Tensor,
    ):
        self.windows, self.batches, self.run, self.every = windows, batches, run, config.every
        self._labels = labels
        self.best = BestWeights(run, config.best)

    @torch.no_grad()
    def look(self, grammar: SequenceGrammar, step: int) -> dict[str, float]:
        """Every process measures all clips, through the model as Accelerate wrapped it. Returns means over tokens, for
        the log."""
        run = self.run
        sums = torch.zeros(2, dtype=torch.float64, device=run.device)  # over content tokens, over length tokens
        run.model.eval()
        with run.averaged_weights():
            for numbers in self.batches:
                clips, labels, given, begins_later = self.windows.read(numbers)
                tokens, sequence_lengths = grammar.pack(clips, self._labels[labels], given, begins_later)
                tokens = send(tokens, run.device)  # N
                losses = next_token_loss(run.model(tokens, sequence_lengths), tokens, sequence_lengths, grammar)
                of_each = torch.stack([losses.content_loss, losses.length_loss]).double()
                sums += of_each * of_each.new_tensor(self._tokens_of_each_kind(numbers))
        run.model.train()
        counts = self._tokens_of_each_kind([number for batch in self.batches for number in batch])
        content, length = sums.tolist()
        values = {
            "held_out_loss": (content + length) / sum(counts),
            "held_out_content_loss": content / counts[0],
            "held_out_length_loss": length / counts[1],
        }
        self.best.look(values, step)
        return values

    def _tokens_of_each_kind(self, numbers: list[int]) -> tuple[int, int]:
        """How many content and length tokens of some clips are predicted."""
        lengths = self.windows.blocks * len(numbers)
        return int(self.windows.targets[numbers].sum()) - lengths, lengths
