"""Trains the autoregressive generator on a token corpus.

evagen train-generator quickstart/generator [key=value …]

The corpus stays on disk: of its columns only the lengths are read as a whole.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import set_seed
from pydantic import Field, model_validator
from torch import Tensor

from evagen.ar_model import (
    SIZES,
    ClipTokens,
    GeneratorLoss,
    SequenceGrammar,
    VideoGenerator,
    drop_classes,
    length_shares,
    next_token_loss,
    with_shape,
)
from evagen.commands.tokenize import Corpus, Tokenization, read_corpus
from evagen.config import Section, load_config, section_of
from evagen.errors import UserError
from evagen.models.loading import fingerprint, load_model, start_from
from evagen.tokenizer import VideoTokenizer
from evagen.training.run import OptimizerConfig, RunConfig, TrainingRun, is_finished
from evagen.training.token_batches import ClipBatches, class_dropout_numbers

FROM_CORPUS = (
    "codebook_size", "levels", "num_blocks", "class_names", "tokenizer_fingerprint", "class_dropout", "given_frames",
    "num_given_blocks",
)  # fmt: skip


class ModelConfig(section_of(VideoGenerator, leave_out=FROM_CORPUS)):  # type: ignore[misc]
    size: Literal[tuple(SIZES)] | None = None
    """Width, depth and num_heads by name, see `ar_model.sizes`; or else give these."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_shape(cls, values: dict[str, Any]) -> dict[str, Any]:
        return with_shape(values)


class GeneratorOptimizer(OptimizerConfig):
    batch_size: int | None = Field(None, ge=1)
    """Clips of a batch in each process. This or `tokens_per_batch`."""
    tokens_per_batch: int | None = Field(None, ge=1)
    """Tokens of a batch in each process, which is filled with whole clips until the next would exceed it. All batches
    then cost about the same time and memory, however long their clips are."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "GeneratorOptimizer":
        if (self.batch_size is None) == (self.tokens_per_batch is None):
            raise ValueError("give either batch_size or tokens_per_batch, and null for the other")
        return self


class GeneratorTraining(Section):
    run: RunConfig
    corpus: Path
    """The run folder of `evagen tokenize`."""
    model: ModelConfig
    start_from: str | None = None
    """A trained generator, folder or hub id, to train further (fine-tuning): one of the same tokenizer, with as many
    classes."""
    optimizer: GeneratorOptimizer
    class_dropout: float = Field(0.1, ge=0, le=1)
    """Share of clips trained without their class, which guidance needs."""
    use_classes: bool = True
    """Whether the generator is told classes at all."""


def main(config: GeneratorTraining) -> Path:
    """Trains to the end, resuming where an earlier run stopped; returns the run folder."""
    if is_finished(config, config.run.out):
        return config.run.out
    corpus = read_corpus(config.corpus)
    check_tokenizer_of(corpus, config.corpus)
    set_seed(config.run.seed)
    model = new_generator(corpus, config)
    run = TrainingRun(config, config.run, config.optimizer, model)
    targets_of_row, tokens_of_row = tokens_per_clip(corpus)
    batches = ClipBatches(
        tokens_of_row, config.run.seed, run.accelerator.num_processes,
        config.optimizer.batch_size, config.optimizer.tokens_per_batch,
    )  # fmt: skip
    run.resume(keep=[batches])
    for _ in run.batches():
        shares = next(batches)
        mine = shares[run.accelerator.process_index]
        tokens, sequence_lengths = pack_clips(corpus, sorted(mine, key=batches.tokens_of), model.grammar, config)
        tokens = tokens.to(run.device)  # N
        logits = run.model(tokens, sequence_lengths)  # N V
        losses = next_token_loss(logits, tokens, sequence_lengths, model.grammar)
        # Processes' gradients are averaged; weighted by what each predicts, they are those of one large batch.
        targets = [sum(int(targets_of_row[key % len(targets_of_row)]) for key in share) for share in shares]
        weight = targets[run.accelerator.process_index] * len(targets) / sum(targets)
        length_logits = logits[:, model.grammar.first_length : model.grammar.first_class].detach().clone()  # N L
        metrics = log_values(run, losses, length_logits, tokens, sequence_lengths, model.grammar)
        run.update(losses.loss * weight, metrics, sum(map(len, shares)) / len(shares))
    run.finish(model)
    return config.run.out


def new_generator(corpus: Corpus, config: GeneratorTraining) -> VideoGenerator:
    """A generator whose vocabulary is the corpus's, untrained or with the weights of `start_from`."""
    model = VideoGenerator(
        codebook_size=corpus.codebook_size, levels=corpus.levels, num_blocks=corpus.num_blocks,
        class_names=corpus.class_names if config.use_classes else [], class_dropout=config.class_dropout,
        tokenizer_fingerprint=corpus.tokenizer_fingerprint, given_frames=corpus.given_frames,
        num_given_blocks=corpus.num_given_blocks, **config.model.model_dump(exclude={"size"}),
    )  # fmt: skip
    if config.start_from:
        wrote = start_from(model, config.start_from).config.tokenizer_fingerprint
        if wrote != corpus.tokenizer_fingerprint:
            raise UserError(
                f"the generator at {config.start_from} writes tokens of tokenizer {wrote}, the corpus holds those of "
                f"{corpus.tokenizer_fingerprint}: give one of the same tokenizer, or train without start_from"
            )
    return model


def check_tokenizer_of(corpus: Corpus, folder: Path) -> None:
    """Raises UserError where the tokenizer that made a corpus has been replaced since: what is trained on it could
    not be decoded."""
    if not (folder / "config.yaml").exists():
        return
    source = load_config(Tokenization, folder / "config.yaml").tokenizer
    if (Path(source) / "config.json").exists():
        found = fingerprint(load_model(VideoTokenizer, source))
        if found != corpus.tokenizer_fingerprint:
            raise UserError(
                f"the corpus in {folder} holds tokens of tokenizer {corpus.tokenizer_fingerprint}, but {source} now "
                f"holds {found}; run `evagen tokenize` again with another run.out, or put the earlier tokenizer back"
            )


def tokens_per_clip(corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of each clip's sequence are learnt, and its length; int64 (rows,) each, from the corpus' smallest
    columns."""
    targets = _tokens_of_blocks(corpus, "lengths", corpus.num_blocks)
    tokens = targets + 2
    if corpus.num_given_blocks:
        tokens = tokens + _tokens_of_blocks(corpus, "given_lengths", corpus.num_given_blocks) + 1
    return targets, tokens


def _tokens_of_blocks(corpus: Corpus, name: str, num_blocks: int) -> np.ndarray:
    column = corpus.table.select_columns(name).with_format("arrow")
    parts = [rows[name].combine_chunks().flatten().to_numpy() for rows in column.iter(batch_size=10_000)]
    return np.concatenate(parts).reshape(-1, num_blocks).sum(1, dtype=np.int64) + num_blocks  # rows


def pack_clips(
    corpus: Corpus, keys: Sequence[int], grammar: SequenceGrammar, config: GeneratorTraining
) -> tuple[Tensor, list[int]]:
    """The clips of some keys as one run of tokens int64 (N,), and the length of each sequence."""
    rows = corpus.table[[key % len(corpus.table) for key in keys]]
    uniform = torch.tensor(class_dropout_numbers(keys, config.run.seed))
    dropped = config.class_dropout if config.use_classes else 1.0
    labels = drop_classes(torch.as_tensor(rows["label"]), dropped, uniform)  # B
    clips = [ClipTokens(*clip) for clip in zip(rows["codes"], rows["lengths"])]
    if not grammar.num_given_blocks:
        return grammar.pack(clips, labels)
    given = [ClipTokens(*clip) for clip in zip(rows["given_codes"], rows["given_lengths"])]
    return grammar.pack(clips, labels, given)


def log_values(
    run: TrainingRun,
    losses: GeneratorLoss,
    length_logits: Tensor,
    tokens: Tensor,
    sequence_lengths: Sequence[int],
    grammar: SequenceGrammar,
) -> dict[str, Callable[[], Tensor]]:
    """What is logged of a batch, over all processes: the losses, and how often each level is chosen as a length, by
    the model and in the data. Computed only when a log line is due, in all processes."""
    num_lengths = grammar.num_blocks * len(sequence_lengths)
    num_contents = sum(sequence_lengths) - 2 * len(sequence_lengths) - num_lengths
    names = ["length_loss"]
    names += [f"length_share_{kind}_{level}" for kind in ("predicted", "true") for level in grammar.levels]

    @functools.cache
    def means() -> dict[str, Tensor]:
        shares = length_shares(length_logits, tokens, sequence_lengths, grammar)
        of_lengths = torch.cat([losses.length_loss[None], shares.predicted, shares.true])  # 1 + 2 L
        counts = torch.tensor([num_lengths, num_contents], device=run.device)
        sums = torch.cat([of_lengths * num_lengths, losses.content_loss[None] * num_contents, counts])
        *lengths, content_loss, num_all_lengths, num_all_contents = run.accelerator.reduce(sums, "sum")
        found = dict(zip(names, torch.stack(lengths) / num_all_lengths))
        found["loss"] = (lengths[0] + content_loss) / (num_all_lengths + num_all_contents)
        found["content_loss"] = content_loss / num_all_contents
        return found

    return {name: lambda name=name: means()[name] for name in ("loss", "content_loss", *names)}
