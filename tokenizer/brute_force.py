"""Every candidate assignment of a clip, reconstructed in full: what `search.CandidateSearch` is tested and timed
against."""

import torch
from torch import Tensor

from evagen.tokenizer.autoencoder import VideoTokenizer
from evagen.tokenizer.search import BlockDistance


@torch.no_grad()
def brute_force_distances(
    tokenizer: VideoTokenizer,
    video: Tensor,
    distance: BlockDistance,
    candidates: Tensor | None = None,
    candidates_at_once: int = 1,
) -> dict[str, Tensor]:
    """What `CandidateSearch` computes, the slow way. video (B, C, F, H, W) in [-1, 1], candidates int64 (A', T), all if
    None → (B, A') each. `candidates_at_once` of them are reconstructed for all clips in one batch."""
    table = tokenizer.assignments.table() if candidates is None else candidates
    results: dict[str, list[Tensor]] = {}
    for some in table.split(candidates_at_once):
        clips = torch.arange(len(video), device=video.device).repeat(len(some))  # (a·B,)
        tokens = tokenizer.encode(video[clips], some.repeat_interleave(len(video), dim=0))
        blocks = tokenizer.decode(tokens, tuple(video.shape[-2:])).split(tokenizer.config.temporal_patch, dim=2)
        per_block = [distance(block, clips, t) for t, block in enumerate(blocks)]
        for name in per_block[0]:
            mean = torch.stack([d[name].double().cpu() for d in per_block]).mean(0)  # (a·B,)
            results.setdefault(name, []).append(mean.view(len(some), len(video)))
    return {name: torch.cat(rows).T for name, rows in results.items()}  # (B, A')
