"""Every candidate assignment of a clip, reconstructed and measured (EVATok stage 2).

Block t of a reconstruction depends on the lengths of blocks ≤ t only, so the n**T assignments are the leaves of a
tree and share their prefixes: with 5 levels and 4 blocks 5 + 25 + 125 + 625 = 780 blocks are decoded and measured
instead of 2,500. The keys and values of the prefixes' patches are kept along the path. Where the encoder's queries see
their own block only, a block's tokens depend on its own length alone, and these 20 are encoded once each; where they
see those of earlier blocks, 780 blocks are encoded as well.

    video ──> SearchBatch: patches of some clips, and the tokens of what is encoded of them
                │
                v           _decode: the next block at every length
            _Parents ───────────────────────────────────────────────────> _Children, their pixels ──> distances
                ^                                                             │
                └── become_parents: some at a time (all_distances), or the ───┘
                    best (autoregressive), with the keys that their next block sees

Legend: B clips, T blocks, n levels, A = n**T assignments, b clips searched together, S segments (children in the
tree), P patches of a block, h heads, d head width, De/Dd encoder/decoder width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evagen.kernels.attention import KeyValue
from evagen.kernels.levels import check_range
from evagen.kernels.plans import plan_families
from evagen.kernels.transfer import send
from evagen.tokenizer.autoencoder import VideoTokenizer
from evagen.tokenizer.layers import Past, Plans
from evagen.tokenizer.places import Blocks
from evagen.tokenizer.reward import RewardScale, check_preference
from evagen.tokenizer.search_batch import SearchBatch, joined, rows_of

BlockDistance = Callable[[Tensor, Tensor, int], dict[str, Tensor]]
"""(reconstructed blocks (S, C, f, H, W) in [-1, 1], their clips int64 (S,) on the same device, block number t) →
named distances (S,) to the original blocks. A clip's distance is their sum over its blocks, divided by how many are
searched."""


@dataclass(frozen=True)
class _Parents:
    """Prefixes of t blocks whose next block is to be decoded, S of them.

    clips: int64 (S,), numbers in the batch; levels: (S, t), the prefixes, as numbers of levels; segments: (S, t), their
    tokens in the batch; sums: named distances added up over the searched blocks, (S,) on the device; seen: keys and
    values of the patches of the m blocks that the next one sees, prefix by prefix, one pair a decoder layer,
    (S·m·P, h, d) each; empty where there is no block yet.
    """

    clips: Tensor
    levels: Tensor
    segments: Tensor
    sums: dict[str, Tensor]
    seen: list[KeyValue]

    @property
    def next_block(self) -> int:
        return self.levels.shape[1]


@dataclass(frozen=True)
class _Children:
    """Prefixes whose last block has just been decoded, S of them. What they share with their siblings stands with
    their parents only.

    clips, levels, segments, sums: as those of parents, with one block more; parent: (S,), the rows of their parents;
    own: keys and values of the last block's patches, one pair a decoder layer, (S·P, h, d) each.
    """

    clips: Tensor
    levels: Tensor
    segments: Tensor
    sums: dict[str, Tensor]
    parents: _Parents
    parent: Tensor
    own: list[KeyValue]

    @property
    def next_block(self) -> int:
        return self.levels.shape[1]

    def become_parents(self, kept: Tensor, batch: SearchBatch) -> _Parents:
        """Some of the children, in this order, each with the keys and values of all that its next block sees."""
        rows, parents = send((kept, self.parent[kept]), batch.device)
        sums = {name: values[rows] for name, values in self.sums.items()}
        seen = [rows_of(key_value, rows, len(self.clips)) for key_value in self.own]  # (kept, P, h, d)
        if self.parents.seen:
            num_parents = len(self.parents.clips)
            before = [rows_of(key_value, parents, num_parents) for key_value in self.parents.seen]  # (kept, m·P, h, d)
            seen = [joined(*pair, dim=1) for pair in zip(before, seen)]  # (kept, (m + 1)·P, h, d)
        most = batch.memory * batch.patches_per_block
        seen = [(key[:, -most:].flatten(0, 1), value[:, -most:].flatten(0, 1)) for key, value in seen]
        return _Parents(self.clips[kept], self.levels[kept], self.segments[kept], sums, seen)


class CandidateSearch:
    """Distances of all candidate assignments of a batch of clips.

    Memory: the tree is walked to its leaves in batches of at most `max_segments` blocks, and each takes along the keys
    and values of its own prefixes only. So at most T batches are alive on the way down, each with the keys and values
    of at most max_segments + (T - 1) · max_segments / n blocks a layer, however many candidates there are. Beside them
    stand those of each clip's patches in the encoder, and those of tokens in the decoder: of every block at every
    length, or, where tokens depend on the prefix, of the blocks that are alive.

    Args:
        tokenizer: the proxy tokenizer, in eval mode.
        distance: compares reconstructed blocks with the originals: blocks (S, C, f, H, W) in [-1, 1], their clips'
            numbers int64 (S,), the number t of their block → distances (S,) by name. A clip's distance is the mean over
            its blocks.
        max_segments: how many blocks are evaluated in one batch, which bounds memory; if n is more than that, n.

    For instance with the mean absolute difference:

        blocks = video.split(tokenizer.config.temporal_patch, dim=2)  # T times (B, C, f, H, W)

        def distance(reconstruction, clips, t):
            return {"l1": (reconstruction - blocks[t][clips]).abs().flatten(1).mean(1)}

        distances = CandidateSearch(tokenizer, distance).all_distances(video)["l1"]  # (B, A)
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
        they are decoded and measured, so that what these leave to later ones can count.

        Raises ValueError for videos of other shapes or far out of [-1, 1], and for lengths that are no levels."""
        parts: list[dict[str, Tensor]] = []
        clips_at_once = self.max_segments // len(self.tokenizer.assignments.levels)
        for batch in self._batches(video, clips_at_once, past, future):
            parts.append({})
            self._expand(self._behind_past(batch), batch, parts[-1])
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @torch.no_grad()
    def autoregressive(
        self, video: Tensor, preference: float, scale: RewardScale, name: str = "perceptual", beam: int = 1
    ) -> Tensor:
        """The assignment chosen block by block: in each block the `beam` prefixes of highest reward go on, the cheapest
        of equals first.

        The reward is a sum over blocks, so prefixes compare fairly; what a choice does to later blocks is what
        the beam looks at. Evaluates at most T · n · beam blocks a clip: linear in T, for videos of any length.
        Memory grows with the larger of max_segments and n · beam, times T.
        video (B, C, F, H, W) in [-1, 1] → lengths int64 (B, T). name: which of the distances counts. Raises ValueError
        where there is none of that name, for a preference out of [0, 2], and as `all_distances` does."""
        check_preference(preference)
        if beam < 1:
            raise ValueError(f"beam must be at least 1, got {beam}")
        clips_at_once = self.max_segments // (beam * len(self.tokenizer.assignments.levels))
        batches = self._batches(video, clips_at_once)
        return torch.cat([self._choose(batch, preference, scale, name, beam) for batch in batches])

    def _batches(
        self, video: Tensor, clips_at_once: int, past: Tensor | None = None, future: Tensor | None = None
    ) -> Iterator[SearchBatch]:
        check_range(video)
        none = torch.empty(len(video), 0, dtype=torch.int64)
        past, future = (none if given is None else self._level_numbers(given) for given in (past, future))
        at_once = max(1, clips_at_once)
        for numbers, clips in zip(torch.arange(len(video)).split(at_once), video.split(at_once)):
            yield SearchBatch(self.tokenizer, numbers, clips, past[numbers], future[numbers])

    def _level_numbers(self, lengths: Tensor) -> Tensor:
        """Lengths of any shape as numbers of levels. Raises ValueError for one that is no level."""
        self.tokenizer.assignments.check_levels(lengths)
        return torch.searchsorted(torch.tensor(self.tokenizer.assignments.levels), lengths.contiguous())

    def _choose(self, batch: SearchBatch, preference: float, scale: RewardScale, name: str, beam: int) -> Tensor:
        levels = torch.tensor(self.tokenizer.assignments.levels)
        tokens_unit = scale.tokens_unit * batch.num_blocks / scale.num_blocks  # of a video as long as this one
        parents = _roots(batch)
        for _ in range(batch.num_blocks):
            children = self._evaluate(parents, batch)
            if name not in children.sums:
                raise ValueError(f"name={name!r}: the distances are called {', '.join(children.sums)}")
            quality = -children.sums[name].cpu() / batch.num_blocks / scale.distance_unit  # (S,)
            tokens = levels[children.levels].sum(1)  # (S,)
            reward = preference * quality - (2 - preference) * tokens / tokens_unit  # (S,)
            order = tokens.argsort(stable=True)
            order = order[reward[order].argsort(descending=True, stable=True)]  # best first, of equals the cheapest
            kept = torch.cat([order[children.clips[order] == clip][:beam] for clip in range(len(batch.numbers))])
            parents = children.become_parents(kept, batch)
            if batch.depends_on_prefix:
                parents = replace(parents, segments=batch.tokens.keep(parents.segments))
        best = [parents.clips.tolist().index(clip) for clip in range(len(batch.numbers))]  # each clip's first
        return levels[parents.levels[best]]

    def _behind_past(self, batch: SearchBatch) -> _Parents:
        """The prefix of each clip that its past is."""
        parents = _roots(batch)
        for block in range(batch.first_searched):
            children, _ = self._decode(parents, batch.past[:, block, None], batch)
            parents = children.become_parents(children.clips, batch)
        return parents

    def _expand(self, parents: _Parents, batch: SearchBatch, results: dict[str, Tensor]) -> None:
        """Evaluates every child of the parents and whatever lies below it, and writes the leaves into `results`."""
        num_tokens = len(batch.tokens)
        children = self._evaluate(parents, batch)
        if children.next_block == batch.num_blocks:
            _write_leaves(children, batch, results)
        else:
            for some in self._at_once(children, batch):
                self._expand(children.become_parents(some, batch), batch, results)
        if batch.depends_on_prefix:
            batch.tokens.forget(num_tokens)

    def _at_once(self, children: _Children, batch: SearchBatch) -> Iterator[Tensor]:
        """Rows of the children that are parents together, by clip: so many that they have at most `max_segments`
        children."""
        levels = torch.tensor(batch.space.levels)
        at_once = max(1, self.max_segments // (len(levels) if children.next_block < batch.first_of_future else 1))
        at_once -= at_once % len(batch.numbers)  # so that the same prefixes of all clips stay together
        same_shape_together = levels[children.levels].sum(1).argsort(stable=True)
        for some in same_shape_together.split(max(1, at_once)):
            yield some[children.clips[some].argsort(stable=True)]

    def _evaluate(self, parents: _Parents, batch: SearchBatch) -> _Children:
        """Decodes and measures the next block of the parents, at every level or at that which is given."""
        block = parents.next_block
        children, pixels = self._decode(parents, batch.levels_to_try(block, parents.clips), batch)
        self.block_evaluations += len(pixels)
        clips, parent = send((batch.numbers[children.clips], children.parent), batch.device)
        found = self.distance(pixels, clips, block - batch.first_searched)
        if not isinstance(found, dict):
            raise ValueError(f"the distance gives {{name: distances (S,)}}, not a {type(found).__name__}")
        sums = {name: values[parent] for name, values in parents.sums.items()}
        for name, values in found.items():
            sums[name] = values.to(batch.sums_dtype) + sums.get(name, 0)  # (S,)
        return replace(children, sums=sums)

    def _decode(self, parents: _Parents, new_levels: Tensor, batch: SearchBatch) -> tuple[_Children, Tensor]:
        """The next block, at each of k levels of each parent: numbers of levels (parents, k) → the children, without
        sums, and their block's pixels (S, C, f, H, W) in [-1, 1]."""
        model, patches, block = self.tokenizer, batch.patches_per_block, parents.next_block
        levels = torch.tensor(model.assignments.levels)
        num_parents, num_children = len(parents.clips), new_levels.numel()
        parent = torch.arange(num_parents).repeat_interleave(new_levels.shape[1])  # (S,)
        clips, new_level = parents.clips[parent], new_levels.flatten()  # (S,) each

        segments = batch.segments(block, clips, new_level, parents.segments)  # (S,)
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
        past = Past(parents.seen, [rows_of(each, earlier) for each in known]) if block else None
        tokens = [rows_of(each, own) for each in known]
        decoded, new = model.decoder.extend(queries, tokens, plans, past)  # (S·P, Dd)
        pixels = model.pixels(decoded, batch.grid).float().clamp_(-1, 1)  # (S, C, f, H, W)
        child_levels = torch.cat([parents.levels[parent], new_level[:, None]], dim=1)  # (S, t + 1)
        child_segments = torch.cat([parents.segments[parent], segments[:, None]], dim=1)  # (S, t + 1)
        return _Children(clips, child_levels, child_segments, {}, parents, parent, new), pixels


def _roots(batch: SearchBatch) -> _Parents:
    """The empty prefix of each clip."""
    none = torch.empty(len(batch.numbers), 0, dtype=torch.int64)
    return _Parents(torch.arange(len(batch.numbers)), none, none, {}, [])


def _write_leaves(leaves: _Children, batch: SearchBatch, results: dict[str, Tensor]) -> None:
    """Each clip's mean distances over the searched blocks into the column of its assignment: (b, A) by name."""
    levels = torch.tensor(batch.space.levels)
    index = batch.space.index_of(levels[leaves.levels[:, batch.first_searched : batch.first_of_future]])
    for name, sums in zip(leaves.sums, torch.stack(list(leaves.sums.values())).cpu()):
        nothing = torch.full((len(batch.numbers), batch.space.count), torch.nan, dtype=torch.float64)
        results.setdefault(name, nothing)[leaves.clips, index] = sums / batch.space.num_blocks
