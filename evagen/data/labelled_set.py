"""Writing a labelled set of video files in the UCF-101 layout: as `evagen data arcade`, `natural` and `cut` do.

A manifest says what the folder was made with, so that the same call continues it and another one is refused.
"""

import hashlib
import json
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from evagen.config import dotted
from evagen.errors import UserError
from evagen.kernels.files import num_cores, write_whole
from evagen.kernels.names import as_line


class Recording(Protocol):
    """A piece of the work: some files that one process writes."""

    def names(self) -> list[str]:
        """Of the files, in the folder of the data set."""

    def record(self, out: Path) -> int:
        """Writes the files that are not there yet into the folder `out`; returns how many."""


R = TypeVar("R", bound=Recording)


def random_of(name: str) -> np.random.Generator:
    """Random numbers that depend on a name only, such as `{seed}/{source}/{clip}`."""
    return np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))


def check_manifest(out: Path, kind: str, arguments: dict[str, Any]) -> None:
    """Writes `out/{kind}.json` (`kind`: arcade, natural or cut) into a new or empty folder. Raises UserError where
    `out` holds something else, or was made with other arguments."""
    manifest = out / f"{kind}.json"
    if not manifest.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} is there already and was not made by `evagen data {kind}`: choose a new one")
        write_whole(manifest, json.dumps(arguments, indent=2) + "\n")
        return
    try:
        before = dict(json.loads(manifest.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{manifest} is not what `evagen data {kind}` writes ({error}): choose a new folder, or delete {out}"
        ) from error
    was, now = dotted({name: before.get(name) for name in arguments}), dotted(arguments)
    differences = [name for name in {**now, **was} if was.get(name) != now.get(name)]
    if differences:
        told = [as_line(f"{name} was {was.get(name)!r}, is now {now.get(name)!r}") for name in differences[:3]]
        told += [f"and {len(differences) - 3} more"] if len(differences) > 3 else []
        raise UserError(
            f"{out} was made with other arguments: {'; '.join(told)}. "
            "Give the same ones to continue it, or choose a new folder"
        )


def record_all(out: Path, recordings: Sequence[R], workers: int | None) -> Iterator[tuple[R, int]]:
    """Yields (recording, files written) as they finish, in any order. `workers`: processes, `None` for one on each
    core. Raises UserError where a process ends by itself."""
    workers = min(workers or num_cores(), len(recordings))
    if workers <= 1:
        yield from ((recording, recording.record(out)) for recording in recordings)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(recording.record, out): recording for recording in recordings}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        except BrokenProcessPool as error:
            begun = [each.names()[0] for each in recordings if not all((out / name).exists() for name in each.names())]
            raise UserError(
                "a process that wrote clips has ended by itself, by a crash of a decoder or for want of memory. Among "
                f"the first that are not finished is what it worked on: {', '.join(begun[:workers])}. With --workers 1 "
                "the clip at which it happens is the last one begun"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def write_lists(out: Path, train: Iterable[str], test: Iterable[str]) -> list[str]:
    """Writes `ucfTrainTestlist` for file names such as `Boxing/v_Boxing_g01_c01.avi`, relative to `out`; returns the
    class names, sorted."""
    train, test = list(train), list(test)
    class_names = sorted({name.split("/")[0] for name in (*train, *test)})
    labels = {name: label for label, name in enumerate(class_names, start=1)}
    lists = out / "ucfTrainTestlist"
    classes = [f"{label} {name}" for name, label in labels.items()]
    labelled = [f"{name} {labels[name.split('/')[0]]}" for name in train]
    for name, lines in (("classInd", classes), ("trainlist01", labelled), ("testlist01", test)):
        write_whole(lists / f"{name}.txt", "".join(f"{line}\n" for line in lines))
    return class_names
