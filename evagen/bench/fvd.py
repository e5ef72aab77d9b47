"""The Fréchet distance at the size of a paper's score: 10,000 clips of 400 features a side.

Memory is measured in processes of their own, which make their features batch by batch and keep none. Clips for the
detector and for the way from files to prepared clips are made here: UCF-like XviD files of 320×240.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from evagen.bench.shapes import moving_shapes
from evagen.bench.timing import seconds_of
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.eval import FrechetVideoDistance, GaussianStatistics, PreparedDetector, frechet_distance, get_protocol
from evagen.kernels.levels import video_to_frames
from evagen.models.networks import choose_detector
from evagen.scoring.clips import FileClips
from evagen.scoring.subjects import first_clips

NUM_CLIPS, NUM_FEATURES, BATCH = 10_000, 400, 50
DECODED_FILES, DETECTED_CLIPS, REPEATS = 16, 4, 3
PROTOCOL = "larp-ucf101-class2video"


class NoDetector:
    """For a metric that is given features."""

    name, fingerprint, num_features = "made up", "0", NUM_FEATURES

    def __call__(self, videos: Tensor) -> Tensor:
        raise TypeError(f"this distance is measured of features alone, not of clips {tuple(videos.shape)}")


def run() -> dict:
    """Keys: seconds_distance (on one core), seconds_statistics (of the statistics of both sides, with
    making up the features), peak_rss_mb_1k and _10k
    (of a process that measures so many clips a side), rss_mb_before (of the same process before the first), distance,
    two_process_difference (relative), clips_per_second (of the detector), detector, clips_per_second_decode (from
    files to prepared clips, in one process), threads."""
    few, many = measure(1_000), measure(NUM_CLIPS)
    shared = measure(NUM_CLIPS, processes=2)
    detector = nearest_detector()
    return {
        "seconds_distance": seconds_of_distance(),
        "seconds_statistics": many["seconds"],
        "peak_rss_mb_1k": few["peak_rss_mb"],
        "peak_rss_mb_10k": many["peak_rss_mb"],
        "rss_mb_before": many["rss_mb_before"],
        "distance": many["distance"],
        "two_process_difference": abs(many["distance"] - shared["distance"]) / many["distance"],
        "clips_per_second": detected_per_second(detector),
        "detector": detector.name,
        "clips_per_second_decode": decoded_per_second(),
        "threads": torch.get_num_threads(),
    }


def made_up_features(batch: int, real: bool) -> Tensor:
    """Float32 (BATCH, NUM_FEATURES) of one batch, of two Gaussians that are not the same."""
    generator = torch.Generator().manual_seed(2 * batch + real)
    scale = torch.linspace(0.5, 2, NUM_FEATURES)
    return torch.randn(BATCH, NUM_FEATURES, generator=generator) * scale + (0.1 if real else 0.0)


def measure(num_clips: int, processes: int = 1) -> dict:
    """Figures of the first of so many processes that share the clips."""
    with tempfile.TemporaryDirectory() as folder:
        commands = [
            [sys.executable, "-m", "evagen.bench.fvd_process", str(num_clips), str(rank), str(processes), folder]
            for rank in range(processes)
        ]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
        outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("a process of the benchmark failed, see above")
    return json.loads(outputs[0].splitlines()[-1])


def feed(metric: FrechetVideoDistance, num_clips: int, rank: int, processes: int) -> None:
    """One process' share of the batches of both sides."""
    for batch in range(rank, num_clips // BATCH, processes):
        for real in (True, False):
            metric.update(made_up_features(batch, real), real=real)


def seconds_of_distance() -> float:
    """On one core, the best of several."""
    sides = [
        GaussianStatistics.merged([GaussianStatistics.of(made_up_features(batch, real)) for batch in range(40)])
        for real in (True, False)
    ]
    means_and_covariances = [value for side in sides for value in (side.mean, side.covariance())]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return min(seconds_of(lambda: frechet_distance(*means_and_covariances)) for _ in range(REPEATS))
    finally:
        torch.set_num_threads(threads)


def nearest_detector() -> PreparedDetector:
    """I3D where its file is on this machine, else the offline network."""
    protocol = get_protocol(PROTOCOL)
    try:
        return choose_detector(protocol, "protocol", None, None, download=False)
    except UserError:
        return choose_detector(protocol, "offline", None, None, download=False)


def detected_per_second(detector: PreparedDetector) -> float:
    """Clips of 16×128×128, the best of several batches."""
    clips = torch.nn.functional.interpolate(moving_shapes(DETECTED_CLIPS, seed=0), (16, 128, 128))
    with torch.no_grad():
        return DETECTED_CLIPS / min(seconds_of(lambda: detector(clips)) for _ in range(REPEATS))


def decoded_per_second() -> float:
    """Clips from files to 16×128×128 floats, the best of several passes."""
    shapes = moving_shapes(DECODED_FILES, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        for number, clip in enumerate(torch.nn.functional.interpolate(shapes, (16, 240, 320))):
            write_video(Path(folder, f"{number}.avi"), video_to_frames(clip), fps=25)
        clips = first_clips(Path(folder), get_protocol(PROTOCOL))
        return len(clips) / min(seconds_of(lambda: _all(clips)) for _ in range(REPEATS))


def _all(clips: FileClips) -> None:
    for number in range(len(clips)):
        clips[number]
