"""Scores a tokenizer, a generator or a folder of videos by a named protocol.

evagen benchmark PROTOCOL data.root=… tokenizer=… router=… run.out=…       reconstruction
evagen benchmark PROTOCOL data.root=… tokenizer=… generator=… run.out=…    generation
evagen benchmark PROTOCOL data.root=… samples=FOLDER run.out=…             anybody's videos

Leaves `record.json`, all that is needed to get the number again, and `table.md`, its line in a table. Features are kept
clip by clip, so any number of processes gives the same score, and a stopped run goes on where it was. A score is
computed when all clips are there, never of a part of them.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evagen.config import load_config, save_config, with_overrides
from evagen.data.clip_table import check_rows, fill_table, open_table
from evagen.errors import UserError
from evagen.eval import get_protocol, motion_explained
from evagen.kernels.files import write_whole
from evagen.run import PATIENCE, start_accelerator
from evagen.scoring.clips import FileClips, list_fingerprint
from evagen.scoring.config import Benchmark
from evagen.scoring.distances import check_counts, score_features
from evagen.scoring.real_side import RealSide, default_cache, real_side
from evagen.scoring.record import (
    Clips,
    Detector,
    ReconstructionQuality,
    Record,
    Tokens,
    code_version,
    environment,
    movement_between,
    read_record,
    write_record,
)
from evagen.scoring.rows import movement_of
from evagen.scoring.setup import Models, check_inputs, detector_of, protocol_of, real_clips, subject_of
from evagen.scoring.subjects import Reconstruction
from evagen.scoring.table import compare
from evagen.scoring.videos import RealVideos, list_videos, without_missing, without_unreadable
from evagen.tokenizer import CodebookUsage, VideoTokenizer


def main(config: Benchmark) -> Path:
    """Scores what `config` names; returns the run folder. Raises UserError for everything that would make the score
    another one than its name says."""
    started, out = time.monotonic(), config.run.out
    protocol, options = protocol_of(config)
    check_inputs(config, protocol)
    # Without a claim: `check_rows` is one, and how certain or complete a score of these rows has to be may change.
    accelerator = start_accelerator(config, out, patience=PATIENCE, claim=False)
    models = Models.load(config, protocol, accelerator.device)
    videos = list_videos(protocol, config.data)
    protocol = without_missing(protocol, videos, config.accept_incomplete)
    clips = FileClips(protocol, real_clips(protocol, videos), videos.files)
    detector = detector_of(config, protocol).to(accelerator.device)
    # What does not fit is told before the real clips are measured, which takes long.
    subject = subject_of(config, models, clips, videos, options, detector, accelerator.device)
    check_counts(len(clips), len(subject.clips), detector.num_features, protocol, config.certainty)
    real = real_side(
        clips, detector, accelerator, out, config.cache or default_cache(),
        config.batch_size, config.run.num_workers, config.save_seconds,
    )  # fmt: skip
    if real.unreadable:
        protocol = without_unreadable(protocol, real.unreadable, len(clips), config.accept_incomplete, real.table)
        clips = FileClips(protocol, [clips.clips[number] for number in real.numbers], videos.files)
        subject = subject_of(config, models, clips, videos, options, detector, accelerator.device)
    about = {"protocol": protocol.name, "real": real.key, "detector": f"{detector.name} {detector.fingerprint}"}
    about |= subject.about
    check_rows(out / "scored", subject.clips, about, accelerator, config.batch_size)
    earlier = _start_anew(out, config) if accelerator.is_main_process else None
    fill_table(
        out / "scored", subject.clips, subject.rows, about, accelerator, config.batch_size,
        config.run.num_workers, config.save_seconds,
    )  # fmt: skip
    if accelerator.is_main_process:
        rows = read_rows(out, len(subject.clips))
        paired = protocol.task in ("reconstruction", "frame-prediction")
        generated = column(rows, "features")
        score, remarks = score_features(real.features, generated, protocol, detector, paired, config.certainty)
        record = Record(
            label=config.label or Path(str(config.samples or config.generator or config.tokenizer)).name,
            protocol=json.loads(json.dumps(protocol.as_dict())),
            score=score,
            real_clips=len(real.features),
            generated_clips=len(generated),
            detector=Detector(name=detector.name, fingerprint=detector.fingerprint),
            models=models.as_record(config, subject),
            lengths=str(models.assign) if models.assign else None,
            sampling=vars(options) if models.generator else None,
            seed=config.run.seed if models.generator else None,
            tokens=token_use(rows, models.tokenizer) if models.tokenizer else None,
            reconstruction=quality_of(rows, subject) if isinstance(subject, Reconstruction) else None,
            movement=movement_between(movement_of(rows), real.movement),
            data=_clips_of(config, videos, clips, real),
            remarks=remarks,
            code=code_version(),
            environment=environment(accelerator.device, accelerator.num_processes, subject.precision),
            seconds=earlier or round(time.monotonic() - started, 2),
        )  # fmt: skip
        _publish(out, record, [*videos.remarks, *remarks])
    accelerator.wait_for_everyone()
    return out


def _clips_of(config: Benchmark, videos: RealVideos, clips: FileClips, real: RealSide) -> Clips:
    return Clips(
        root=str(config.data.root), videos=len(videos.videos), clips=list_fingerprint(clips.clips),
        statistics=real.key, absent=len(videos.absent),
        unreadable=[each.path for each in (*videos.unreadable, *real.unreadable)], remarks=videos.remarks,
    )  # fmt: skip


def _start_anew(out: Path, config: Benchmark) -> float | None:
    """The folder's config is this one, and a score of before goes: one that is stopped from here on leaves none.
    Returns `seconds_before`."""
    earlier = seconds_before(out)
    for name in ("record.json", "table.md"):
        (out / name).unlink(missing_ok=True)
    save_config(config, out)
    return earlier


def _publish(out: Path, record: Record, remarks: Sequence[str]) -> None:
    """Writes `record.json` and `table.md`, and prints the table with what is to be said of it."""
    write_record(out / "record.json", record)
    table = compare([out])
    write_whole(out / "table.md", table + "\n")
    print(table, "", *(f"note: {remark}" for remark in remarks), sep="\n")


def seconds_before(out: Path) -> float | None:
    """What the record says that is there already, if all clips had been scored for it; then this run only counts."""
    try:
        return read_record(out).seconds if (out / "scored").exists() else None
    except UserError:
        return None


def read_rows(out: Path, count: int) -> Any:
    """The table of scored clips. Raises UserError unless it has a row for every clip."""
    table, _ = open_table(out / "scored", "features of scored clips", "benchmark")
    if len(table) != count:
        raise UserError(
            f"nothing is scored: only {len(table)} of {count} clips could be decoded, see above. Put whole files in "
            f"their places, delete {out / 'scored'} and give the same command again"
        )
    return table.with_format("numpy")


def column(rows: Any, name: str) -> torch.Tensor:
    """A column of equally long rows as float32."""
    return torch.from_numpy(np.stack(list(rows[name][:])).astype(np.float32))


def token_use(rows: Any, tokenizer: VideoTokenizer) -> Tokens:
    """Over all clips."""
    usage, total = CodebookUsage(tokenizer.config.codebook_size), 0
    for some in rows.select_columns("codes").with_format("arrow").iter(batch_size=1000):  # clip by clip takes long
        codes = some["codes"].combine_chunks().flatten().to_numpy()
        usage.update(torch.from_numpy(codes.astype(np.int64)))
        total += len(codes)
    return Tokens(tokens_per_clip=total / len(rows), codes_used=usage.used_fraction(), perplexity=usage.perplexity())


def quality_of(rows: Any, subject: Reconstruction) -> ReconstructionQuality:
    """Means over clips."""
    means = {name: float(np.mean(rows[name][:], dtype=np.float64)) for name in ("psnr", "ssim", "perceptual")}
    moving, still = (torch.from_numpy(np.asarray(rows[name][:])) for name in ("moving_error", "still_error"))
    network = subject.perceptual
    return ReconstructionQuality(
        **means, motion=motion_explained(moving, still), perceptual_network=network.name,
        perceptual_fingerprint=network.fingerprint,
    )  # fmt: skip


def load_benchmark(protocol: str, overrides: Sequence[str]) -> Benchmark:
    """A config from a protocol's name, or from a YAML file, and overrides. Raises UserError as `load_config` does."""
    if protocol.endswith((".yaml", ".yml")):
        return load_config(Benchmark, protocol, overrides)
    try:
        get_protocol(protocol)  # before all else that is wrong
    except ValueError as error:
        raise UserError(str(error)) from error
    return with_overrides(Benchmark, {"protocol": protocol}, overrides, "evagen benchmark")
