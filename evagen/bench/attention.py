"""Packed block-causal attention against the padded version with a dense mask, on lengths as a router assigns them.

Both compute the same self-attention of 1D tokens, 6 heads of width 64; tokens per second count the packed query rows
of real tokens.
"""

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from evagen.bench.peak_memory import peak_mb
from evagen.bench.timing import seconds_of
from evagen.kernels.attention import planned_attention
from evagen.tokenizer.packing import PackedLayout, plan_block_causal

LEVELS = (32, 64, 128, 256, 512)
ROUTER_LIKE = torch.tensor([0.30, 0.30, 0.20, 0.13, 0.07])
"""How often each level is chosen for a block after the first; the first gets 256 or 512. Gives about 750 tokens a
clip, the published mean (774 on UCF-101)."""
HEADS, HEAD_WIDTH, NUM_CLIPS, NUM_BLOCKS = 6, 64, 8, 4


def run() -> dict:
    """Keys: speedup_forward, speedup_backward (tokens per second, packed over padded), peak_mb_packed,
    peak_mb_padded, tokens_per_clip, max_abs_difference."""
    torch.manual_seed(0)
    lengths = router_like_lengths(NUM_CLIPS, seed=0)
    layout = PackedLayout(lengths)
    plan = plan_block_causal(layout, layout)
    q, k, v = (torch.randn(layout.num_rows, HEADS, HEAD_WIDTH, requires_grad=True) for _ in range(3))
    padded = PaddedAttention(lengths)

    def packed_forward() -> Tensor:
        return planned_attention(q, k, v, plan)

    def padded_forward() -> Tensor:
        return padded(q, k, v)

    def backward(forward: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(forward().sum(), (q, k, v))

    difference = (packed_forward() - padded_forward()).abs().max().item()
    with torch.no_grad():
        forward = _seconds(packed_forward, padded_forward)
    both = _seconds(backward(packed_forward), backward(padded_forward))
    return {
        "speedup_forward": forward[1] / forward[0],
        "speedup_backward": both[1] / both[0],
        "tokens_per_second_forward": layout.num_rows / forward[0],
        "tokens_per_second_forward_and_backward": layout.num_rows / both[0],
        "peak_mb_packed": peak_mb(backward(packed_forward)),
        "peak_mb_padded": peak_mb(backward(padded_forward)),
        "tokens_per_clip": layout.num_rows / NUM_CLIPS,
        "max_abs_difference": difference,
    }


class PaddedAttention:
    """The usual way: clips padded to the longest, one dense call with a block-causal boolean mask."""

    def __init__(self, lengths: Tensor):
        per_clip = lengths.sum(1)
        longest = int(per_clip.max())
        block = torch.full((len(lengths), longest), -1)
        for i, row in enumerate(lengths):
            block[i, : per_clip[i]] = torch.arange(len(row)).repeat_interleave(row)
        self.valid = block >= 0  # (B, longest)
        sees = (block[:, :, None] >= block[:, None]) & self.valid[:, None]  # (B, longest, longest)
        self.mask = (sees | ~self.valid[:, :, None])[:, None]  # padding rows see everything, to stay finite

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (self._pad(x).transpose(1, 2) for x in (query, key, value))  # (B, h, longest, d)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask).transpose(1, 2)[self.valid]

    def _pad(self, x: Tensor) -> Tensor:
        padded = x.new_zeros(*self.valid.shape, *x.shape[1:])
        padded[self.valid] = x
        return padded


def router_like_lengths(num_clips: int, seed: int) -> Tensor:
    """(B, T) lengths: much for the first block, little for most others."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.tensor(LEVELS)
    lengths = levels[torch.multinomial(ROUTER_LIKE, num_clips * NUM_BLOCKS, True, generator=generator)]
    lengths = lengths.view(num_clips, NUM_BLOCKS)
    lengths[:, 0] = levels[3 + torch.randint(2, (num_clips,), generator=generator)]
    return lengths


def _seconds(*works: Callable[[], object], repeats: int = 9) -> list[float]:
    """The median of each, which take turns: other programs on the machine disturb all alike."""
    times = []
    for turn in range(-2, repeats):  # the first ones warm up
        taken = [seconds_of(work) for work in works]
        if turn >= 0:
            times.append(taken)
    return [statistics.median(each) for each in zip(*times)]
