"""Every candidate assignment of a clip, reconstructed and measured (EVATok stage 2).

Block t of a reconstruction depends on the lengths of blocks ≤ t only, so the n**T assignments are the
leaves of a tree and share their prefixes: with 5 levels and 4 blocks 5 + 25 + 125 + 625 = 780 blocks are
encoded and decoded instead of 2,500. The prefixes' keys and values are kept along the path.

Legend: B clips, T blocks, n levels, A = n**T assignments, S segments (children in the tree), P patches.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from tokenizer.assignments import AssignmentSpace
from tokenizer.attention import KeyValue
from tokenizer.autoencoder import VideoTokenizer
from tokenizer.layers import LayerCache, Plans
from tokenizer.packing import AttentionPlan, plan_families
from tokenizer.reward import QualityScale

BlockDistance = Callable[[Tensor, Tensor, int], dict[str, Tensor]]
"""(reconstructed blocks (S, C, f, H, W) in [-1, 1], their clips int64 (S,), block number t) → named distances
(S,) to the original blocks. A clip's distance is the mean over its blocks."""


@dataclass(frozen=True)
class _Batch:
    """Clips that are searched together. numbers: int64 (b,), which of the caller's clips they are;
    patches: (b, T, Hp, Wp, De), embedded once for the whole tree."""

    numbers: Tensor
    patches: Tensor

    @property
    def num_blocks(self) -> int:
        return self.patches.shape[1]

    @property
    def grid(self) -> tuple[int, int]:
        return self.patches.shape[2], self.patches.shape[3]

    @property
    def patches_per_block(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class _Nodes:
    """Prefixes of assignments, one a row. clips: (S,) numbers in the batch; lengths: (S, t), the prefixes, in tokens;
    sums: distances added up over the prefix; rows_1d, rows_3d: where its tokens and patches stand in the caches. After
    `_keep` they stand there prefix by prefix."""

    clips: Tensor
    lengths: Tensor
    sums: dict[str, Tensor]
    rows_1d: list[Tensor]
    rows_3d: list[Tensor]


@dataclass(frozen=True)
class _Caches:
    """What has been computed along the path."""

    encoder: list[LayerCache] | None = None
    decoder: list[LayerCache] | None = None


class CandidateSearch:
    """Distances of all candidate assignments of a batch of clips.

    Memory: the tree is walked to its leaves in batches of at most `max_segments` blocks, and each takes along the keys
    and values of its own prefixes only. So at most T batches are alive on the way down, each with the keys and values
    of at most max_segments + (T - 1) · max_segments / n blocks a layer, however many candidates there are.

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
    def all_distances(self, video: Tensor) -> dict[str, Tensor]:
        """video (B, C, F, H, W) in [-1, 1] → for each named distance (B, A) on the CPU, in index order."""
        parts: list[dict[str, Tensor]] = []
        for batch in self._batches(video, self.max_segments // len(self.tokenizer.assignments.levels)):
            parts.append({})
            self._expand(0, _roots(batch), _Caches(), batch, parts[-1])
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @torch.no_grad()
    def autoregressive(
        self, video: Tensor, preference: float, scale: QualityScale, name: str = "perceptual", beam: int = 1
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
            yield _Batch(numbers, self.tokenizer.embed_video(clips))

    def _choose(self, batch: _Batch, preference: float, scale: QualityScale, name: str, beam: int) -> Tensor:
        levels = self.tokenizer.assignments.levels
        token_range = (levels[-1] - levels[0]) * batch.num_blocks or 1
        nodes, caches = _roots(batch), _Caches()
        for block in range(batch.num_blocks):
            children, caches = self._evaluate(block, nodes, caches, batch)
            quality = -children.sums[name] / batch.num_blocks / (scale.d_max - scale.d_min)  # (S,)
            length = children.lengths.sum(1) / token_range  # (S,)
            order = (preference * quality - (2 - preference) * length).argsort(descending=True)  # best reward first
            kept = torch.cat([order[children.clips[order] == clip][:beam] for clip in range(len(batch.numbers))])
            nodes, caches = _keep(children, caches, kept)
        best = [nodes.clips.tolist().index(clip) for clip in range(len(batch.numbers))]  # each clip's first
        return nodes.lengths[best]

    def _expand(self, block: int, nodes: _Nodes, caches: _Caches, batch: _Batch, results: dict[str, Tensor]) -> None:
        """Evaluates every child of the nodes, in batches, and whatever lies below each batch."""
        space = AssignmentSpace(self.tokenizer.assignments.levels, batch.num_blocks)
        at_once = max(1, self.max_segments // len(space.levels))
        at_once -= at_once % len(batch.numbers)  # so that the same prefixes of all clips stay together
        same_shape_together = nodes.lengths.sum(1).argsort(stable=True)
        for chunk in same_shape_together.split(max(1, at_once)):
            by_clip = chunk[nodes.clips[chunk].argsort(stable=True)]
            children, below = self._evaluate(block, *_keep(nodes, caches, by_clip), batch)
            if block + 1 < batch.num_blocks:
                self._expand(block + 1, children, below, batch, results)
                continue
            for name, sums in children.sums.items():
                nothing = torch.full((len(batch.numbers), len(space)), torch.nan, dtype=torch.float64)
                table = results.setdefault(name, nothing)
                table[children.clips, space.index_of(children.lengths)] = sums / batch.num_blocks

    def _evaluate(self, block: int, parents: _Nodes, caches: _Caches, batch: _Batch) -> tuple[_Nodes, _Caches]:
        """Encodes, quantises, decodes and measures one block of every child of the parents."""
        model, device = self.tokenizer, batch.patches.device
        levels = torch.tensor(model.assignments.levels)
        parent = torch.arange(len(parents.clips)).repeat_interleave(len(levels))  # (S,)
        lengths, clips = levels.repeat(len(parents.clips)), parents.clips[parent]  # (S,) each
        blocks = torch.full_like(clips, block)
        counts, sizes = lengths.tolist(), [batch.patches_per_block] * len(parent)  # of new rows, 1D and 3D
        past_1d, past_3d = (list(map(len, rows)) for rows in (parents.rows_1d, parents.rows_3d))

        # Encoder: the patches of all blocks are its context from the first call on; the plan hides later blocks.
        queries = model.make_queries(batch.patches[clips.to(device), block], blocks, lengths)  # n rows
        context = model.patch_rows(batch.patches if caches.encoder is None else batch.patches[:0])
        plans = Plans(plan_families(past_1d, counts, counts), _plan_patches(lengths, clips, block, batch))
        encoded, encoder_caches = model.encoder.extend(queries, context, plans.to(device), caches.encoder)  # (n, De)
        vectors = model.quantizer(model.to_code(encoded), with_losses=False).vectors  # (n, c)

        # Decoder: the same for its 3D queries, with the 1D tokens as the growing context.
        tokens = model.embed_codes(vectors, blocks, lengths, batch.grid)  # n rows
        first = tokens.values[(lengths.cumsum(0) - lengths).to(device)]  # (S, Dd)
        queries = model.decoder_queries(first, blocks, batch.grid)  # S*P rows
        plans = Plans(plan_families(past_3d, sizes, sizes), plan_families(past_1d, sizes, counts))
        decoded, decoder_caches = model.decoder.extend(queries, tokens, plans.to(device), caches.decoder)  # (S*P, Dd)
        pixels = model.pixels(decoded, batch.grid).clamp_(-1, 1)  # (S, C, f, H, W)

        self.block_evaluations += len(parent)
        new = {name: d.double().cpu() for name, d in self.distance(pixels, batch.numbers[clips], block).items()}
        sums = {name: value + (parents.sums[name][parent] if block else 0.0) for name, value in new.items()}
        rows_1d = _with_new_rows(parents.rows_1d, parent, counts)
        rows_3d = _with_new_rows(parents.rows_3d, parent, sizes)
        children = _Nodes(clips, torch.cat([parents.lengths[parent], lengths[:, None]], dim=1), sums, rows_1d, rows_3d)
        return children, _Caches(encoder_caches, decoder_caches)


def _roots(batch: _Batch) -> _Nodes:
    """The empty prefix of each clip."""
    clips = torch.arange(len(batch.numbers))
    nothing = torch.empty(0, dtype=torch.int64)
    return _Nodes(clips, nothing.expand(len(clips), 0), {}, [nothing] * len(clips), [nothing] * len(clips))


def _plan_patches(lengths: Tensor, clips: Tensor, block: int, batch: _Batch) -> AttentionPlan:
    """1D queries see their clip's patches up to the block. Neighbours of one clip see the same, as one segment."""
    runs = [(clip, [n for _, n in run]) for clip, run in groupby(zip(clips.tolist(), lengths.tolist()), itemgetter(0))]
    patches = batch.patches_per_block
    starts = tuple(clip * patches * batch.num_blocks for clip, _ in runs)
    return AttentionPlan(tuple(sum(run) for _, run in runs), (patches * (block + 1),) * len(runs), starts)


def _keep(nodes: _Nodes, caches: _Caches, kept: Tensor) -> tuple[_Nodes, _Caches]:
    """Some of the nodes, in this order, and caches that hold their prefixes, one after the other."""
    some = kept.tolist()
    rows_1d, rows_3d = ([rows[i] for i in some] for rows in (nodes.rows_1d, nodes.rows_3d))
    sums = {name: values[kept] for name, values in nodes.sums.items()}
    chosen = _Nodes(nodes.clips[kept], nodes.lengths[kept], sums, _in_order(rows_1d), _in_order(rows_3d))
    if caches.encoder is None or caches.decoder is None:
        return chosen, caches
    all_1d, all_3d = torch.cat(rows_1d), torch.cat(rows_3d)
    encoder = [LayerCache(_rows_of(c.self_key_value, all_1d), c.cross_key_value) for c in caches.encoder]
    decoder = [
        LayerCache(_rows_of(c.self_key_value, all_3d), _rows_of(c.cross_key_value, all_1d)) for c in caches.decoder
    ]
    return chosen, _Caches(encoder, decoder)


def _in_order(rows: list[Tensor]) -> list[Tensor]:
    """As many rows each, counted through."""
    counts = list(map(len, rows))
    return list(torch.arange(sum(counts)).split(counts))


def _rows_of(key_value: KeyValue, rows: Tensor) -> KeyValue:
    rows = rows.to(key_value[0].device)
    return key_value[0][rows], key_value[1][rows]


def _with_new_rows(past: list[Tensor], parent: Tensor, counts: list[int]) -> list[Tensor]:
    """Each child's rows: its parent's, then `count` new ones; the new rows of all children stand behind all parents'
    rows, in order."""
    rows, first_new = [], sum(map(len, past))
    for p, count in zip(parent.tolist(), counts):
        rows.append(torch.cat([past[p], torch.arange(first_new, first_new + count)]))
        first_new += count
    return rows


@torch.no_grad()
def brute_force_distances(
    tokenizer: VideoTokenizer,
    video: Tensor,
    distance: BlockDistance,
    candidates: Tensor | None = None,
    candidates_at_once: int = 1,
) -> dict[str, Tensor]:
    """What `CandidateSearch` computes, by reconstructing each clip with every assignment in full: the reference it is
    tested and timed against. video (B, C, F, H, W) in [-1, 1], candidates int64 (A', T), all if None → (B, A') each.
    `candidates_at_once` of them are reconstructed for all clips in one batch."""
    table = tokenizer.assignments.table() if candidates is None else candidates
    results: dict[str, list[Tensor]] = {}
    for some in table.split(candidates_at_once):
        clips = torch.arange(len(video)).repeat(len(some))  # (a·B,)
        tokens = tokenizer.encode(video[clips.to(video.device)], some.repeat_interleave(len(video), dim=0))
        blocks = tokenizer.decode(tokens, tuple(video.shape[-2:])).split(tokenizer.config.temporal_patch, dim=2)
        per_block = [distance(block, clips, t) for t, block in enumerate(blocks)]
        for name in per_block[0]:
            mean = torch.stack([d[name].double().cpu() for d in per_block]).mean(0)  # (a·B,)
            results.setdefault(name, []).append(mean.view(len(some), len(video)))
    return {name: torch.cat(rows).T for name, rows in results.items()}  # (B, A')
