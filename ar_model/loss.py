"""The generator's training objective: next-token cross-entropy over packed sequences.

Legend: N packed tokens, V vocabulary, L levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from evagen.ar_model.grammar import SequenceGrammar
from evagen.kernels.transfer import send


@dataclass(frozen=True)
class GeneratorLoss:
    """Mean losses in nats. loss: over all predicted tokens; length_loss, content_loss: over those of each kind, without
    gradients."""

    loss: Tensor
    length_loss: Tensor
    content_loss: Tensor


@dataclass(frozen=True)
class LengthShares:
    """How often each level is chosen as a block's length, (L,) each, summing to one. predicted: mean probability that
    the model gives it, among length tokens; true: share in the data."""

    predicted: Tensor
    true: Tensor


def next_token_loss(
    logits: Tensor, tokens: Tensor, sequence_lengths: Sequence[int], grammar: SequenceGrammar
) -> GeneratorLoss:
    """logits (N, V) and tokens (N,) of packed sequences. The last position of a sequence predicts nothing,
    and neither the class token, nor the given blocks of frame prediction and their separator, nor the end token, which
    the grammar forces, is a target."""
    target, is_length, is_content = _targets(tokens, sequence_lengths, grammar)  # (N,) each
    losses = F.cross_entropy(logits.float(), target, reduction="none")  # (N,)
    return GeneratorLoss(
        _mean(losses, is_length | is_content),
        _mean(losses, is_length).detach(),
        _mean(losses, is_content).detach(),
    )


@torch.no_grad()
def length_shares(
    length_logits: Tensor, tokens: Tensor, sequence_lengths: Sequence[int], grammar: SequenceGrammar
) -> LengthShares:
    """Whether the model spends tokens as the data does. length_logits (N, L): the columns `first_length` to
    `first_class` of the logits."""
    target, is_length, _ = _targets(tokens, sequence_lengths, grammar)  # (N,) each
    predicted = length_logits.float().softmax(-1)  # (N, L)
    true = target[:, None] == torch.arange(grammar.first_length, grammar.first_class, device=target.device)  # (N, L)
    rows = is_length[:, None]  # (N, 1)
    return LengthShares(_mean(predicted, rows), _mean(true.float(), rows))


def drop_classes(labels: Tensor, probability: float, uniform: Tensor) -> Tensor:
    """Labels (B,) with each turned into -1, the null class, at a probability: what guidance needs in training.
    uniform: a random number in [0, 1) for each label, (B,)."""
    return torch.where(uniform < probability, -1, labels)


def _targets(
    tokens: Tensor, sequence_lengths: Sequence[int], grammar: SequenceGrammar
) -> tuple[Tensor, Tensor, Tensor]:
    """The token that follows each, and whether that is a length or a content token of the same clip: (N,) each."""
    target, lengths = tokens.roll(-1), torch.tensor(list(sequence_lengths))  # (N,), (B,)
    last, lengths = send((lengths.cumsum(0) - 1, lengths), tokens.device)  # where each sequence ends
    is_length = (target >= grammar.first_length) & (target < grammar.first_class)
    is_content = target < grammar.codebook_size
    is_length[last] = is_content[last] = False
    if grammar.num_given_blocks:  # each sequence has one separator, and what stands before it is given
        first = F.pad(last + 1, (1, 0))[:-1]  # (B,): where each sequence begins
        separators = (tokens == grammar.separator).cumsum(0)  # (N,): so many up to here
        before = F.pad(separators, (1, 0))[first]  # (B,): so many in earlier sequences
        is_given = separators == before.repeat_interleave(lengths, output_size=len(tokens))  # (N,)
        is_length, is_content = is_length & ~is_given, is_content & ~is_given
    return target, is_length, is_content


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen rows of (N, …). Picking them out would make a GPU's host wait for their number."""
    return values.masked_fill(~chosen, 0).sum(0) / chosen.sum()
