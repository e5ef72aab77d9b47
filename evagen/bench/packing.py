"""Training the generator on packed sequences against the usual way, sequences padded to the longest of the batch.

Both are the same model from the same weights on the same clips, with lengths as a router assigns them: one gets the
clips end to end, the other as rows of equal length, behind which nothing counts in the loss. Causal attention sees no
padding that lies behind, so the padded way needs no mask there and is at its fastest too. They take steps in turns, so
that other programs on the machine disturb both alike. Tokens per second count real tokens.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from evagen.ar_model import ClipTokens, SequenceGrammar, VideoGenerator, next_token_loss, shape_of
from evagen.bench.attention import LEVELS, NUM_BLOCKS, router_like_lengths
from evagen.bench.peak_memory import peak_mb
from evagen.training.optimizers import make_optimizers
from evagen.training.settings import OptimizerConfig

SIZE, CODEBOOK_SIZE, CLASSES = "nano", 8192, 101
CLIPS_PER_BATCH, STEPS = 8, 3


class Batch(NamedTuple):
    """tokens int64 (N,), the length of each sequence, and how many of the tokens are no padding."""

    tokens: Tensor
    sequence_lengths: list[int]
    num_real: int


def run() -> dict:
    """Keys: speedup (tokens per second, packed over padded), loss_difference (the largest of all steps, in nats),
    loss (of the last step), tokens_per_second_packed and _padded, peak_mb_packed and _padded (of a step),
    tokens_per_clip, padding (share of the padded batches)."""
    packed_step, padded_step = training_step(), training_step()
    seconds = {"packed": 0.0, "padded": 0.0}
    difference = loss = num_tokens = num_padded = 0
    for number in range(STEPS + 1):  # the first warms up
        packed, padded = batches(router_like_lengths(CLIPS_PER_BATCH, seed=number), seed=number)
        losses = []
        for name, step, batch in (("packed", packed_step, packed), ("padded", padded_step, padded)):
            start = time.perf_counter()
            losses.append(step(batch))
            seconds[name] += (time.perf_counter() - start) * (number > 0)
        difference, loss = max(difference, abs(losses[0] - losses[1])), losses[0]
        if number > 0:
            num_tokens, num_padded = num_tokens + packed.num_real, num_padded + len(padded.tokens)
    return {
        "speedup": seconds["padded"] / seconds["packed"],
        "loss_difference": difference,
        "loss": loss,
        "tokens_per_second_packed": num_tokens / seconds["packed"],
        "tokens_per_second_padded": num_tokens / seconds["padded"],
        "peak_mb_packed": peak_mb(lambda: packed_step(packed)),
        "peak_mb_padded": peak_mb(lambda: padded_step(padded)),
        "tokens_per_clip": num_tokens / STEPS / CLIPS_PER_BATCH,
        "padding": 1 - num_tokens / num_padded,
    }


def new_generator() -> VideoGenerator:
    """The smallest named size with the vocabulary of UCF-101."""
    torch.manual_seed(0)
    names = [str(i) for i in range(CLASSES)]
    return VideoGenerator(CODEBOOK_SIZE, list(LEVELS), NUM_BLOCKS, names, **shape_of(SIZE))


def training_step() -> Callable[[Batch], float]:
    """A model of its own: each call trains it on a batch and returns the loss."""
    model = new_generator()
    config = OptimizerConfig(steps=STEPS, batch_size=CLIPS_PER_BATCH, learning_rate=1e-3)
    (optimizer,) = make_optimizers(model, config)

    def step(batch: Batch) -> float:
        logits = model(batch.tokens, batch.sequence_lengths)  # N V
        loss = next_token_loss(logits, batch.tokens, batch.sequence_lengths, model.grammar).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def batches(lengths: Tensor, seed: int) -> tuple[Batch, Batch]:
    """Clips of random codes with these lengths (B, T): packed, sorted as training sorts them, and padded with end
    tokens, which are no targets."""
    random = torch.Generator().manual_seed(seed)
    grammar = SequenceGrammar(CODEBOOK_SIZE, LEVELS, NUM_BLOCKS, CLASSES)
    lengths = lengths[lengths.sum(1).argsort()]
    clips = [ClipTokens(torch.randint(CODEBOOK_SIZE, (int(row.sum()),), generator=random), row) for row in lengths]
    tokens, sequence_lengths = grammar.pack(clips, torch.randint(CLASSES, (len(lengths),), generator=random))
    padded = tokens.new_full((len(lengths), max(sequence_lengths)), grammar.end)  # B longest
    for row, sequence in zip(padded, tokens.split(sequence_lengths)):
        row[: len(sequence)] = sequence
    num_real = len(tokens)
    return Batch(tokens, sequence_lengths, num_real), Batch(padded.flatten(), [padded.shape[1]] * len(padded), num_real)
