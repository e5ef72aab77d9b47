"""The token sequence of a clip: vocabulary layout, packing, and the grammar that every sample obeys.

    [class] [length of block 0] content … [length of block 1] content … … [end]

The one place that knows the vocabulary: content codes first, then a length token for each level, a class
token for each class, and the null class, separator and end tokens.

Legend: N content tokens in a batch, B clips, T blocks, K codes, V vocabulary, S sampling slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GrammarState:
    """Where each slot stands in its sequence. begun: blocks whose length token is written, int64 (S,);
    remaining: content tokens still due in the current block, int64 (S,)."""

    begun: Tensor
    remaining: Tensor


class SequenceGrammar:
    """Vocabulary and grammar.

    Args:
        codebook_size: K of the tokenizer.
        levels: its candidate lengths.
        num_blocks: T.
        num_classes: class tokens; 0 for a generator without classes.
    """

    def __init__(self, codebook_size: int, levels: Sequence[int], num_blocks: int, num_classes: int):
        self.codebook_size = codebook_size
        self.levels = tuple(levels)
        self.num_blocks = num_blocks
        self.num_classes = num_classes
        self.first_length = codebook_size
        self.first_class = self.first_length + len(self.levels)
        self.null_class = self.first_class + num_classes
        self.separator = self.null_class + 1
        self.end = self.null_class + 2
        self.vocabulary_size = self.null_class + 3
        self.max_sequence_length = 1 + num_blocks * (1 + max(self.levels)) + 1

    def class_token(self, labels: Tensor) -> Tensor:
        """Labels int64 (B,), -1 for no class → class tokens (B,). Raises ValueError for a label out of range."""
        if labels.numel() and not (int(labels.min()) >= -1 and int(labels.max()) < self.num_classes):
            raise ValueError(
                f"labels run from 0 to {self.num_classes - 1} (-1 for none), got {sorted(set(labels.tolist()))}"
            )
        return torch.where(labels < 0, self.null_class, self.first_class + labels)

    def pack(self, codes: Tensor, lengths: Tensor, labels: Tensor) -> tuple[Tensor, list[int]]:
        """Clips to token sequences, end to end.

        codes int64 (N,), lengths (B, T) in tokens, labels (B,) → tokens (N + B·(T + 2),) and the length of
        each clip's sequence."""
        level_of_length = {length: i for i, length in enumerate(self.levels)}
        contents = iter(codes.split(lengths.flatten().tolist()))
        class_tokens = self.class_token(labels)
        end = codes.new_tensor([self.end])
        parts, sequence_lengths = [], []
        for row, class_token in zip(lengths.tolist(), class_tokens):
            parts.append(class_token[None].to(codes))
            for length in row:
                if length not in level_of_length:
                    raise ValueError(f"length {length} is no level; the levels are {list(self.levels)}")
                parts += [codes.new_tensor([self.first_length + level_of_length[length]]), next(contents)]
            parts.append(end)
            sequence_lengths.append(sum(row) + len(row) + 2)
        return torch.cat(parts), sequence_lengths

    def unpack(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """One clip's tokens, from its class token on → codes (n,) and lengths (T,).
        Raises ValueError where the sequence breaks the grammar, saying where."""
        tokens, at, codes, lengths = sequence.tolist(), 1, [], []
        for block in range(self.num_blocks):
            if at >= len(tokens) or not self.first_length <= tokens[at] < self.first_class:
                raise ValueError(f"position {at} should hold the length token of block {block}: {tokens[at : at + 1]}")
            length = self.levels[tokens[at] - self.first_length]
            content = tokens[at + 1 : at + 1 + length]
            if len(content) < length or max(content) >= self.codebook_size:
                raise ValueError(f"block {block} should hold {length} content tokens from position {at + 1} on")
            codes += content
            lengths.append(length)
            at += 1 + length
        if tokens[at:] not in ([], [self.end]):
            raise ValueError(f"after the last block only the end token may follow, got {tokens[at:]}")
        return torch.tensor(codes), torch.tensor(lengths)

    # The grammar as an automaton on the device, without a host round trip

    def start(self, num_slots: int, device: torch.device) -> GrammarState:
        """The state after the class token."""
        zeros = torch.zeros(num_slots, dtype=torch.int64, device=device)
        return GrammarState(zeros, zeros.clone())

    def finished(self, state: GrammarState) -> Tensor:
        """bool (S,): all blocks written."""
        return (state.begun == self.num_blocks) & (state.remaining == 0)

    def allowed(self, state: GrammarState) -> Tensor:
        """Which tokens may come next: bool (S, V)."""
        token = torch.arange(self.vocabulary_size, device=state.begun.device)  # (V,)
        is_content = token < self.codebook_size
        is_length = (token >= self.first_length) & (token < self.first_class)
        finished = self.finished(state)[:, None]  # (S, 1)
        within_block = torch.where(state.remaining[:, None] > 0, is_content, is_length)  # (S, V)
        return torch.where(finished, token == self.end, within_block)

    def advance(self, state: GrammarState, tokens: Tensor) -> GrammarState:
        """The state after allowed tokens int64 (S,)."""
        lengths = torch.tensor(self.levels, device=tokens.device)
        finished = self.finished(state)
        opens_block = (state.remaining == 0) & ~finished
        level = (tokens - self.first_length).clamp(0, len(self.levels) - 1)  # meaningful where a block opens
        remaining = torch.where(opens_block, lengths[level], (state.remaining - 1).clamp_min(0))
        return GrammarState(state.begun + opens_block, remaining)
