"""Long videos: memory and speed of encoding, decoding and generating ten minutes against ten seconds, streamed against
whole, and the search block by block over more and more blocks.

Each piece of work runs in a process of its own, on models with random weights of the quickstart's size, through what
the commands use: a video file is read frame by frame into tokens, and tokens become a video file.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from evagen.bench.search import BEAM, block_distance, measure_autoregressive
from evagen.bench.shapes import moving_shapes, train_tiny_tokenizer
from evagen.data.video_writer import write_video
from evagen.eval import PerceptualDistance
from evagen.kernels.levels import video_to_frames
from evagen.kernels.packed_linear import pack_linears
from evagen.tokenizer import CandidateSearch, RewardScale, TokenizerStream, VideoTokenizer

SECONDS = {"10s": 10, "10min": 600}
FRAMES_PER_SECOND = 15
WORK = ("encode", "decode", "generate")
BLOCKS = (4, 15, 30, 60)


def run() -> dict[str, Any]:
    """Keys: for each of encode, decode and generate peak_rss_mb_10s, peak_rss_mb_10min and their memory_ratio,
    frames_per_second_first and _last (of the ten minutes' first and last ten seconds) and their speed_ratio; streamed:
    codes_equal, and max_abs_difference of frames, against the whole minute at once; search: what `bench search`
    says of the autoregressive one, at four blocks, and seconds_by_blocks."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds in SECONDS.items():
            shapes = video_to_frames(moving_shapes(1, seed=0)[0])
            num_frames = seconds * FRAMES_PER_SECOND
            frames = (shapes[(i // 16 * 7 + i % 16) % 16] for i in range(num_frames))
            write_video(Path(folder) / f"{name}.avi", frames, FRAMES_PER_SECOND)
        for work in WORK:
            short, long = (_in_a_process(work, Path(folder), name) for name in SECONDS)
            found[work] = {
                "peak_rss_mb_10s": short["peak_rss_mb"],
                "peak_rss_mb_10min": long["peak_rss_mb"],
                "memory_ratio": long["peak_rss_mb"] / short["peak_rss_mb"],
                "frames_per_second_first": long["first"],
                "frames_per_second_last": long["last"],
                "speed_ratio": long["last"] / long["first"],
            }
    perceptual = PerceptualDistance()
    tokenizer = pack_linears(train_tiny_tokenizer(perceptual, memory_blocks=3))
    return {**found, "streamed": _streamed(tokenizer), "search": _search(tokenizer, perceptual)}


def _in_a_process(work: str, folder: Path, name: str) -> dict[str, float]:
    command = [sys.executable, "-m", "evagen.bench.longvideo_process", work, str(folder), name, str(SECONDS[name])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _streamed(tokenizer: VideoTokenizer) -> dict[str, Any]:
    """A minute that goes by, in pieces, against the whole at once."""
    step, num_blocks = tokenizer.config.temporal_patch, 60 * FRAMES_PER_SECOND // tokenizer.config.temporal_patch
    video = torch.cat([moving_shapes(1, seed)[0] for seed in range(-(-num_blocks * step // 16))], 1)
    video = video[:, : num_blocks * step]
    lengths = torch.tensor(tokenizer.config.levels)[torch.arange(num_blocks) * 7 % len(tokenizer.config.levels)]
    whole = tokenizer.encode(video[None], lengths[None])
    frames = tokenizer.decode(whole, (video.shape[2], video.shape[3]))[0]
    stream, codes, pieces = TokenizerStream(tokenizer), [], []
    for some in torch.arange(num_blocks).split(7):
        first, last = int(some[0]), int(some[-1]) + 1
        codes.append(stream.encode(video[:, first * step : last * step], lengths[first:last]))
        pieces.append(stream.decode(codes[-1], lengths[first:last], (video.shape[2], video.shape[3])))
    return {
        "blocks": num_blocks,
        "codes_equal": torch.equal(torch.cat(codes), whole.codes),
        "max_abs_difference": (torch.cat(pieces, 1) - frames).abs().max().item(),
    }


def _search(tokenizer: VideoTokenizer, perceptual: PerceptualDistance) -> dict[str, Any]:
    video = moving_shapes(4, seed=0)
    distance = block_distance(perceptual, video)
    every = CandidateSearch(tokenizer, distance).all_distances(video)["perceptual"]  # (B, A)
    scale = RewardScale.of(every, tokenizer.assignments)
    measured = measure_autoregressive(CandidateSearch(tokenizer, distance), video, every, scale)
    seconds = {}
    long = torch.cat([moving_shapes(1, seed) for seed in range(max(BLOCKS) // 4)], dim=2)
    for blocks in (BLOCKS[0], *BLOCKS):  # the first one warms up
        piece = long[:, :, : blocks * tokenizer.config.temporal_patch]
        started = time.perf_counter()
        CandidateSearch(tokenizer, block_distance(perceptual, piece)).autoregressive(piece, 1.2, scale, beam=BEAM)
        seconds[blocks] = time.perf_counter() - started
    return {**measured, "seconds_by_blocks": seconds}
