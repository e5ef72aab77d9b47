"""What can befall a training from outside, in words: memory, disks, and processes that die."""

import errno
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError

from evagen.errors import UserError
from evagen.kernels.files import no_room
from evagen.kernels.surroundings import is_out_of_memory

GO_ON = "then give the same command again: it goes on from the last checkpoint"
NEXT_ONE = "and writes the next one if there is room by then"
PEER_DIED = ("gloo", "closed by peer", "Connection reset", "Broken pipe", "NCCL", "Timed out", "timed out", "TCPStore")
ConfigType = TypeVar("ConfigType")


def explained(main: Callable[[ConfigType], Path]) -> Callable[[ConfigType], Path]:
    """A training command whose `main` raises UserError for what befalls it from outside. The original error is its
    cause."""

    @functools.wraps(main)
    def explaining(config: Any) -> Path:
        try:
            return main(config)
        except (MemoryError, OSError, RuntimeError, SafetensorError) as error:
            words = in_words(error, config.run.out)
            if words is None:
                raise
            raise UserError(words) from error

    return explaining


def where_room(what: str, write: Callable[[], object], then: str = NEXT_ONE) -> bool:
    """Whether something could be written that a training can go without. Where the disk is full, it says so, and what
    happens `then`."""
    try:
        write()
    except Exception as error:
        if not no_room(error):
            raise
        print(
            f"no room for {what} ({error}). Nothing half-written stays; the training goes on, {then}", file=sys.stderr
        )
        return False
    return True


def in_words(error: BaseException, out: Path) -> str | None:
    """What happened and what to do, for a training with the run folder `out`; None for an error of another kind."""
    said, number = " ".join(str(error).split()), getattr(error, "errno", None)
    if is_out_of_memory(error):
        return (
            f"the memory does not suffice ({said[:200] or 'MemoryError'}): lower optimizer.batch_size or "
            "optimizer.tokens_per_batch, with as much more optimizer.accumulation, give "
            "run.gradient_checkpointing=true, or lower run.num_workers where it is not the GPU's memory, with all of "
            "which this run goes on; or begin another one with a lower data.size or data.frames"
        )
    if no_room(error):
        return f"no room is left on the disk of {out} ({said}): make some, {GO_ON}"
    if isinstance(error, FileNotFoundError) and not (out / "config.yaml").exists():
        return f"the run folder {out} is not there any more ({said}): it was deleted or moved while the training ran"
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) or number == errno.EROFS:
        return f"{said}: the run folder {out} must be one that can be written to; mend that, or choose another"
    if isinstance(error, torch.distributed.DistError) or (
        torch.distributed.is_initialized() and any(part in said for part in PEER_DIED)
    ):
        return (
            f"another process of this training has died or hangs, so this one stops ({said[:200]}). What happened to "
            f"it stands above, or in the log of its machine; {GO_ON}"
        )
    return None
