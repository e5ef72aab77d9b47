"""Stage 2: search with shared prefixes against reconstructing every candidate in full, and autoregressive search."""

import time

import torch
from torch import Tensor

from tokenizer import (
    CandidateSearch,
    QualityScale,
    VideoTokenizer,
    best_assignment,
    brute_force_distances,
    proxy_reward,
)

PREFERENCE, BEAM = 1.2, 3


def run() -> dict:
    """Keys: seconds_brute_force, seconds_shared, speedup, max_abs_difference, argmax_equal, block_evaluations,
    autoregressive.{block_evaluation_ratio, reward_ratio, seconds}."""
    torch.manual_seed(0)
    model = VideoTokenizer(
        levels=[4, 8, 16, 32, 64], resolution=64, encoder_width=128, encoder_depth=3, encoder_heads=4,
        decoder_width=128, decoder_depth=4, decoder_heads=4, codebook_size=512, code_width=8,
    )  # fmt: skip
    train_briefly(model)
    video = moving_squares(num_clips=2)
    distance = block_mse(video)
    CandidateSearch(model, distance).all_distances(video[:1, :, :4])  # warm-up on one block
    start = time.perf_counter()
    search = CandidateSearch(model, distance)
    shared = search.all_distances(video)["mse"]
    seconds_shared = time.perf_counter() - start
    start = time.perf_counter()
    brute = brute_force_distances(model, video, distance)["mse"]
    seconds_brute = time.perf_counter() - start
    space, scale = model.assignments, QualityScale.of(brute)
    best = [best_assignment(d, PREFERENCE, space, scale) for d in (shared, brute)]
    return {
        "seconds_brute_force": seconds_brute,
        "seconds_shared": seconds_shared,
        "speedup": seconds_brute / seconds_shared,
        "max_abs_difference": (shared - brute).abs().max().item(),
        "argmax_equal": bool(torch.equal(*best)),
        "block_evaluations_per_clip": search.block_evaluations / len(video),
        "autoregressive": _autoregressive(model, video, distance, brute, scale),
    }


def _autoregressive(model: VideoTokenizer, video: Tensor, distance, brute: Tensor, scale: QualityScale) -> dict:
    """The block-by-block search: its share of brute force's block evaluations, and of the reward range from the
    worst to the best candidate."""
    search, start = CandidateSearch(model, distance), time.perf_counter()
    lengths = search.autoregressive(video, PREFERENCE, scale, name="mse", beam=BEAM)
    seconds = time.perf_counter() - start
    reward = proxy_reward(brute, PREFERENCE, model.assignments, scale)  # (B, A)
    reached = reward.gather(1, model.assignments.index_of(lengths)[:, None])[:, 0]
    low, high = reward.min(1).values, reward.max(1).values
    brute_evaluations = len(model.assignments) * model.assignments.num_blocks * len(video)
    return {
        "beam": BEAM,
        "seconds": seconds,
        "block_evaluation_ratio": search.block_evaluations / brute_evaluations,
        "reward_ratio": ((reached - low) / (high - low)).mean().item(),
    }


def moving_squares(num_clips: int, seed: int = 0) -> Tensor:
    """Clips of 16×64×64 with squares that move over a plain ground: (B, 3, 16, 64, 64) in [-1, 1]."""
    random = torch.Generator().manual_seed(seed)
    video = torch.rand(num_clips, 3, 1, 1, 1, generator=random).expand(-1, -1, 16, 64, 64).clone()
    for clip in video:
        for _ in range(3):
            place, speed = torch.rand(2, generator=random) * 48, torch.randn(2, generator=random) * 2
            colour = torch.rand(3, 1, 1, generator=random)
            for t in range(16):
                y, x = (place + t * speed).clamp(0, 52).int().tolist()
                clip[:, t, y : y + 12, x : x + 12] = colour
    return video * 2 - 1


def block_mse(video: Tensor):
    """The mean squared error of reconstructed blocks, as `CandidateSearch` wants it."""
    blocks = video.split(4, dim=2)
    return lambda reconstruction, clips, t: {"mse": (reconstruction - blocks[t][clips]).square().flatten(1).mean(1)}


def train_briefly(model: VideoTokenizer, steps: int = 60) -> None:
    """Enough training that more tokens give better pictures, without which a search has nothing to find."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        video = moving_squares(4, seed=step + 1)
        output = model.train()(video, model.assignments.random(4, torch.Generator().manual_seed(step)))
        loss = (output.reconstruction - video).square().mean() + output.quantizer_losses["codebook"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
