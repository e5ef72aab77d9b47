"""Clips that are searched together, and the tokens of what has been encoded of them.

Legend: b clips, T blocks, n levels, S segments (a block of a clip at a length), P patches of a block, h heads, d head
width, De/Dd encoder/decoder width, c code width.
"""

import torch
from torch import Tensor

from evagen.kernels.attention import KeyValue
from evagen.kernels.plans import AttentionPlan, concatenated_ranges, plan_families
from evagen.kernels.transfer import send
from evagen.tokenizer.assignments import AssignmentSpace
from evagen.tokenizer.autoencoder import VideoTokenizer
from evagen.tokenizer.layers import Past, Plans
from evagen.tokenizer.packing import PackedLayout, plan_within_blocks
from evagen.tokenizer.places import Blocks, patch_places


class Tokens:
    """1D tokens of encoded blocks, one segment after another, as the models keep them.

    Attributes: starts, lengths of each segment; values, the tokens themselves, (rows, Dd), from which the blocks' 3D
    queries start; decoder, keys and values of each decoder layer, (rows, h, d) each; encoder, the same of each encoder
    layer where later blocks see them, or else empty.
    """

    values: Tensor  # there from the first segments on

    def __init__(self) -> None:
        self.starts = self.lengths = torch.empty(0, dtype=torch.int64)
        self.decoder: list[KeyValue] = []
        self.encoder: list[KeyValue] = []

    def __len__(self) -> int:
        return len(self.starts)

    def add(self, lengths: Tensor, values: Tensor, decoder: list[KeyValue], encoder: list[KeyValue]) -> Tensor:
        """Further segments, whose tokens stand one after another; returns their numbers. values: (rows, Dd)."""
        before, end = len(self), int(self.lengths.sum())
        self.starts = torch.cat([self.starts, end + lengths.cumsum(0) - lengths])
        self.lengths = torch.cat([self.lengths, lengths])
        self.values = torch.cat([self.values, values]) if before else values
        self.decoder, self.encoder = _behind(self.decoder, decoder), _behind(self.encoder, encoder)
        return torch.arange(before, len(self))

    def rows(self, segments: Tensor) -> Tensor:
        """Where the tokens of some segments stand, one after another: any shape → int64 (rows,)."""
        segments = segments.flatten()
        return concatenated_ranges(self.starts[segments], self.lengths[segments])

    def keep(self, segments: Tensor) -> Tensor:
        """Drops all but these segments; returns their new numbers, in the same shape."""
        used, renumbered = segments.unique(return_inverse=True)
        rows = send(self.rows(used), self.values.device)
        decoder, encoder = ([rows_of(each, rows) for each in layers] for layers in (self.decoder, self.encoder))
        kept = Tokens()
        kept.add(self.lengths[used], self.values[rows], decoder, encoder)
        vars(self).update(vars(kept))
        return renumbered

    def forget(self, kept: int) -> None:
        """Drops all but the first segments."""
        if kept == len(self):
            return
        rows = int(self.lengths[:kept].sum())
        self.starts, self.lengths, self.values = self.starts[:kept], self.lengths[:kept], self.values[:rows]
        self.decoder, self.encoder = (
            [(key[:rows], value[:rows]) for key, value in layers] for layers in (self.decoder, self.encoder)
        )


class SearchBatch:
    """Clips that are searched together.

    numbers: int64 (b,), which of the caller's clips they are; num_blocks: T; memory: how many earlier blocks a block
    sees; grid: (Hp, Wp); past, future: numbers of levels of first blocks (b, p) and of last blocks (b, q), which are
    given; space: the assignments of the T - p - q blocks between; tokens: of blocks that have been encoded so far.
    Where an encoder's queries see their own block only, a block has one segment of tokens for each length; where they
    see those of earlier blocks, one for each prefix, and `tokens` holds the prefixes that the search stands at.
    """

    def __init__(self, model: VideoTokenizer, numbers: Tensor, clips: Tensor, past: Tensor, future: Tensor):
        self.numbers, self.past, self.future, self._model = numbers, past, future, model
        self._patches = model.embed_video(clips)  # (b, T, Hp, Wp, De)
        self.num_blocks, *grid = self._patches.shape[1:4]
        self.grid = (grid[0], grid[1])
        num_searched = self.num_blocks - past.shape[1] - future.shape[1]
        self.space = AssignmentSpace(model.assignments.levels, num_searched)
        places = patch_places(torch.arange(self.num_blocks).repeat(len(clips)), self.grid)
        patches = model.patch_rows(self._patches, send(places, clips.device))
        self._seen = model.encoder.context_key_values(patches)  # b·T·P rows
        memory = model.config.memory_blocks
        self.memory = self.num_blocks if memory is None else memory
        self.tokens = Tokens()
        self.depends_on_prefix = model.config.encoder_self_attention == "causal"
        self._segments: list[Tensor] = []  # of each block (b, n), where they do not depend on the prefix

    @property
    def device(self) -> torch.device:
        return self._patches.device

    @property
    def sums_dtype(self) -> torch.dtype:
        """fp64 where there is one."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    @property
    def patches_per_block(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def first_searched(self) -> int:
        """The block behind those of the past."""
        return self.past.shape[1]

    @property
    def first_of_future(self) -> int:
        """The block behind those that are searched."""
        return self.num_blocks - self.future.shape[1]

    def levels_to_try(self, block: int, clips: Tensor) -> Tensor:
        """Numbers of levels (S, k) of one block of S clips, by their numbers in the batch: all, or the one given."""
        if block < self.first_of_future:
            return torch.arange(len(self.space.levels)).repeat(len(clips), 1)
        return self.future[clips, block - self.first_of_future, None]

    def first_seen(self, block: int) -> int:
        """The earliest block that a block sees."""
        return max(0, block - self.memory)

    def segments(self, block: int, clips: Tensor, levels: Tensor, prefixes: Tensor) -> Tensor:
        """The segments of tokens of one block of S children, which are encoded if they are not yet: clips and numbers
        of levels (S,), and their parents' segments (parents, block) → int64 (S,)."""
        if self.depends_on_prefix:
            return self._encode(block, clips, levels, prefixes)
        while len(self._segments) <= block:
            self._segments.append(self._encode_at_every_level(len(self._segments)))
        return self._segments[block][clips, levels]

    def _encode_at_every_level(self, block: int) -> Tensor:
        """Every clip's segments of one block that does not depend on the prefix: int64 (b, n)."""
        num_clips, num_levels = len(self.numbers), len(self.space.levels)
        clips = torch.arange(num_clips).repeat_interleave(num_levels)
        levels = torch.arange(num_levels).repeat(num_clips)
        return self._encode(block, clips, levels).view(num_clips, num_levels)

    def _encode(self, block: int, clips: Tensor, levels: Tensor, prefixes: Tensor | None = None) -> Tensor:
        """Encodes and quantises a block of s clips, at some lengths. prefixes: (families, block), the segments before
        it that are seen, each for equally many of the s."""
        model, patches = self._model, self.patches_per_block
        lengths, first = torch.tensor(model.assignments.levels)[levels], self.first_seen(block)
        counts, earlier = lengths.tolist(), None
        if prefixes is None or block == 0:
            within = plan_within_blocks(PackedLayout(lengths[None]))
        else:
            prefixes = prefixes[:, first:]
            within = plan_families(self.tokens.lengths[prefixes].sum(1).tolist(), counts, counts)
            earlier = self.tokens.rows(prefixes)
        starts = ((clips * self.num_blocks + first) * patches).tolist()
        visible = AttentionPlan(tuple(counts), (patches * (block + 1 - first),) * len(counts), tuple(starts))
        about = model.tokens_of(Blocks(torch.full_like(clips, block), lengths, self.grid))
        clips, earlier, about, plans = send((clips, earlier, about, Plans(within, visible)), self.device)
        queries = model.make_queries(self._patches[clips, block], about)
        past = None if earlier is None else Past([rows_of(each, earlier) for each in self.tokens.encoder])
        encoded, keys = model.encoder.extend(queries, self._seen, plans, past)  # (rows, De)
        vectors = model.quantizer(model.to_code(encoded), with_losses=False).vectors  # (rows, c)
        tokens = model.embed_codes(vectors, about)
        known = model.decoder.context_key_values(tokens)
        return self.tokens.add(lengths, tokens.values, known, keys if self.depends_on_prefix else [])


def rows_of(key_value: KeyValue, rows: Tensor, groups: int | None = None) -> KeyValue:
    """Some rows of keys and values, or some of so many equal groups of rows, which `rows` says on their device."""
    key, value = key_value if groups is None else (x.unflatten(0, (groups, -1)) for x in key_value)
    return key[rows], value[rows]


def joined(before: KeyValue, behind: KeyValue, dim: int = 0) -> KeyValue:
    return torch.cat([before[0], behind[0]], dim), torch.cat([before[1], behind[1]], dim)


def _behind(before: list[KeyValue], new: list[KeyValue]) -> list[KeyValue]:
    """New keys and values behind those before, layer by layer."""
    return [joined(*pair) for pair in zip(before, new)] if before else new
