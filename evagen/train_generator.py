"""Trains the autoregressive generator on a token corpus.

accelerate launch -m evagen.train_generator configs/quickstart/generator.yaml [key=value …]
"""

from pathlib import Path

import torch
from accelerate.utils import set_seed
from pydantic import Field

from ar_model import VideoGenerator, drop_classes, next_token_loss
from evagen.config import Section, section_of
from evagen.data.clips import EndlessSampler
from evagen.tokenize import Corpus, read_corpus
from evagen.training import OptimizerConfig, RunConfig, TrainingRun, batch_generator, is_finished

FROM_CORPUS = ("codebook_size", "levels", "num_blocks", "class_names", "tokenizer_fingerprint")
ModelConfig = section_of(VideoGenerator, leave_out=FROM_CORPUS)


class GeneratorTraining(Section):
    run: RunConfig
    corpus: Path
    """The run folder of `evagen tokenize`."""
    model: ModelConfig  # type: ignore[valid-type]
    optimizer: OptimizerConfig
    class_dropout: float = Field(0.1, ge=0, le=1)
    """Share of clips trained without their class, which guidance needs."""


def main(config: GeneratorTraining) -> Path:
    """Trains to the end, resuming where an earlier run stopped; returns the run folder."""
    if is_finished(config, config.run.out):
        return config.run.out
    corpus = read_corpus(config.corpus)
    set_seed(config.run.seed)
    model = new_generator(corpus, config)
    run = TrainingRun(config, config.run, config.optimizer, model)
    run.resume()
    accelerator, batch_size = run.accelerator, config.optimizer.batch_size
    keys_per_step = batch_size * accelerator.num_processes
    keys = iter(EndlessSampler(len(corpus.table), config.run.seed, run.first_batch * keys_per_step))
    for number in run.batches():
        all_keys = [next(keys) % len(corpus.table) for _ in range(keys_per_step)]
        rows = corpus.table[all_keys[accelerator.process_index :: accelerator.num_processes]]
        random = batch_generator(config.run.seed, number, accelerator.process_index)
        labels = drop_classes(torch.as_tensor(rows["label"]), config.class_dropout, random)  # B
        lengths = torch.stack(list(rows["lengths"]))  # B T
        tokens, sequence_lengths = model.grammar.pack(torch.cat(list(rows["codes"])), lengths, labels)
        tokens = tokens.to(run.device)
        logits = run.model(tokens, sequence_lengths)  # N V
        losses = next_token_loss(logits, tokens, sequence_lengths, model.grammar)
        metrics = {"length_loss": losses.length_loss, "content_loss": losses.content_loss}
        run.update(losses.loss, metrics, batch_size)
    run.finish(model)
    return config.run.out


def new_generator(corpus: Corpus, config: GeneratorTraining) -> VideoGenerator:
    """An untrained generator whose vocabulary is the corpus's."""
    return VideoGenerator(
        codebook_size=corpus.codebook_size, levels=corpus.levels, num_blocks=corpus.num_blocks,
        class_names=corpus.class_names, tokenizer_fingerprint=corpus.tokenizer_fingerprint,
        **config.model.model_dump(),
    )  # fmt: skip


if __name__ == "__main__":
    from evagen.cli import stage_main

    stage_main("evagen.train_generator")
