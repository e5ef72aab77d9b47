"""Stage 2's search against brute force, on a tiny tokenizer trained here; and the autoregressive search.

Brute force reconstructs every clip with each of the 625 assignments in full. It is given the batch size that is
fastest here, the same distance and the same packed weights, and runs in turns with the search, so that other programs
on the machine disturb both alike.
"""

import torch
from torch import Tensor

from evagen.bench.shapes import moving_shapes, train_tiny_tokenizer
from evagen.bench.timing import timed
from evagen.eval import PerceptualDistance
from evagen.kernels.packed_linear import pack_linears
from evagen.tokenizer import (
    CandidateSearch,
    RewardScale,
    VideoTokenizer,
    best_assignment,
    brute_force_distances,
    proxy_reward,
)
from evagen.tokenizer.search import BlockDistance

NUM_CLIPS, TURNS, BEAM = 4, 3, 5
MAX_SEGMENTS = 80
"""Of the search; from 40 to 320 make no difference beyond noise."""
BLOCK_FRAMES = 4
CANDIDATES_AT_ONCE = (1, 2, 4, 8)
PREFERENCES = (0.8, 1.2, 1.6)


def run() -> dict:
    """Keys: seconds_brute_force, seconds_shared (for all clips), speedup, max_abs_difference (of a distance),
    argmax_equal, clips, brute_force_seconds_per_clip (by clips in a batch, from a few candidates),
    block_evaluations_per_clip and those of brute force, and autoregressive.{block_evaluation_ratio, reward_ratio,
    reward_ratio_lowest, reward_ratio_of_one_for_all, seconds, beam}. The ratio of evaluations is to brute force's; that
    of rewards is (R - worst) / (best - worst) over all candidates, averaged over clips and over the preferences 0.8,
    1.2 and 1.6. The trivial answer is one assignment for all clips: the best has reward_ratio_of_one_for_all."""
    perceptual = PerceptualDistance()
    seconds_training, model = timed(lambda: pack_linears(train_tiny_tokenizer(perceptual)))
    video = moving_shapes(NUM_CLIPS, seed=0)  # no seed of the training
    distance = block_distance(perceptual, video)
    per_clip = _brute_force_by_batch(model, video, distance)
    at_once = min(per_clip, key=lambda clips: per_clip[clips]) // NUM_CLIPS
    search = CandidateSearch(model, distance, MAX_SEGMENTS)
    slices, seconds_brute, seconds_shared = [], 0.0, 0.0
    for candidates in model.assignments.table().chunk(TURNS):
        seconds, found = timed(lambda some=candidates: brute_force_distances(model, video, distance, some, at_once))
        slices.append(found["perceptual"])
        seconds_brute += seconds
        seconds, shared = timed(lambda: search.all_distances(video))
        seconds_shared += seconds / TURNS
    brute, shared = torch.cat(slices, dim=1), shared["perceptual"]  # (B, A) each
    scale = RewardScale.of(brute, model.assignments)
    best = [[best_assignment(d, w_q, model.assignments, scale) for w_q in PREFERENCES] for d in (brute, shared)]
    return {
        "seconds_brute_force": seconds_brute,
        "seconds_shared": seconds_shared,
        "speedup": seconds_brute / seconds_shared,
        "max_abs_difference": (brute - shared).abs().max().item(),
        "argmax_equal": all(torch.equal(a, b) for a, b in zip(*best)),
        "clips": NUM_CLIPS,
        "brute_force_seconds_per_clip": per_clip,
        "block_evaluations_per_clip": search.block_evaluations / TURNS / NUM_CLIPS,
        "block_evaluations_per_clip_brute_force": brute.shape[1] * model.assignments.num_blocks,
        "distance_at_shortest": scale.distance_zero,
        "distance_at_longest": scale.distance_zero - scale.distance_unit,
        "seconds_training": seconds_training,
        "autoregressive": measure_autoregressive(CandidateSearch(model, distance, MAX_SEGMENTS), video, brute, scale),
    }


def block_distance(perceptual: PerceptualDistance, video: Tensor) -> BlockDistance:
    """The perceptual distance of the first frame of each block, as `CandidateSearch` wants it."""
    step = BLOCK_FRAMES
    with torch.no_grad():
        references = [perceptual.features(video[:, :, t]) for t in range(0, video.shape[2], step)]

    def distance(reconstruction: Tensor, clips: Tensor, t: int) -> dict[str, Tensor]:
        reference = [feature[clips] for feature in references[t]]  # S C h w each
        return {
            "perceptual": perceptual.distance_from_features(perceptual.features(reconstruction[:, :, 0]), reference)
        }

    return distance


def _brute_force_by_batch(model: VideoTokenizer, video: Tensor, distance: BlockDistance) -> dict[int, float]:
    """Seconds a clip that brute force would take with so many clips reconstructed at once, from a few candidates."""
    candidates = model.assignments.table()[::50][: max(CANDIDATES_AT_ONCE) * 4]
    found: dict[int, float] = {}
    for _ in range(2):  # the first round warms up
        for at_once in CANDIDATES_AT_ONCE:
            seconds, _ = timed(lambda n=at_once: brute_force_distances(model, video, distance, candidates, n))
            found[at_once * len(video)] = seconds / len(video) / len(candidates) * model.assignments.count
    return found


def measure_autoregressive(search: CandidateSearch, video: Tensor, distances: Tensor, scale: RewardScale) -> dict:
    """What the search block by block costs and reaches, beside all candidates. search: none of whose evaluations are
    counted yet; distances: (B, A) of all candidates."""
    space = search.tokenizer.assignments
    seconds, ratios, of_one = 0.0, [], []
    for w_q in PREFERENCES:
        spent, lengths = timed(lambda w_q=w_q: search.autoregressive(video, w_q, scale, beam=BEAM))
        reward = proxy_reward(distances, w_q, space, scale)  # (B, A)
        worst, best = reward.aminmax(dim=1, keepdim=True)  # (B, 1) each
        share = (reward - worst) / (best - worst)  # (B, A)
        ratios.append(share.gather(1, space.index_of(lengths)[:, None]))
        of_one.append(share.mean(0).max())
        seconds += spent / len(PREFERENCES)
    evaluations = search.block_evaluations / len(PREFERENCES)
    return {
        "block_evaluation_ratio": evaluations / (space.count * space.num_blocks * len(video)),
        "reward_ratio": torch.stack(ratios).mean().item(),
        "reward_ratio_lowest": torch.stack(ratios).min().item(),
        "reward_ratio_of_one_for_all": torch.stack(of_one).mean().item(),
        "seconds": seconds,
        "beam": BEAM,
    }
