"""What a training keeps on disk while it goes: loop states, from which it goes on, and snapshots of its model.

<run>/checkpoints/step_00035000/    everything that going on needs; `complete`, which is written last, lists the files
                                    with their sizes and checksums and says for how many steps the run was planned
<run>/snapshots/step_00035000/      the model alone, loaded as `runs/x@35000`
"""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from evagen.config import Section
from evagen.errors import UserError
from evagen.kernels.files import atomic_folder, write_names_through, write_through
from evagen.kernels.sources import CONFIG, FINISHED, SNAPSHOTS, STEP
from evagen.training.optimizers import are_the_same_until, decay_begins
from evagen.training.settings import OptimizerConfig

WEIGHTS = "diffusion_pytorch_model.safetensors"
"""What a finished run holds."""
CHUNK_BYTES = 2**20
COMPLETE = "complete"
"""The file of a loop state that says it is whole."""
EARLIER = b'{"planned_steps": '
"""How it began where Accelerate wrote the states."""


class StoredFile(Section):
    """size: in bytes; sha256: in hexadecimal digits."""

    size: int
    sha256: str


class Manifest(Section):
    """What `complete` says. planned_steps: how long the training was to be; decay_share: its optimiser's, which earlier
    states do not tell; processes: how many wrote the state; batch: clips, or tokens, of a step in all of them; files:
    all others of the folder, by name."""

    planned_steps: int
    decay_share: float | None = None
    processes: int
    batch: int
    files: dict[str, StoredFile]


class WholeState(NamedTuple):
    """A loop state that says it is whole."""

    folder: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        return step_of(self.folder)


class Damaged(NamedTuple):
    """A loop state that cannot be gone on from, and why."""

    folder: Path
    reason: str


class Checkpoints:
    """The loop states and snapshots of one run folder. Where several processes train, the main one alone calls what
    writes."""

    def __init__(self, out: Path, optimizer: OptimizerConfig, num_snapshots: int, num_states: int):
        self.out, self.optimizer, self.num_snapshots, self.num_states = out, optimizer, num_snapshots, num_states

    def is_due(self, step: int, every: int) -> bool:
        """Whether to save after so many steps: every so many, and before a `wsd` schedule's rate falls, from where
        alone a longer one goes on as if it had been the plan from the beginning."""
        return step < self.optimizer.steps and (step % every == 0 or step == decay_begins(self.optimizer))

    def state(self, step: int) -> Path:
        """The folder of a loop state, there or to be written."""
        return self.out / "checkpoints" / step_name(step)

    def write(self, step: int, save: Callable[[Path], None], processes: int, batch: int) -> None:
        """Has `save` fill the folder of a loop state, which appears under its name when all of it is on the disk, and
        deletes those that it makes superfluous. After an error nothing is left of it. Raises what `save` does."""
        target = self.state(step)
        with atomic_folder(target) as unfinished:
            save(unfinished)
            files = {each.name: _measured(each) for each in sorted(unfinished.iterdir())}
            about = Manifest(
                planned_steps=self.optimizer.steps, decay_share=self.optimizer.decay_share,
                processes=processes, batch=batch, files=files,
            )  # fmt: skip
            (unfinished / COMPLETE).write_text(about.model_dump_json(indent=1) + "\n", encoding="utf-8")
            write_through(unfinished)
            shutil.rmtree(target, ignore_errors=True)  # a damaged one, or one of another plan
        write_names_through(target.parent)
        older = [path for path in self._folders() if path < target]
        needed = {target, self.state(decay_begins(self.optimizer) or step)}
        needed.update(sorted(older)[max(0, len(older) - self.num_states + 1) :])
        for each in self._folders():
            if each not in needed:
                shutil.rmtree(each)

    def candidates(self) -> list[WholeState]:
        """The loop states that say they are whole, in the order in which one goes on from them: first those whose
        learning rates so far are those of the plan at hand, the newest before older ones."""
        return sorted(_whole_states(self.out), key=lambda state: (self.agrees(state), state.folder), reverse=True)

    def newest(self) -> tuple[WholeState | None, list[Damaged]]:
        """The loop state to go on from, the first of the candidates whose files are as they were written; None where
        there is none. And those that would have come before it, with what is wrong with them. Raises UserError where
        all are damaged, and for one of an earlier version."""
        self._refuse_earlier_versions()
        damaged: list[Damaged] = []
        no_list = f"its list of files, `{COMPLETE}`, is missing"
        cut = [Damaged(folder, no_list) for folder in self._folders() if read_manifest(folder) is None]
        for state in self.candidates():
            reason = _damage(state)
            if reason is None:
                return state, [*(each for each in cut if each.folder > state.folder), *damaged]
            damaged.append(Damaged(state.folder, reason))
        damaged += cut
        if damaged:
            listed = "".join(f"\n  {each.folder}: {each.reason}" for each in damaged)
            raise UserError(
                f"no checkpoint of {self.out} is whole:{listed}\nDelete {self.out / 'checkpoints'} to begin again, or "
                "train further with start_from=A_SNAPSHOT and another run.out"
            )
        return None, []

    def tidy(self) -> None:
        """Deletes what a process that was killed while it wrote has left."""
        for folder in ("checkpoints", SNAPSHOTS):
            for each in (self.out / folder).glob(f".{STEP}.*"):
                shutil.rmtree(each, ignore_errors=True)

    def snapshot(self, step: int, save: Callable[[Path], object]) -> None:
        """Has `save` write the model into a folder, and keeps the newest few up to this step: later ones are of a
        shorter plan, from before whose end the run went on."""
        folder = self.out / SNAPSHOTS / step_name(step)
        with atomic_folder(folder) as whole:
            save(whole)
            shutil.rmtree(folder, ignore_errors=True)
        found = sorted(folder.parent.glob(STEP))
        kept = [each for each in found if each <= folder][-self.num_snapshots :]
        for each in found:
            if each not in kept:
                shutil.rmtree(each)

    def set_aside_the_finished(self) -> None:
        """Puts the model that a shorter training left among the snapshots, where it is never deleted."""
        newest = newest_state(self.out)
        if newest is None or not (self.out / WEIGHTS).exists():
            return
        folder = self.out / SNAPSHOTS / (step_name(newest.manifest.planned_steps) + FINISHED)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG, WEIGHTS):  # the weights last: as long as they are here, this can be done again
            if (self.out / name).exists():
                (self.out / name).replace(folder / name)

    def agrees(self, state: WholeState) -> bool:
        """Whether the run would stand where this state does if it had been planned as it is now."""
        steps, decay_share = state.manifest.planned_steps, state.manifest.decay_share or self.optimizer.decay_share
        earlier = self.optimizer.model_copy(update={"steps": steps, "decay_share": decay_share})
        # The rate of the step after it is in the state already, so that one counts.
        return are_the_same_until(state.step, earlier, self.optimizer)

    def _folders(self) -> list[Path]:
        """Of loop states, whole or not. What else lies beside them is somebody else's."""
        return [path for path in (self.out / "checkpoints").glob(STEP) if path.is_dir()]

    def _refuse_earlier_versions(self) -> None:
        for folder in self._folders():
            complete = folder / COMPLETE
            if read_manifest(folder) is None and complete.exists() and complete.read_bytes().startswith(EARLIER):
                raise UserError(
                    f"{folder} was written by an earlier version of evagen and holds pickles, which are not opened: "
                    "finish the run with that version, or train further with start_from=A_SNAPSHOT and another run.out"
                )


def final_weights(out: Path, save: Callable[[Path], object]) -> None:
    """Has `save` write a finished run's model into the run folder, in which its weights appear last and whole."""
    unfinished = out / ".unfinished"
    for left in (unfinished, *out.glob(f".{unfinished.name}.*")):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        with atomic_folder(unfinished) as folder:
            save(folder)
            write_through(folder)
        for path in sorted(unfinished.iterdir(), key=lambda path: path.name == WEIGHTS):
            path.replace(out / path.name)
        write_names_through(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def step_name(step: int) -> str:
    """The name of a step's folder."""
    return f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """The step whose folder it is, of a snapshot that a shorter training ended with too."""
    return int(folder.name.removeprefix("step_").removesuffix(FINISHED))


def read_manifest(folder: Path) -> Manifest | None:
    """None for a loop state that is not whole."""
    try:
        return Manifest.model_validate_json((folder / COMPLETE).read_bytes())
    except (OSError, ValidationError):
        return None


def newest_state(out: Path) -> WholeState | None:
    """The newest loop state in a run folder that says it is whole."""
    return max(_whole_states(out), key=lambda state: state.folder, default=None)


def _whole_states(out: Path) -> list[WholeState]:
    """The loop states in a run folder that say they are whole."""
    folders = (out / "checkpoints").glob(STEP)
    return [WholeState(folder, manifest) for folder in folders if (manifest := read_manifest(folder))]


def _measured(path: Path) -> StoredFile:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return StoredFile(size=path.stat().st_size, sha256=digest.hexdigest())


def _damage(state: WholeState) -> str | None:
    """What is not as it was written in a loop state that says it is whole."""
    for name, expected in state.manifest.files.items():
        path = state.folder / name
        if path.parent != state.folder or not path.is_file():
            return f"its file {name} is not there"
        if path.stat().st_size != expected.size:
            return f"its file {name} has {path.stat().st_size} bytes, {expected.size} were written"
        if _measured(path) != expected:
            return f"its file {name} is not what was written: its checksum differs"
    return None
