"""Trains the autoregressive generator on a token corpus.

evagen train-generator quickstart/generator [key=value …]

The corpus stays on disk: of its columns only the lengths are read as a whole.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from accelerate.utils import set_seed
from pydantic import Field, model_validator
from torch import Tensor

from evagen.ar_model import (
    SIZES,
    GeneratorLoss,
    SequenceGrammar,
    VideoGenerator,
    drop_classes,
    length_shares,
    next_token_loss,
    with_shape,
)
from evagen.config import ONLY_HOW, Place, Section, section_of
from evagen.data.corpus import Windows, read_corpus
from evagen.kernels.transfer import send
from evagen.sampling.while_training import SamplesConfig, open_samples
from evagen.training.failures import explained, where_room
from evagen.training.generator import FROM_CORPUS, new_generator
from evagen.training.held_out_tokens import HeldOutTokensConfig, open_held_out_tokens
from evagen.training.metrics import Mean
from evagen.training.resuming import is_finished
from evagen.training.run import TrainingRun, seed_draws
from evagen.training.settings import LayerSettings, OptimizerConfig, TrainingSettings
from evagen.training.token_batches import ClipBatches, class_dropout_numbers, weighted_batches


class ModelConfig(section_of(VideoGenerator, leave_out=FROM_CORPUS)):  # type: ignore[misc]
    size: Literal[tuple(SIZES)] | None = None
    """Width, depth and num_heads by name, see `ar_model.sizes`; or else give these."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_shape(cls, values: Any) -> Any:
        is_named = isinstance(values, dict) and isinstance(values.get("size"), str)
        return with_shape(values) if is_named else values  # what is no shape at all is told by its types


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


class GeneratorRun(LayerSettings, TrainingSettings):
    pass


class GeneratorTraining(Section):
    run: GeneratorRun
    corpus: Path
    """The run folder of `evagen tokenize`."""
    model: ModelConfig
    start_from: Place | None = None
    """A trained generator, folder or hub id, to train further (fine-tuning): one of the same tokenizer, with as many
    classes."""
    optimizer: GeneratorOptimizer
    blocks: int | None = Field(None, ge=1)
    """For the corpus of a tokenizer with a memory: learn windows of so many blocks from anywhere in its rows, and with
    them to go on without an end. Whole rows if None."""
    class_dropout: float = Field(0.1, ge=0, le=1)
    """Share of clips trained without their class, which guidance needs."""
    use_classes: bool = True
    """Whether the generator is told classes at all."""
    held_out: HeldOutTokensConfig = HeldOutTokensConfig()
    samples: Annotated[SamplesConfig, ONLY_HOW] = SamplesConfig()


@explained
def main(config: GeneratorTraining) -> Path:
    """Trains to the end, resuming where an earlier run stopped; returns the run folder."""
    if is_finished(config, config.run.out):
        return config.run.out
    corpus = read_corpus(config.corpus)
    set_seed(config.run.seed)
    windows = Windows(corpus, config.blocks)
    model = new_generator(
        corpus, config.model.model_dump(exclude={"size"}), config.class_dropout, config.use_classes, config.start_from,
        config.blocks,
    )  # fmt: skip
    run = TrainingRun(config, config.run, config.optimizer, model)
    batches = ClipBatches(
        windows.tokens, config.run.seed, run.accelerator.num_processes,
        config.optimizer.batch_size, config.optimizer.tokens_per_batch,
    )  # fmt: skip
    tokens_at_once = config.optimizer.tokens_per_batch or (config.optimizer.batch_size or 1) * int(windows.tokens.max())
    held_out = open_held_out_tokens(config.held_out, windows, run, tokens_at_once, config.use_classes)
    samples = open_samples(config.samples, windows, model, config.run.seed, run.accelerator.print)
    seed_draws(config.run.seed, run.accelerator.process_index)
    run.resume(keep=[batches])
    weighted = weighted_batches(batches, windows.targets, config.optimizer.accumulation, run.accelerator.process_index)
    for _, batch in zip(run.batches(), weighted):
        keys = sorted(batch.keys, key=batches.tokens_of)
        tokens, sequence_lengths = pack_clips(windows, keys, model.grammar, config)
        tokens = send(tokens, run.device)  # N
        logits = run.model(tokens, sequence_lengths)  # N V
        losses = next_token_loss(logits, tokens, sequence_lengths, model.grammar)
        length_logits = logits[:, model.grammar.first_length : model.grammar.first_class].detach().clone()  # N L
        run.update(losses.loss * batch.weight, {}, batch.clips_each)
        if run.log_is_due:
            seen = {}
            if held_out and run.brings_look(held_out.every):
                seen = held_out.look(model.grammar, run.step + 1)
            run.log(
                metrics_of(losses, length_logits, tokens, sequence_lengths, batch.num_targets, model.grammar) | seen
            )
        if samples and run.ends_step and samples.is_due(done := run.step + 1, config.optimizer.steps):
            with run.model_so_far() as so_far:
                if run.accelerator.is_main_process:
                    look = partial(samples.look, so_far, config.run.out, done, run.accelerator)
                    where_room(f"the samples of step {done}", look)
            run.accelerator.wait_for_everyone()
    run.finish()
    return config.run.out


def pack_clips(
    windows: Windows, keys: Sequence[int], grammar: SequenceGrammar, config: GeneratorTraining
) -> tuple[Tensor, list[int]]:
    """The clips of some keys as one run of tokens int64 (N,), and the length of each sequence."""
    clips, labels, given, begins_later = windows.read([key % len(windows) for key in keys])
    if config.use_classes:
        # fp64, in which they were drawn: some of them are 1 in fp32, and would keep a class that is always dropped
        uniform = torch.tensor(class_dropout_numbers(keys, config.run.seed), dtype=torch.float64)
        labels = drop_classes(labels, config.class_dropout, uniform)
    else:
        labels = torch.full_like(labels, -1)
    return grammar.pack(clips, labels, given, begins_later)


def metrics_of(
    losses: GeneratorLoss,
    length_logits: Tensor,
    tokens: Tensor,
    sequence_lengths: Sequence[int],
    num_targets: int,
    grammar: SequenceGrammar,
) -> dict[str, Mean]:
    """What is logged of a batch: the losses, and how often each level is chosen as a length, by the model and in the
    data; with how many tokens of this process each is a mean of. length_logits: (N, L); num_targets: how many tokens
    of this process are predicted, given ones not among them."""
    num_lengths = grammar.num_blocks * len(sequence_lengths)
    num_contents = num_targets - num_lengths
    shares = length_shares(length_logits, tokens, sequence_lengths, grammar)
    by_level = {
        f"length_share_{kind}_{level}": Mean(share, num_lengths)
        for kind, levels in (("predicted", shares.predicted), ("true", shares.true))
        for level, share in zip(grammar.levels, levels)
    }
    return {
        "loss": Mean(losses.loss, num_targets),
        "content_loss": Mean(losses.content_loss, num_contents),
        "length_loss": Mean(losses.length_loss, num_lengths),
        **by_level,
    }
