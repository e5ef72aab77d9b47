"""`evagen fvd`: two folders of videos, of any layout, against each other."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from pydantic import Field
from tqdm.auto import tqdm

from evagen.config import Place, Section
from evagen.data.clips import SkippedClip
from evagen.data.loader import clip_loader
from evagen.errors import UserError
from evagen.eval import PreparedDetector, Protocol, get_protocol
from evagen.models.networks import DetectorName, choose_detector
from evagen.scoring.clips import FileClips, list_fingerprint
from evagen.scoring.distances import Certainty, check_counts, score_features
from evagen.scoring.folders import differences, unequal_counts
from evagen.scoring.record import Clips, Detector, Model, Record, code_version, environment, movement_between
from evagen.scoring.rows import movement_of, scored_rows
from evagen.scoring.subjects import first_clips
from evagen.scoring.videos import incomplete, relabelled


class FolderScoring(Section):
    real: Path
    fake: Path
    protocol: str
    size: int | None = Field(None, ge=1)
    detector: DetectorName = "protocol"
    detector_weights: Place | None = None
    detector_sha256: str | None = None
    download: bool = True
    certainty: Certainty = Certainty()
    batch_size: int = Field(16, ge=1)
    workers: int = Field(0, ge=0)


def main(config: FolderScoring) -> Record:
    """The first clip of every video, prepared and measured as the protocol says. Raises UserError for videos that are
    too short or damaged, before anything is scored."""
    started = time.monotonic()
    protocol = folder_protocol(config)
    sides = [first_clips(folder, protocol) for folder in (config.real, config.fake)]
    remarks = [*differences(sides, protocol), *unequal_counts(sides)]
    device = PartialState().device
    detector = choose_detector(
        protocol, config.detector, config.detector_weights, config.detector_sha256, config.download
    ).to(device)
    real, fake = sides
    check_counts(len(real), len(fake), detector.num_features, protocol, config.certainty)
    of_real, of_fake = (columns_of_all(side, detector, device, config) for side in sides)
    features = (torch.from_numpy(columns["features"]) for columns in (of_real, of_fake))
    score, of_counts = score_features(*features, protocol, detector, False, config.certainty)
    return Record(
        label=config.fake.name,
        protocol=json.loads(json.dumps(protocol.as_dict())),
        score=score,
        real_clips=len(real),
        generated_clips=len(fake),
        detector=Detector(name=detector.name, fingerprint=detector.fingerprint),
        models={"samples": Model(source=str(config.fake), fingerprint=fake.fingerprint())},
        data=Clips(
            root=str(config.real), videos=len(real), clips=list_fingerprint(real.clips), statistics=real.fingerprint()
        ),
        movement=movement_between(movement_of(of_fake), movement_of(of_real)),
        remarks=[*remarks, *of_counts],
        code=code_version(),
        environment=environment(device, 1),
        seconds=round(time.monotonic() - started, 2),
    )


def folder_protocol(config: FolderScoring) -> Protocol:
    """A protocol for folders: frames, network and preprocessing of the named one, under a name that says that the clips
    are not its own. Raises UserError for protocols that need pairs of clips."""
    try:
        protocol = get_protocol(config.protocol)
        protocol = protocol if config.size is None else protocol.changed(size=config.size)
    except ValueError as error:
        raise UserError(str(error)) from error
    if protocol.scored_frames != "generated":
        raise UserError(f"{protocol.name} needs to know which real clip each prediction continues: `evagen benchmark`")
    if protocol.frames_per_second is not None:
        raise UserError(f"{protocol.name} resamples videos in time, and folders are compared as they are")
    return relabelled(protocol, "folders", task="generation", num_real=None, num_generated=None)


def columns_of_all(
    clips: FileClips, detector: PreparedDetector, device: torch.device, config: FolderScoring
) -> dict[str, np.ndarray]:
    """Columns of the rows of all clips (`scoring/rows.py`). Raises UserError, which names all of them, where clips
    cannot be decoded."""
    batches = [
        range(len(clips))[first : first + config.batch_size] for first in range(0, len(clips), config.batch_size)
    ]
    rows: list[dict[str, Any]] = []
    skipped: list[SkippedClip] = []
    loader = clip_loader(clips, batches, config.workers)  # type: ignore[arg-type]
    for batch in tqdm(loader, desc="features", unit="batch", dynamic_ncols=True):
        skipped += batch.skipped
        if batch and not skipped:
            rows += scored_rows(batch, detector, batch.video.to(device))
    if skipped:
        raise incomplete(clips.protocol, skipped, len(clips), "videos", "Replace or remove them")
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def describe(record: Record) -> str:
    """A record for the terminal."""
    score = record.score
    lines = [
        f"{score.name} {score.value:.4g}, {score.level:.0%} interval {score.low:.4g} to {score.high:.4g}",
        *([f"for infinitely many videos {score.extrapolated:.4g}"] if score.extrapolated is not None else []),
        f"kernel distance (KVD) {score.kernel_distance:.4g}",
        f"{record.real_clips:,} real and {record.generated_clips:,} generated videos",
        f"detector {record.detector.name}, {record.detector.fingerprint[:16]}",
        f"protocol {record.protocol['name']}",
        *(f"note: {remark}" for remark in record.remarks),
    ]
    return "\n".join(lines)
