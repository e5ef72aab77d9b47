"""Writes new clips: class-conditional sampling, frame prediction, continuation; clips of any length.

evagen sample quickstart/sample [key=value …]

Leaves `<run.out>/<class>/<number>.<format>` (a class whose name cannot be that of a folder gets one like it),
`tokens.jsonl` with every clip's lengths and codes, and
`manifest.json` with all that is needed to write them again. A clip depends on the seed and its own number
alone, so the same clips come out with any number of slots and processes. Running again goes on where an earlier run
stopped, with the models, precision and given videos that `made_from.json` says; others are refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from evagen.ar_model import VideoGenerator
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.files import atomic_write, no_room
from evagen.models.fit import check_generator
from evagen.models.inference import autocast, load_for, precision_on
from evagen.models.loading import fingerprint
from evagen.run import PATIENCE, start_accelerator, versions
from evagen.sampling.clips import SampledClip, SampledClips
from evagen.sampling.config import Sampling
from evagen.sampling.frame_grid import frame_grid
from evagen.sampling.rows import SampleRows
from evagen.tokenizer import VideoTokenizer


def main(config: Sampling) -> Path:
    """Samples every clip that is not there yet; returns the run folder."""
    accelerator = start_accelerator(config, config.run.out, patience=PATIENCE)
    generator = load_for(config.run, VideoGenerator, config.generator, accelerator.device)
    tokenizer = load_for(config.run, VideoTokenizer, config.tokenizer, accelerator.device)
    check_generator(generator, tokenizer, config.tokenizer)
    clips = SampledClips(config, generator, tokenizer)
    rows = SampleRows(config.run.out, accelerator.process_index)
    made_from = {
        "generator_fingerprint": fingerprint(generator), "tokenizer_fingerprint": fingerprint(tokenizer),
        "precision": precision_on(config.run.precision, accelerator.device), **clips.given_from(),
    }  # fmt: skip
    rows.begin(made_from)
    accelerator.wait_for_everyone()  # all have read what is there before one writes
    todo = [number for number in range(len(clips)) if number not in rows.done]
    if not todo and rows.are_finished:
        return config.run.out
    mine = todo[accelerator.process_index :: accelerator.num_processes]
    with (
        autocast(config.run, accelerator.device),
        explained_full_disk(rows, len(clips)),
        tqdm(total=len(mine), desc="sampling", unit="clip", disable=not accelerator.is_main_process) as bar,
    ):
        for number, clip in clips.write(mine):
            path = Path(clips.folder_of(number)) / f"{number:06d}"
            save_clip(clip, config.run.out / path, config, tokenizer.config.temporal_patch)
            rows.add(
                number,
                path=path.with_suffix(f".{config.listed_format}").as_posix(), seed=clips.seed_of(number),
                **{"class": clips.class_of(number)}, **clips.source_of(number), **clip.as_row(),
            )  # fmt: skip
            bar.update()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        rows.join()
        manifest = {
            "config": config.model_dump(mode="json"),
            "clips": len(clips),
            "versions": versions(),
            "device": str(accelerator.device),
            **made_from,
        }
        rows.write_manifest(manifest)
    accelerator.wait_for_everyone()
    return config.run.out


def save_clip(clip: SampledClip, path: Path, config: Sampling, frames_per_row: int) -> None:
    """Writes a clip in every format that is asked for; `path` has no suffix yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in config.formats:
        target = path.with_suffix(f".{suffix}")
        if suffix == "png":
            with atomic_write(target) as unfinished:
                frame_grid(np.stack(list(clip.frames())), frames_per_row).save(unfinished)
        else:
            write_video(target, clip.frames(), config.frames_per_second)


@contextmanager
def explained_full_disk(rows: SampleRows, wanted: int) -> Iterator[None]:
    """A full disk stops sampling with a message; what was finished stays."""
    try:
        yield
    except OSError as error:
        if not no_room(error):
            raise
        raise UserError(
            f"the disk that holds {rows.folder} is full; {rows.count_all()} of {wanted} clips are finished and stay: "
            "make room and give the same command again"
        ) from error
