"""The rows of a clip table that scores are made of: each clip's number, its features, and how much moves in it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from evagen.data.loader import ClipBatch
from evagen.errors import UserError
from evagen.eval import PreparedDetector, features_of, frame_change, moving_share

MOVEMENT = {"frame_change": frame_change, "moving_share": moving_share}
"""Columns beside `features`."""


def scored_rows(batch: ClipBatch, detector: PreparedDetector, videos: Tensor) -> list[dict[str, Any]]:
    """A row for each clip of a batch. videos: as they are scored, B C F S S in [-1, 1]. Raises UserError for clips that
    the detector cannot take, or makes nothing finite of."""
    try:
        with torch.no_grad():
            features = features_of(detector, videos).float().cpu().numpy()  # B D
    except ValueError as error:
        raise UserError(f"these clips cannot be scored: {error}") from error
    movement = {name: measure(videos).tolist() for name, measure in MOVEMENT.items()}
    return [
        {"number": int(number), "features": features[i], **{name: values[i] for name, values in movement.items()}}
        for i, number in enumerate(batch.index)
    ]


def movement_of(columns: Any) -> Tensor:
    """float64 (N, 2) from a table in numpy format, in the order of `MOVEMENT`."""
    return torch.from_numpy(np.stack([np.asarray(columns[name][:], np.float64) for name in MOVEMENT], axis=1))
