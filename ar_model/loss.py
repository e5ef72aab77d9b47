"""The generator's training objective: next-token cross-entropy over packed sequences.

Legend: N packed tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ar_model.grammar import SequenceGrammar


@dataclass(frozen=True)
class GeneratorLoss:
    """loss: mean over predicted tokens, in nats; length_loss and content_loss: the same over tokens of each kind."""

    loss: Tensor
    length_loss: Tensor
    content_loss: Tensor


def next_token_loss(
    logits: Tensor, tokens: Tensor, sequence_lengths: Sequence[int], grammar: SequenceGrammar
) -> GeneratorLoss:
    """logits (N, V) and tokens (N,) of packed sequences. The last position of a sequence predicts nothing,
    and neither the class token nor the end token, which the grammar forces, is a target."""
    target = tokens.roll(-1)  # (N,)
    last = torch.tensor(list(sequence_lengths)).cumsum(0).sub(1).to(tokens.device)
    is_length = (target >= grammar.first_length) & (target < grammar.first_class)
    is_content = target < grammar.codebook_size
    is_length[last] = is_content[last] = False
    losses = F.cross_entropy(logits.float(), target, reduction="none")  # (N,)
    return GeneratorLoss(
        losses[is_length | is_content].mean(),
        losses[is_length].mean().detach(),
        losses[is_content].mean().detach(),
    )


def drop_classes(labels: Tensor, probability: float, generator: torch.Generator | None = None) -> Tensor:
    """Labels (B,) with each turned into -1, the null class, at a probability: what guidance needs in training."""
    dropped = torch.rand(labels.shape, generator=generator) < probability
    return torch.where(dropped.to(labels.device), -1, labels)
