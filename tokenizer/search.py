"""Every candidate assignment of a clip, reconstructed and measured (EVATok stage 2).

Block t of a reconstruction depends on the lengths of blocks ≤ t only, so the n**T assignments are the
leaves of a tree and share their prefixes: with 5 levels and 4 blocks 5 + 25 + 125 + 625 = 780 blocks are
encoded and decoded instead of 2,500. The prefixes' keys and values are kept along the path.

Legend: B clips, T blocks, n levels, A = n**T assignments, S segments (children in the tree), P patches.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenizer.attention import KeyValue
from tokenizer.autoencoder import VideoTokenizer
from tokenizer.layers import LayerCache, Plans
from tokenizer.packing import plan_attention
from tokenizer.reward import QualityScale

BlockDistance = Callable[[Tensor, Tensor, int], dict[str, Tensor]]
"""(reconstructed blocks (S, C, f, H, W) in [-1, 1], their clips int64 (S,), block number t) → named distances
(S,) to the original blocks. A clip's distance is the mean over its blocks."""


@dataclass(frozen=True)
class _Nodes:
    """Prefixes of assignments, one a row. clips, index: (S,), the index of the prefix among n**(t+1);
    sums: distances added up over the prefix; rows_1d, rows_3d: where its tokens and patches stand in the caches."""

    clips: Tensor
    index: Tensor
    sums: dict[str, Tensor]
    rows_1d: list[Tensor]
    rows_3d: list[Tensor]


@dataclass(frozen=True)
class _Caches:
    """What has been computed along the path, and how many cached rows it holds."""

    encoder: list[LayerCache] | None
    decoder: list[LayerCache] | None
    num_1d: int
    num_3d: int


class CandidateSearch:
    """Distances of all candidate assignments of a batch of clips.

    Args:
        tokenizer: the proxy tokenizer, in eval mode.
        distance: compares reconstructed blocks with the originals.
        max_segments: how many blocks are evaluated in one batch, which bounds memory.
    """

    def __init__(self, tokenizer: VideoTokenizer, distance: BlockDistance, max_segments: int = 128):
        self.tokenizer = tokenizer
        self.distance = distance
        self.max_segments = max_segments
        self.block_evaluations = 0

    @torch.no_grad()
    def all_distances(self, video: Tensor) -> dict[str, Tensor]:
        """video (B, C, F, H, W) in [-1, 1] → for each named distance (B, A) on the CPU, in index order."""
        root = self._start(video)
        self._results: dict[str, Tensor] = {}
        self._expand(0, root, _Caches(None, None, 0, 0))
        return self._results

    @torch.no_grad()
    def autoregressive(
        self, video: Tensor, preference: float, scale: QualityScale, name: str = "perceptual", beam: int = 1
    ) -> Tensor:
        """The assignment chosen block by block: in each block the `beam` prefixes of highest reward go on.

        The reward is a sum over blocks, so prefixes compare fairly; what a choice does to later blocks is what
        the beam looks at. Evaluates at most T · n · beam blocks a clip: linear in T, for videos of any length.
        video (B, C, F, H, W) in [-1, 1] → lengths int64 (B, T)."""
        if beam < 1:
            raise ValueError(f"beam must be at least 1, got {beam}")
        space = self.tokenizer.assignments
        nodes, caches = self._start(video), _Caches(None, None, 0, 0)
        token_range = (space.levels[-1] - space.levels[0]) * self._num_blocks or 1
        chosen = [torch.empty(0, dtype=torch.int64)] * len(video)
        for block in range(self._num_blocks):
            parents = torch.arange(len(nodes.clips))
            children, caches = self._evaluate(block, nodes, parents, caches)
            quality = -children.sums[name] / self._num_blocks / (scale.d_max - scale.d_min)  # (S,)
            tokens = torch.tensor([len(rows) for rows in children.rows_1d])
            reward = preference * quality - (2 - preference) * tokens / token_range  # (S,), up to a constant
            order = reward.argsort(descending=True)
            kept = torch.cat([order[children.clips[order] == clip][:beam] for clip in range(len(video))])
            level = torch.tensor(space.levels)[kept % len(space.levels)]
            chosen = [torch.cat([chosen[k // len(space.levels)], n[None]]) for k, n in zip(kept.tolist(), level)]
            nodes, caches = _keep(children, caches, kept)
        best = [next(i for i, c in enumerate(nodes.clips.tolist()) if c == clip) for clip in range(len(video))]
        return torch.stack([chosen[i] for i in best])

    def _start(self, video: Tensor) -> _Nodes:
        """Embeds the clips once and returns their empty prefixes."""
        self._patches = self.tokenizer.embed_video(video)  # (B, T, Hp, Wp, De)
        num_clips, self._num_blocks = self._patches.shape[:2]
        self._grid = (self._patches.shape[2], self._patches.shape[3])
        nothing = [torch.empty(0, dtype=torch.int64)] * num_clips
        return _Nodes(torch.arange(num_clips), torch.zeros(num_clips, dtype=torch.int64), {}, nothing, nothing)

    def _expand(self, block: int, parents: _Nodes, caches: _Caches) -> None:
        """Evaluates every child of the parents, in batches, and whatever lies below each batch."""
        levels = self.tokenizer.assignments.levels
        parents_at_once = max(1, self.max_segments // len(levels))
        for chunk in torch.arange(len(parents.clips)).split(parents_at_once):
            children, below = self._evaluate(block, parents, chunk, caches)
            if block + 1 < self._num_blocks:
                self._expand(block + 1, children, below)
            else:
                self._record(children)

    def _evaluate(self, block: int, parents: _Nodes, chunk: Tensor, caches: _Caches) -> tuple[_Nodes, _Caches]:
        """Encodes, quantises, decodes and measures one block of every child of some parents."""
        model, levels = self.tokenizer, torch.tensor(self.tokenizer.assignments.levels)
        parent = chunk.repeat_interleave(len(levels))  # (S,)
        level = torch.arange(len(levels)).repeat(len(chunk))  # (S,)
        lengths, clips = levels[level], parents.clips[parent]
        blocks = torch.full_like(clips, block)
        patches_per_block = self._grid[0] * self._grid[1]
        rows_1d = _with_new_rows(parents.rows_1d, parent, lengths.tolist(), caches.num_1d)
        rows_3d = _with_new_rows(parents.rows_3d, parent, [patches_per_block] * len(parent), caches.num_3d)
        device = self._patches.device

        # Encoder: the patches of all blocks are its context from the first call on; the plan hides later blocks.
        queries = model.make_queries(self._patches[clips.to(device), block], blocks, lengths)  # n rows
        context = model.patch_rows(self._patches if caches.encoder is None else self._patches[:0])
        clip_patches = patches_per_block * self._num_blocks
        seen_patches = [torch.arange(c, c + patches_per_block * (block + 1)) for c in (clips * clip_patches).tolist()]
        plans = Plans(plan_attention(lengths.tolist(), rows_1d), plan_attention(lengths.tolist(), seen_patches))
        encoded, encoder_caches, _ = model.encoder(queries, context, plans.to(device), caches.encoder)  # (n, De)
        vectors = model.quantizer(model.to_code(encoded), with_losses=False).vectors  # (n, c)

        # Decoder: the same for its 3D queries, with the 1D tokens as the growing context.
        tokens = model.embed_codes(vectors, blocks, lengths, self._grid)  # n rows
        first = tokens.values[(lengths.cumsum(0) - lengths).to(device)]  # (S, Dd)
        queries = model.decoder_queries(first, blocks, self._grid)  # S*P rows
        sizes = [patches_per_block] * len(parent)
        plans = Plans(plan_attention(sizes, rows_3d), plan_attention(sizes, rows_1d))
        decoded, decoder_caches, _ = model.decoder(queries, tokens, plans.to(device), caches.decoder)  # (S*P, Dd)
        pixels = model.pixels(decoded, self._grid).clamp(-1, 1)  # (S, C, f, H, W)

        self.block_evaluations += len(parent)
        new = {name: value.double().cpu() for name, value in self.distance(pixels, clips, block).items()}
        sums = {name: value + (parents.sums[name][parent] if block else 0.0) for name, value in new.items()}
        children = _Nodes(clips, parents.index[parent] * len(levels) + level, sums, rows_1d, rows_3d)
        num_1d = caches.num_1d + int(lengths.sum())
        num_3d = caches.num_3d + len(parent) * patches_per_block
        return children, _Caches(encoder_caches, decoder_caches, num_1d, num_3d)

    def _record(self, leaves: _Nodes) -> None:
        for name, sums in leaves.sums.items():
            shape = (self._patches.shape[0], len(self.tokenizer.assignments.levels) ** self._num_blocks)
            table = self._results.setdefault(name, torch.full(shape, torch.nan, dtype=torch.float64))
            table[leaves.clips, leaves.index] = sums / self._num_blocks


def _keep(nodes: _Nodes, caches: _Caches, kept: Tensor) -> tuple[_Nodes, _Caches]:
    """Some of the nodes, and of the caches only the rows that these still need."""
    some = kept.tolist()
    rows_1d, new_1d = _renumbered([nodes.rows_1d[i] for i in some])
    rows_3d, new_3d = _renumbered([nodes.rows_3d[i] for i in some])
    sums = {name: values[kept] for name, values in nodes.sums.items()}
    encoder = [LayerCache(_rows_of(c.self_key_value, rows_1d), c.cross_key_value) for c in caches.encoder or []]
    decoder = [
        LayerCache(_rows_of(c.self_key_value, rows_3d), _rows_of(c.cross_key_value, rows_1d))
        for c in caches.decoder or []
    ]
    return (
        _Nodes(nodes.clips[kept], nodes.index[kept], sums, new_1d, new_3d),
        _Caches(encoder, decoder, len(rows_1d), len(rows_3d)),
    )


def _renumbered(rows: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The rows that occur, and the lists with each row's number among them."""
    occurring = torch.cat(rows).unique()
    return occurring, [torch.searchsorted(occurring, each) for each in rows]


def _rows_of(key_value: KeyValue, rows: Tensor) -> KeyValue:
    rows = rows.to(key_value[0].device)
    return key_value[0][rows], key_value[1][rows]


def _with_new_rows(past: list[Tensor], parent: Tensor, counts: list[int], first_new: int) -> list[Tensor]:
    """Each child's rows: its parent's, then `count` new ones; the new rows of all children stand in order."""
    rows = []
    for p, count in zip(parent.tolist(), counts):
        rows.append(torch.cat([past[p], torch.arange(first_new, first_new + count)]))
        first_new += count
    return rows


@torch.no_grad()
def brute_force_distances(tokenizer: VideoTokenizer, video: Tensor, distance: BlockDistance) -> dict[str, Tensor]:
    """What `CandidateSearch` computes, by reconstructing each clip with every assignment in full:
    the reference it is tested and timed against."""
    step = tokenizer.config.temporal_patch
    results: dict[str, list[Tensor]] = {}
    for lengths in tokenizer.assignments.table():
        tokens = tokenizer.encode(video, lengths.expand(len(video), -1))
        blocks = tokenizer.decode(tokens, tuple(video.shape[-2:])).split(step, dim=2)
        per_block = [distance(block, torch.arange(len(video)), t) for t, block in enumerate(blocks)]
        for name in per_block[0]:
            mean = torch.stack([d[name].double().cpu() for d in per_block]).mean(0)  # (B,)
            results.setdefault(name, []).append(mean)
    return {name: torch.stack(columns, dim=1) for name, columns in results.items()}  # (B, A)
