"""Every candidate assignment of a clip, reconstructed and measured (EVATok stage 2).

Block t of a reconstruction depends on the lengths of blocks ≤ t only, so the n**T assignments are the leaves of a
tree and share their prefixes: with 5 levels and 4 blocks 5 + 25 + 125 + 625 = 780 blocks are decoded and measured
instead of 2,500. The keys and values of the prefixes' patches are kept along the path. Where the encoder's queries see
their own block only, a block's tokens depend on its own length alone, and these 20 are encoded once each; where they
see those of earlier blocks, 780 blocks are encoded as well.

Legend: B clips, T blocks, n levels, A = n**T assignments, b clips searched together, S segments (children in the
tree), P patches of a block, h heads, d head width, De/Dd encoder/decoder width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

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
from evagen.tokenizer.reward import RewardScale

BlockDistance = Callable[[Tensor, Tensor, int], dict[str, Tensor]]
"""(reconstructed blocks (S, C, f, H, W) in [-1, 1], their clips int64 (S,) on the same device, block number t) →
named distances (S,) to the original blocks. A clip's distance is their sum over its blocks, divided by how many are
searched."""


class _Tokens:
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
        decoder, encoder = ([_rows_of(each, rows) for each in layers] for layers in (self.decoder, self.encoder))
        kept = _Tokens()
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


class _Batch:
    """Clips that are searched together.

    numbers: int64 (b,), which of the caller's clips they are; num_blocks: T; memory: how many earlier blocks a block
    sees; grid: (Hp, Wp); tokens: of blocks that have been encoded so far. Where an encoder's queries see their own
    block only, a block has one segment of tokens for each length; where they see those of earlier blocks, one for each
    prefix, and `tokens` holds the prefixes that the search stands at.
    """

    def __init__(self, model: VideoTokenizer, numbers: Tensor, clips: Tensor):
        self.numbers, self._model = numbers, model
        self._patches = model.embed_video(clips)  # (b, T, Hp, Wp, De)
        self.num_blocks, *grid = self._patches.shape[1:4]
        self.grid = (grid[0], grid[1])
        places = patch_places(torch.arange(self.num_blocks).repeat(len(clips)), self.grid)
        patches = model.patch_rows(self._patches, send(places, clips.device))
        self._seen = model.encoder.context_key_values(patches)  # b·T·P rows
        memory = model.config.memory_blocks
        self.memory = self.num_blocks if memory is None else memory
        self.tokens = _Tokens()
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

    def first_seen(self, block: int) -> int:
        """The earliest block that a block sees."""
        return max(0, block - self.memory)

    def segments(self, block: int, parents: "_Nodes", parent: Tensor, levels: Tensor) -> Tensor:
        """The segment of tokens of one block of S children: parent, level numbers (S,) → int64 (S,)."""
        if self.depends_on_prefix:
            return self._encode(block, parents.clips[parent], levels, parents.segments)
        while len(self._segments) <= block:
            num_levels = len(self._model.assignments.levels)
            clips = torch.arange(len(self.numbers)).repeat_interleave(num_levels)
            every = torch.arange(num_levels).repeat(len(self.numbers))
            self._segments.append(self._encode(len(self._segments), clips, every).view(-1, num_levels))
        return self._segments[block][parents.clips[parent], levels]

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
        past = None if earlier is None else Past([_rows_of(each, earlier) for each in self.tokens.encoder])
        encoded, keys = model.encoder.extend(queries, self._seen, plans, past)  # (rows, De)
        vectors = model.quantizer(model.to_code(encoded), with_losses=False).vectors  # (rows, c)
        tokens = model.embed_codes(vectors, about)
        known = model.decoder.context_key_values(tokens)
        return self.tokens.add(lengths, tokens.values, known, keys if self.depends_on_prefix else [])


@dataclass(frozen=True)
class _Nodes:
    """Prefixes of assignments, one a row. clips: (S,) numbers in the batch; levels: (S, t), the prefixes, as numbers of
    levels; segments: (S, t), their tokens in the batch; sums: distances added up over the prefix, (S,) on the device;
    past: keys and values of the patches of m blocks before the last, those that it sees, one pair a decoder layer,
    (families · m·P, h, d) each; family: (S,), whose past it is; new: of the last block, (S·P, h, d) each; first: the
    first block that is searched, after those that are given; future: numbers of levels (b, q), of each clip's last
    blocks, which are given too."""

    clips: Tensor
    levels: Tensor
    segments: Tensor
    sums: dict[str, Tensor]
    family: Tensor
    past: list[KeyValue]
    new: list[KeyValue]
    future: Tensor
    first: int = 0

    @property
    def block(self) -> int:
        """The number of the next block."""
        return self.levels.shape[1]


class CandidateSearch:
    """Distances of all candidate assignments of a batch of clips.

    Memory: the tree is walked to its leaves in batches of at most `max_segments` blocks, and each takes along the keys
    and values of its own prefixes only. So at most T batches are alive on the way down, each with the keys and values
    of at most max_segments + (T - 1) · max_segments / n blocks a layer, however many candidates there are. Beside them
    stand those of each clip's patches in the encoder, and those of tokens in the decoder: of every block at every
    length, or, where tokens depend on the prefix, of the blocks that are alive.

    Args:
        tokenizer: the proxy tokenizer, in eval mode.
        distance: compares reconstructed blocks with the originals.
        max_segments: how many blocks are evaluated in one batch, which bounds memory; if n is more than that, n.
    """

    def __init__(self, tokenizer: VideoTokenizer, distance: BlockDistance, max_segments: int = 128):
        self.tokenizer = tokenizer
        self.distance = distance
        self.max_segments = max_segments
        self.block_evaluations = 0

    @torch.no_grad()
    def all_distances(
        self, video: Tensor, past: Tensor | None = None, future: Tensor | None = None
    ) -> dict[str, Tensor]:
        """video (B, C, F, H, W) in [-1, 1] → for each named distance (B, A) on the CPU, in index order.

        past: lengths int64 (B, p) of first blocks, which are given: the candidates are the assignments of the blocks
        that follow, and theirs are the distances, in which block number 0 is the first of them.
        future: lengths int64 (B, q) of last blocks, which are given too: behind each assignment of the blocks between,
        they are decoded and measured, so that what these leave to later ones can count."""
        none = torch.empty(len(video), 0, dtype=torch.int64)
        past, future = (none if given is None else self._level_numbers(given) for given in (past, future))
        parts: list[dict[str, Tensor]] = []
        for batch in self._batches(video, self.max_segments // len(self.tokenizer.assignments.levels)):
            parts.append({})
            roots = replace(self._after(past[batch.numbers], batch), future=future[batch.numbers])
            self._expand(roots, batch, parts[-1])
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _level_numbers(self, lengths: Tensor) -> Tensor:
        """Lengths of any shape as numbers of levels. Raises ValueError for one that is no level."""
        self.tokenizer.assignments.check_levels(lengths)
        return torch.searchsorted(torch.tensor(self.tokenizer.assignments.levels), lengths.contiguous())

    @torch.no_grad()
    def autoregressive(
        self, video: Tensor, preference: float, scale: RewardScale, name: str = "perceptual", beam: int = 1
    ) -> Tensor:
        """The assignment chosen block by block: in each block the `beam` prefixes of highest reward go on.

        The reward is a sum over blocks, so prefixes compare fairly; what a choice does to later blocks is what
        the beam looks at. Evaluates at most T · n · beam blocks a clip: linear in T, for videos of any length.
        Memory grows with the larger of max_segments and n · beam, times T.
        video (B, C, F, H, W) in [-1, 1] → lengths int64 (B, T)."""
        if beam < 1:
            raise ValueError(f"beam must be at least 1, got {beam}")
        clips_at_once = self.max_segments // (beam * len(self.tokenizer.assignments.levels))
        batches = self._batches(video, clips_at_once)
        return torch.cat([self._choose(batch, preference, scale, name, beam) for batch in batches])

    def _batches(self, video: Tensor, clips_at_once: int) -> Iterator[_Batch]:
        at_once = max(1, clips_at_once)
        for numbers, clips in zip(torch.arange(len(video)).split(at_once), video.split(at_once)):
            yield _Batch(self.tokenizer, numbers, clips)

    def _choose(self, batch: _Batch, preference: float, scale: RewardScale, name: str, beam: int) -> Tensor:
        levels = torch.tensor(self.tokenizer.assignments.levels)
        tokens_unit = scale.tokens_unit * batch.num_blocks / scale.num_blocks  # of a video as long as this one
        nodes = _roots(batch)
        for _ in range(batch.num_blocks):
            children = self._evaluate(nodes, batch)
            quality = -children.sums[name].cpu() / batch.num_blocks / scale.distance_unit  # (S,)
            length = levels[children.levels].sum(1) / tokens_unit  # (S,)
            order = (preference * quality - (2 - preference) * length).argsort(descending=True)  # best reward first
            kept = torch.cat([order[children.clips[order] == clip][:beam] for clip in range(len(batch.numbers))])
            nodes = _keep(children, kept, batch)
            if batch.depends_on_prefix:
                nodes = replace(nodes, segments=batch.tokens.keep(nodes.segments))
        best = [nodes.clips.tolist().index(clip) for clip in range(len(batch.numbers))]  # each clip's first
        return levels[nodes.levels[best]]

    def _after(self, past: Tensor, batch: _Batch) -> _Nodes:
        """The prefix of each clip that the past is, numbers of levels (b, p): the roots of what is searched."""
        nodes = _roots(batch)
        for block in range(past.shape[1]):
            nodes = _keep(self._decode(nodes, past[:, block, None], batch)[0], nodes.clips, batch)
        return replace(nodes, first=past.shape[1])

    def _expand(self, nodes: _Nodes, batch: _Batch, results: dict[str, Tensor]) -> None:
        """Evaluates every child of the nodes, in batches, and whatever lies below each batch."""
        is_last = nodes.block + 1 == batch.num_blocks
        end = batch.num_blocks - nodes.future.shape[1]  # of what is searched
        space = AssignmentSpace(self.tokenizer.assignments.levels, end - nodes.first)
        at_once = max(1, self.max_segments // (1 if nodes.block >= end else len(space.levels)))
        at_once -= at_once % len(batch.numbers)  # so that the same prefixes of all clips stay together
        levels = torch.tensor(space.levels)
        same_shape_together = levels[nodes.levels].sum(1).argsort(stable=True)
        for chunk in same_shape_together.split(max(1, at_once)):
            by_clip = chunk[nodes.clips[chunk].argsort(stable=True)]
            known = len(batch.tokens)
            children = self._evaluate(_keep(nodes, by_clip, batch), batch)
            if not is_last:
                self._expand(children, batch, results)
            if batch.depends_on_prefix:
                batch.tokens.forget(known)
            if not is_last:
                continue
            index = space.index_of(levels[children.levels[:, nodes.first : end]])
            for name, sums in zip(children.sums, torch.stack(list(children.sums.values())).cpu()):
                nothing = torch.full((len(batch.numbers), space.count), torch.nan, dtype=torch.float64)
                results.setdefault(name, nothing)[children.clips, index] = sums / space.num_blocks

    def _evaluate(self, parents: _Nodes, batch: _Batch) -> _Nodes:
        """Decodes and measures one block of every child of the parents: at every level, or at that which is given."""
        levels = torch.arange(len(self.tokenizer.assignments.levels)).repeat(len(parents.clips), 1)
        given = parents.block - (batch.num_blocks - parents.future.shape[1])
        if given >= 0:
            levels = parents.future[parents.clips, given, None]
        children, pixels = self._decode(parents, levels, batch)
        self.block_evaluations += len(pixels)
        clips, parent = send((batch.numbers[children.clips], children.family), batch.device)
        found = self.distance(pixels, clips, parents.block - parents.first)
        sums = {name: values[parent] for name, values in parents.sums.items()}
        for name, values in found.items():
            sums[name] = values.to(batch.sums_dtype) + sums.get(name, 0)  # (S,)
        return replace(children, sums=sums)

    def _decode(self, parents: _Nodes, new_levels: Tensor, batch: _Batch) -> tuple[_Nodes, Tensor]:
        """One block more, at each of k levels of each parent: numbers of levels (parents, k) → the children, without
        sums, and their block's pixels (S, C, f, H, W) in [-1, 1]."""
        model, patches, block = self.tokenizer, batch.patches_per_block, parents.block
        levels = torch.tensor(model.assignments.levels)
        num_parents, num_children = len(parents.clips), new_levels.numel()
        parent = torch.arange(num_parents).repeat_interleave(new_levels.shape[1])  # (S,)
        clips, new_level = parents.clips[parent], new_levels.flatten()  # (S,) each

        segments = batch.segments(block, parents, parent, new_level)  # (S,)
        lengths = levels[new_level]
        sizes, counts, first = [patches] * num_children, lengths.tolist(), batch.first_seen(block)
        shared_patches = [(block - first) * patches] * num_parents
        shared_tokens = levels[parents.levels[:, first:]].sum(1).tolist()
        plans = Plans(plan_families(shared_patches, sizes, sizes), plan_families(shared_tokens, sizes, counts))
        about = model.patches_of(Blocks(torch.full_like(clips, block), lengths, batch.grid))
        rows = (batch.tokens.rows(segments), batch.tokens.rows(parents.segments[:, first:]))
        (own, earlier), about, plans = send((rows, about, plans), batch.device)
        queries = model.decoder_queries(batch.tokens.values[own], about)  # S·P rows
        known = batch.tokens.decoder
        past = Past(parents.new, [_rows_of(each, earlier) for each in known]) if block else None
        tokens = [_rows_of(each, own) for each in known]
        decoded, new = model.decoder.extend(queries, tokens, plans, past)  # (S·P, Dd)
        pixels = model.pixels(decoded, batch.grid).float().clamp_(-1, 1)  # (S, C, f, H, W)
        children = torch.cat([parents.levels[parent], new_level[:, None]], dim=1)  # (S, t + 1)
        of_children = torch.cat([parents.segments[parent], segments[:, None]], dim=1)  # (S, t + 1)
        nodes = replace(parents, clips=clips, levels=children, segments=of_children, sums={})
        return replace(nodes, family=parent, past=parents.new, new=new), pixels


def _roots(batch: _Batch) -> _Nodes:
    """The empty prefix of each clip."""
    clips = torch.arange(len(batch.numbers))
    none = torch.empty(len(clips), 0, dtype=torch.int64)
    return _Nodes(clips, none, none, {}, clips, [], [], future=none)


def _keep(nodes: _Nodes, kept: Tensor, batch: _Batch) -> _Nodes:
    """Some of the nodes, in this order, each a family by itself: `new` holds all of their blocks that the next
    one sees, prefix by prefix."""
    kept_nodes = replace(nodes, clips=nodes.clips[kept], levels=nodes.levels[kept], segments=nodes.segments[kept])
    rows, families = send((kept, nodes.family[kept]), batch.device)
    sums = {name: values[rows] for name, values in nodes.sums.items()}
    whole = nodes.new and [_rows_of(key_value, rows, len(nodes.clips)) for key_value in nodes.new]  # (kept, P, h, d)
    if nodes.past:
        num_families = int(nodes.family.max()) + 1
        before = [_rows_of(key_value, families, num_families) for key_value in nodes.past]
        whole = [_joined(*pair, dim=1) for pair in zip(before, whole)]  # (kept, m·P, h, d)
    seen = batch.memory * batch.patches_per_block
    whole = [(key[:, -seen:], value[:, -seen:]) for key, value in whole]
    flat = [(key.flatten(0, 1), value.flatten(0, 1)) for key, value in whole]
    family = torch.arange(len(kept))
    return replace(kept_nodes, sums=sums, family=family, past=[], new=flat)


def _rows_of(key_value: KeyValue, rows: Tensor, groups: int | None = None) -> KeyValue:
    """Some rows of keys and values, or some of so many equal groups of rows, which `rows` says on their device."""
    key, value = key_value if groups is None else (x.unflatten(0, (groups, -1)) for x in key_value)
    return key[rows], value[rows]


def _joined(before: KeyValue, behind: KeyValue, dim: int = 0) -> KeyValue:
    return torch.cat([before[0], behind[0]], dim), torch.cat([before[1], behind[1]], dim)


def _behind(before: list[KeyValue], new: list[KeyValue]) -> list[KeyValue]:
    """New keys and values behind those before, layer by layer."""
    return [_joined(*pair) for pair in zip(before, new)] if before else new
