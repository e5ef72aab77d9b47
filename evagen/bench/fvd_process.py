"""One process of `evagen.bench.fvd`: python -m evagen.bench.fvd_process CLIPS RANK PROCESSES FOLDER"""

import json
import sys
import time
from pathlib import Path

import psutil
import torch.distributed

from evagen.bench.fvd import NoDetector, feed
from evagen.eval import FrechetVideoDistance
from evagen.kernels.memory import peak_memory


def main(num_clips: int, rank: int, processes: int, folder: Path) -> dict:
    """Measures so many clips a side, shared by the processes, which meet in the folder."""
    if processes > 1:
        store = torch.distributed.FileStore(str(folder / "rendezvous"), processes)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    metric = FrechetVideoDistance(NoDetector())
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    feed(metric, num_clips, rank, processes)
    distance = metric.compute().item()
    seconds = time.perf_counter() - start
    if processes > 1:
        torch.distributed.destroy_process_group()
    return {
        "distance": distance,
        "seconds": seconds,
        "rss_mb_before": before / 1e6,
        "peak_rss_mb": peak_memory() / 1e6,
    }


if __name__ == "__main__":
    print(json.dumps(main(*map(int, sys.argv[1:4]), Path(sys.argv[4]))))
