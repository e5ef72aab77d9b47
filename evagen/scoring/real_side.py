"""Features of a protocol's real clips, computed once and kept for every model that is scored against them.

A cache entry is a safetensors file: `features` float32 (N, D), `count`, `mean` and `scatter` of them as
`eval.GaussianStatistics` has them, and `movement` float64 (N, 2), how much moves in each clip (`rows.py`). Its header
says what it is made from, and its name is a checksum of that: the clips, their files' sizes and times of change, how
frames are prepared, the detector, and what computes (versions, device).
"""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from evagen import __version__
from evagen.data.clip_table import fill_table, open_table
from evagen.data.clips import SkippedClip
from evagen.data.loader import ClipBatch
from evagen.eval import GaussianStatistics, PreparedDetector, Protocol
from evagen.kernels.files import atomic_write, cache_folder
from evagen.run import device_name
from evagen.scoring.clips import FileClips, digest
from evagen.scoring.rows import MOVEMENT, movement_of, scored_rows


@dataclass(frozen=True)
class RealSide:
    """features: float32 (N, D), of the clips that could be decoded; movement: float64 (N, 2), how much moves in them;
    numbers: which these are; unreadable: the others; key: what all of it follows from; table: where the rows are, but
    for those of the cache."""

    features: Tensor
    movement: Tensor
    numbers: list[int]
    unreadable: list[SkippedClip]
    key: str
    table: Path


def default_cache() -> Path:
    """`statistics` in the cache folder."""
    return cache_folder() / "statistics"


def made_from(clips: FileClips, detector: PreparedDetector, batch_size: int, device: torch.device) -> dict[str, Any]:
    """All that the features of real clips follow from, as JSON values."""
    protocol = clips.protocol
    only_predicted = protocol.scored_frames == "predicted-only"
    return {
        "clips": clips.fingerprint(),
        "frames": asdict(protocol.frames),
        "num_frames": protocol.num_frames,
        "left_out_frames": protocol.given_frames if only_predicted else 0,
        "network_input": asdict(protocol.network_input),
        "detector": f"{detector.name} {detector.fingerprint}",
        "movement": list(MOVEMENT),
        "batch_size": batch_size,
        "computed_by": f"evagen {__version__}, torch {torch.__version__} {device_name(device)}, av {av.__version__}",
    }


def real_side(
    clips: FileClips,
    detector: PreparedDetector,
    accelerator: Accelerator,
    out: Path,
    cache: Path,
    batch_size: int,
    num_workers: int = 0,
    save_seconds: float = 60,
) -> RealSide:
    """Reads the features from the cache or computes them, in any number of processes; to be called by all alike. What
    is unfinished lies in `out`. A set with clips that cannot be decoded is not cached."""
    about = made_from(clips, detector, batch_size, accelerator.device)
    key = digest(about)
    entry, table = cache / f"{key}.safetensors", out / f"real-{key}"
    found = [None if table.exists() or not accelerator.is_main_process else _read(entry)]
    broadcast_object_list(found)  # processes that look for themselves may look at different times
    if found[0] is not None:
        return RealSide(*found[0], list(range(len(clips))), [], key, table)
    fill_table(
        table, clips, lambda batch: _rows(batch, clips.protocol, detector, accelerator.device), about,
        accelerator, batch_size, num_workers, save_seconds,
    )  # fmt: skip
    rows, found_about = open_table(table, "features of real clips", "benchmark")
    columns = rows.with_format("numpy")
    features = torch.from_numpy(np.stack(list(columns["features"][:])).astype(np.float32))
    movement = movement_of(columns)
    if accelerator.is_main_process and not found_about.skipped:
        _write(entry, features, movement, about)
    return RealSide(features, movement, columns["number"][:].tolist(), found_about.skipped, key, table)


def _rows(batch: ClipBatch, protocol: Protocol, detector: PreparedDetector, device: torch.device) -> list[dict]:
    video = batch.video.to(device)  # B C F S S
    return scored_rows(batch, detector, protocol.scored(video, video)[1])


def _read(entry: Path) -> tuple[Tensor, Tensor] | None:
    """Features and movement of a cache entry; None where there is none, or a damaged one."""
    try:
        tensors = load_file(entry)
        statistics = GaussianStatistics.from_tensors(tensors)
        features, movement = tensors["features"], tensors["movement"]
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return (features, movement) if int(statistics.count) == len(features) == len(movement) else None


def _write(entry: Path, features: Tensor, movement: Tensor, about: dict[str, Any]) -> None:
    """The file appears under its name only when it is complete; without a place to write there is none."""
    tensors = {"features": features, "movement": movement, **GaussianStatistics.of(features).as_tensors()}
    try:
        with atomic_write(entry) as unfinished:
            save_file(tensors, unfinished, {"evagen": json.dumps(about)})
    except (OSError, SafetensorError) as error:
        logging.getLogger(__name__).warning("features of real clips are not kept in %s: %s", entry.parent, error)
