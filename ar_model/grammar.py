"""The token sequence of a clip: vocabulary layout, packing, and the grammar that every sample obeys.

    [class] [length of block 0] content … [length of block 1] content … … [end]

For frame prediction the blocks of the given frames stand in front, closed by a separator:

    [class] [length] content … … [separator] [length of block 0] content … … [end]

A generator without an end is trained on windows of long clips. One that does not begin where its clip does, and with it
the tokenizer's memory, is marked by a separator behind the class, so that nothing in the middle is taken for a
beginning:

    [class] [separator] [length] content … … [end]

The one place that knows the vocabulary: content codes first, then a length token for each level, a class
token for each class, and the null class, separator and end tokens.

Legend: N content tokens in a batch, B clips, T blocks, G blocks of given frames, K codes, L levels, V vocabulary,
S sampling slots.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class ClipTokens(NamedTuple):
    """Some blocks of one clip. codes: int64 (n,); lengths: int64 (blocks,), which add up to n. The tokenizer's
    `TokenizedClips` are several clips, and say how one becomes the other."""

    codes: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class GrammarState:
    """Where each slot stands in its clip, all int64 (S,). begun: blocks whose length token is written; remaining:
    content tokens still due in the current block; length: of the current block, 0 before the first; total: of all
    blocks begun."""

    begun: Tensor
    remaining: Tensor
    length: Tensor
    total: Tensor


class SequenceGrammar:
    """Vocabulary and grammar.

    Args:
        codebook_size: K of the tokenizer.
        levels: its candidate lengths.
        num_blocks: T.
        num_classes: class tokens; 0 for a generator without classes.
        num_given_blocks: G for frame prediction; 0 for none.
        endless: whether clips are windows of longer videos, of T blocks.

    Attributes: these, and of the vocabulary, codes first, `first_length`, `first_class`, `null_class`, `separator` and
    `end`, the numbers of tokens; `vocabulary_size`; `max_sequence_length`.

    Raises ValueError for windows with given blocks of frame prediction or of one block, and for sizes of which there
    is no clip.
    """

    def __init__(
        self, codebook_size: int, levels: Sequence[int], num_blocks: int, num_classes: int, num_given_blocks: int = 0,
        endless: bool = False,
    ):  # fmt: skip
        if endless and num_given_blocks:
            raise ValueError(
                "a generator without an end continues videos anyway and cannot be one for frame prediction"
            )
        if endless and num_blocks == 1:
            raise ValueError(
                "a window of 1 block has no half to go on from: a generator without an end needs 2 or more"
            )
        levels = tuple(levels)
        if not levels or levels[0] < 1 or any(a >= b for a, b in itertools.pairwise(levels)):
            raise ValueError(f"levels must be positive and strictly increasing, for instance [4, 8, 16]; got {levels}")
        if codebook_size < 1 or num_blocks < 1 or num_given_blocks < 0:
            raise ValueError(
                f"codebook_size={codebook_size}, num_blocks={num_blocks}, num_given_blocks={num_given_blocks}: a clip "
                "has blocks, and there are codes"
            )
        self.endless = endless
        self.codebook_size = codebook_size
        self.levels = levels
        self.num_blocks = num_blocks
        self.num_classes = num_classes
        self.num_given_blocks = num_given_blocks
        self.first_length = codebook_size
        self.first_class = self.first_length + len(self.levels)
        self.null_class = self.first_class + num_classes
        self.separator = self.null_class + 1
        self.end = self.null_class + 2
        self.vocabulary_size = self.null_class + 3
        longest_block = 1 + max(self.levels)
        given = num_given_blocks * longest_block + 1 if num_given_blocks else 0
        self.max_sequence_length = 1 + endless + given + num_blocks * longest_block + 1

    def class_token(self, labels: Tensor) -> Tensor:
        """Labels int64 (B,), -1 for no class → class tokens (B,). Raises ValueError for a label out of range."""
        if labels.numel() and not (int(labels.min()) >= -1 and int(labels.max()) < self.num_classes):
            raise ValueError(
                f"labels run from 0 to {self.num_classes - 1} (-1 for none), got {sorted(set(labels.tolist()))}"
            )
        return torch.where(labels < 0, self.null_class, self.first_class + labels)

    def block_tokens(self, clip: ClipTokens) -> Tensor:
        """Blocks as [length] content … [length] content …, int64 (n + blocks,). Raises ValueError for a length that
        is no level or does not match the codes, and for codes out of range."""
        if clip.lengths.ndim != 1:
            raise ValueError(
                f"lengths are those of the blocks of one clip, (blocks,); got {tuple(clip.lengths.shape)}. A lone clip "
                "of `TokenizedClips` is ClipTokens(clip.codes, clip.lengths[0])"
            )
        unknown = sorted(set(clip.lengths.tolist()) - set(self.levels))
        if unknown or int(clip.lengths.sum()) != len(clip.codes):
            raise ValueError(
                f"blocks of lengths {clip.lengths.tolist()} for {len(clip.codes)} codes: "
                f"the lengths should be of {list(self.levels)} and add up to the number of codes"
            )
        codes, parts = clip.codes.long(), []  # of a smaller type they would leave no room for the other tokens
        if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise ValueError(
                f"codes run from 0 to {self.codebook_size - 1}, got {int(codes.min())} to {int(codes.max())}: tokens "
                "of another tokenizer?"
            )
        for length, content in zip(clip.lengths.tolist(), codes.split(clip.lengths.tolist())):
            parts += [content.new_tensor([self.first_length + self.levels.index(length)]), content]
        return torch.cat(parts) if parts else codes

    def prompt(self, label: int, given: ClipTokens | None = None, begins_later: bool = False) -> Tensor:
        """What is given of a clip: its class token, with its given blocks if any, int64 (n,).

        With `num_given_blocks` (frame prediction) the given blocks are just so many, and a separator closes them;
        otherwise (continuation) they are the clip's own first blocks. begins_later: it is a later window
        of one. Raises ValueError for another number, and for windows that this grammar has not."""
        device = given.codes.device if given is not None else None
        start = self.class_token(torch.tensor([label])).to(device)
        num_given = 0 if given is None else len(given.lengths)
        if self.num_given_blocks and num_given != self.num_given_blocks:
            raise ValueError(f"frame prediction starts from {self.num_given_blocks} given blocks, got {num_given}")
        if num_given >= self.num_blocks and not self.num_given_blocks:
            raise ValueError(f"clips have {self.num_blocks} blocks; at most {self.num_blocks - 1} of them can be given")
        if begins_later:
            if not self.endless:
                raise ValueError("this generator writes clips, which begin where they begin, not windows of a video")
            start = torch.cat([start, start.new_tensor([self.separator])])
        if given is None:
            return start
        closing = start.new_full((1 if self.num_given_blocks else 0,), self.separator)
        return torch.cat([start, self.block_tokens(given), closing])

    def pack(
        self,
        clips: Sequence[ClipTokens],
        labels: Tensor,
        given: Sequence[ClipTokens] | None = None,
        begins_later: Sequence[bool] | None = None,
    ) -> tuple[Tensor, list[int]]:
        """Whole clips to token sequences, end to end, for training: tokens int64 (N + …,) and the length of each
        clip's sequence. labels: int64 (B,); given: each clip's given blocks, for frame prediction; begins_later: which
        are later windows of a clip. Raises ValueError for clips of another number of blocks, and as `block_tokens` and
        `prompt` do."""
        parts, sequence_lengths = [], []
        if len(labels) != len(clips):
            raise ValueError(f"{len(clips)} clips need a label each, -1 for none; got {len(labels)} labels")
        for i, (clip, label) in enumerate(zip(clips, torch.as_tensor(labels).tolist())):
            if len(clip.lengths) != self.num_blocks and clip.lengths.ndim == 1:
                raise ValueError(f"clips have {self.num_blocks} blocks; clip {i} has {len(clip.lengths)}")
            later = begins_later is not None and begins_later[i]
            start = self.prompt(label, given[i] if given is not None else None, later).to(clip.codes.device)
            sequence = torch.cat([start, self.block_tokens(clip), start.new_tensor([self.end])])
            parts.append(sequence)
            sequence_lengths.append(len(sequence))
        return torch.cat(parts), sequence_lengths

    def unpack(self, sequence: Tensor) -> ClipTokens:
        """One clip's tokens, from its class token on, without the given blocks of frame prediction.
        Raises ValueError where the sequence breaks the grammar, saying where."""
        tokens = sequence.tolist()
        if not tokens or not self.first_class <= tokens[0] <= self.null_class:
            raise ValueError(f"a sequence begins with a class token, got {tokens[:1]}")
        if self.num_given_blocks and self.separator not in tokens:
            raise ValueError("the separator behind the given blocks is missing")
        at, codes, lengths = int(self.first_length_at(sequence[None])), [], []
        for block in range(self.num_blocks):
            if at >= len(tokens) or not self.first_length <= tokens[at] < self.first_class:
                raise ValueError(f"position {at} should hold the length token of block {block}: {tokens[at : at + 1]}")
            length = self.levels[tokens[at] - self.first_length]
            content = tokens[at + 1 : at + 1 + length]
            if len(content) < length or min(content) < 0 or max(content) >= self.codebook_size:
                raise ValueError(f"block {block} should hold {length} content tokens from position {at + 1} on")
            codes += content
            lengths.append(length)
            at += 1 + length
        if tokens[at:] not in ([], [self.end]):
            raise ValueError(f"after the last block only the end token may follow, got {tokens[at:]}")
        return ClipTokens(torch.tensor(codes), torch.tensor(lengths))

    def first_length_at(self, sequences: Tensor) -> Tensor:
        """Where sequences (S, n), from their class tokens on, have or will have the length token of their own first
        block, int64 (S,): behind the given blocks of frame prediction, and behind the mark of a later window."""
        if self.num_given_blocks:
            return (sequences == self.separator).int().argmax(1) + 1
        return 1 + (sequences[:, 1:2] == self.separator).any(1)

    def levels_on(self, device: torch.device) -> Tensor:
        """The levels as int64 (L,) on a device."""
        return self._tables(device)[0]

    # The grammar as an automaton on the device, without a host round trip

    def start(self, num_slots: int, device: torch.device | str = "cpu") -> GrammarState:
        """The state before the first block."""
        return GrammarState(*torch.zeros(4, num_slots, dtype=torch.int64, device=device))

    def state_after(self, given: ClipTokens | None) -> tuple[int, int, int, int]:
        """A slot's state behind a prompt, in the order of `GrammarState`: given blocks count as begun when they are
        the clip's own."""
        if given is None or self.num_given_blocks or not len(given.lengths):
            return 0, 0, 0, 0
        lengths = given.lengths.tolist()
        return len(lengths), 0, lengths[-1], sum(lengths)

    def finished(self, state: GrammarState) -> Tensor:
        """bool (S,): all blocks written."""
        return (state.begun == self.num_blocks) & (state.remaining == 0)

    def progress(self, state: GrammarState) -> Tensor:
        """How much of the clip's time is written, from 0 to 1: float32 (S,)."""
        return (state.begun - state.remaining / state.length.clamp_min(1)) / self.num_blocks

    def allowed(self, state: GrammarState) -> Tensor:
        """Which tokens may come next: bool (S, V)."""
        kind = torch.where(self.finished(state), 2, (state.remaining == 0).long())  # (S,): content, length or end
        return self._tables(state.begun.device)[1][kind]  # (S, V)

    def advance(self, state: GrammarState, tokens: Tensor) -> GrammarState:
        """The state after allowed tokens int64 (S,)."""
        opens_block = (state.remaining == 0) & ~self.finished(state)
        levels, _ = self._tables(tokens.device)  # (L,)
        chosen = levels[(tokens - self.first_length).clamp(0, len(self.levels) - 1)]  # meaningful where a block opens
        length = torch.where(opens_block, chosen, state.length)
        return GrammarState(
            begun=state.begun + opens_block,
            remaining=torch.where(opens_block, chosen, (state.remaining - 1).clamp_min(0)),
            length=length,
            total=state.total + opens_block * length,
        )

    @functools.cache  # noqa: B019  (one or two devices a process)
    def _tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The levels int64 (L,), and which tokens are content, which are lengths, which is the end: bool (3, V)."""
        token = torch.arange(self.vocabulary_size, device=device)  # (V,)
        is_length = (token >= self.first_length) & (token < self.first_class)
        kinds = torch.stack([token < self.codebook_size, is_length, token == self.end])
        return torch.tensor(self.levels, device=device), kinds
