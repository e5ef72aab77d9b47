"""Where a trained model lies: the name of a model in the box, a folder, a run or a step of it, a hub id.

| given | meaning |
|---|---|
| `evagen/arcade` | the models that come with the package: its tokenizer, router or generator, as needed |
| a folder with `config.json` | this model |
| a folder with `model_index.json` | a pipeline, as diffusers saves it: its tokenizer, router or generator |
| a run that has not finished | its newest snapshot |
| `runs/x@35000` | the snapshot of a run after 35,000 steps |
| `runs/x@35000.finished` | what it left when it was to end there, before it was given more steps |
| `runs/x@best` | the one with the best held-out score |
| anything else | a hub id: of one model, or of a pipeline |
"""

import importlib.resources
import json
import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import hf_hub_download
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

from evagen.kernels.files import make_readable, read_json
from evagen.kernels.model_files import CONFIG, check_finite, check_settings, check_weights, fetch, weight_files

logger = logging.getLogger(__name__)
OWNER = "evagen"
"""Before the slash in the names of the models in the box."""
BOX = Path(str(importlib.resources.files("evagen"))) / "box"
"""Where they lie, a pipeline each."""
FOR_CLASSES, FOR_VIDEOS = f"{OWNER}/arcade", f"{OWNER}/natural"
"""The models that commands take where none is named: to write clips of a class, and for a video into tokens."""
INDEX = "model_index.json"
SNAPSHOTS, BEST, FINISHED = "snapshots", "best", ".finished"
"""In a run folder: the models of its steps, in folders `step_00035000`, or `step_00035000.finished` where a training
that went on to more steps had ended there; and the one with the best held-out score."""
STEP = "step_" + 8 * "[0-9]"
"""Glob of a snapshot's folder."""
ASKED_OF_HUB = ("revision", "cache_dir", "token", "local_files_only", "force_download")
"""Options of `from_pretrained` that say where on the hub, or whether to ask it."""


class Located(NamedTuple):
    """What `from_pretrained` takes: a folder or a hub id, and the folder in it, if any."""

    source: str
    subfolder: str | None = None

    @property
    def folder(self) -> Path | None:
        """On this machine; None for a hub id."""
        path = Path(self.source, self.subfolder or "")
        return path if Path(self.source).is_dir() else None


def box() -> dict[str, Path]:
    """The models in the box: their folders by name."""
    return {f"{OWNER}/{each.parent.name}": each.parent for each in sorted(BOX.glob(f"*/{INDEX}"))}


def _as_written(source: str | Path) -> str:
    return source.as_posix() if isinstance(source, Path) else source  # Windows shows a name's slash the other way


def locate(source: str | Path, part: str, only_cached: bool = False, asked: Mapping[str, Any] | None = None) -> Located:
    """Where a tokenizer, a router or a generator (`part`) lies. only_cached: do not ask the hub. asked: of it, by the
    names in `ASKED_OF_HUB`. Raises FileNotFoundError for a name that no model in the box has, for a step of which a run
    has no snapshot, and for a pipeline without such a part."""
    text, boxes = _as_written(source), box()
    if text in boxes:
        return _part_of(boxes[text], part, text)
    path = Path(text)
    if path.is_dir():
        if (path / CONFIG).exists():
            return Located(text)
        if (path / INDEX).exists():
            return _part_of(path, part, text)
        newest = max(path.glob(f"{SNAPSHOTS}/{STEP}/{CONFIG}"), default=None)
        if newest is None:
            return Located(text)
        logger.warning("%s has not finished: taking its snapshot %s", text, newest.parent.name)
        return Located(str(newest.parent))
    run, _, step = text.rpartition("@")
    if run and Path(run).is_dir():
        return _snapshot(Path(run), step)
    _refuse_unknown_box(text, boxes)
    asked = {"local_files_only": only_cached or is_out_of_reach(text), **(asked or {})}
    return Located(text, part if _is_pipeline_of_hub(text, asked) else None)


def locate_pipeline(source: str | Path) -> str:
    """Where a whole pipeline lies: a folder or a hub id. Raises FileNotFoundError for a name that no model in the box
    has, and for a folder without `model_index.json`."""
    text, boxes = _as_written(source), box()
    path = boxes.get(text, Path(text))
    if path.is_dir():
        if not (path / INDEX).exists():
            alone = ", a single model: load it by its own class" if (path / CONFIG).exists() else ""
            raise FileNotFoundError(f"{text} holds no pipeline ({INDEX} is missing){alone}")
        return str(path)
    _refuse_unknown_box(text, boxes)
    return text


def is_out_of_reach(name: str) -> bool:
    """Whether the hub need not be asked for a name: it cannot be an id, which has an owner, or nobody here knows the
    hub's address, as without a network, where asking takes most of a minute. What was fetched before is there still."""
    return "/" not in name or _hub_is_unknown()


def _hub_is_unknown() -> bool:
    if getproxies():  # which know addresses that this machine does not
        return False
    try:
        socket.getaddrinfo(urlsplit(ENDPOINT).hostname, None)
    except OSError:
        return True
    return False


def _refuse_unknown_box(name: str, boxes: Mapping[str, Path]) -> None:
    if name.startswith(f"{OWNER}/"):
        raise FileNotFoundError(f"no model {name} in the box; there are: {', '.join(boxes) or 'none'}")


def _is_pipeline_of_hub(name: str, asked: Mapping[str, Any]) -> bool:
    try:
        hf_hub_download(name, INDEX, **asked)
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):  # loading the model will say what is wrong
        return False
    return True


def _part_of(pipeline: Path, part: str, name: str) -> Located:
    if not (pipeline / part / CONFIG).exists():
        parts = sorted(each.parent.name for each in pipeline.glob(f"*/{CONFIG}"))
        raise FileNotFoundError(f"{name} has no {part}; it has: {', '.join(parts) or 'nothing'}")
    return Located(str(pipeline), part)


def _snapshot(run: Path, step: str) -> Located:
    number, dot, mark = step.partition(".")
    folder = run / BEST if step == BEST else run / SNAPSHOTS / f"step_{number.zfill(8)}{dot}{mark}"
    if (folder / CONFIG).exists():
        return Located(str(folder))
    found = sorted(each.parent.name.removeprefix("step_") for each in run.glob(f"{SNAPSHOTS}/step_*/{CONFIG}"))
    there = [each.lstrip("0") for each in found] + [BEST] * (run / BEST / CONFIG).exists()
    raise FileNotFoundError(f"{run} has no snapshot {step}; it has: {', '.join(there) or 'none'}")


class SavedWithoutSource:
    """For a diffusers model or pipeline: its saved config does not tell where it was loaded from, which is a folder of
    somebody's machine."""

    def to_json_string(self) -> str:
        """As diffusers'."""
        values = json.loads(super().to_json_string())  # type: ignore[misc]
        values.pop("_name_or_path", None)
        return json.dumps(values, indent=2, sort_keys=True) + "\n"


class FromAnywhere(SavedWithoutSource):
    """For a diffusers model: its `from_pretrained` takes all that `locate` knows."""

    config: Any
    """Its settings, as attributes: diffusers says a dict, of which type checkers know no names."""
    part: ClassVar[str]
    """The name of the model's folder in a pipeline."""

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        save_function: Any = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        **options: Any,
    ) -> None:
        """As diffusers', whose arguments these are; weights have the permissions of any new file."""
        super().save_pretrained(  # type: ignore[misc]
            save_directory, is_main_process, save_function, safe_serialization, variant, max_shard_size, **options
        )
        make_readable(Path(save_directory).glob("*.safetensors"))

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        """The model in eval mode. As diffusers', and from a name in the box (`evagen/arcade`), a run, a snapshot of it
        (`runs/x@5000`, `runs/x@best`) or a pipeline, of which it takes its part (docs/hub.md). Weights are loaded in
        fp32, whatever they are stored in, unless `torch_dtype` says otherwise. They are safetensors; with
        `use_safetensors=False` a pickle is read, of which nothing but tensors is taken (torch's `weights_only`).

        Raises OSError where there is no such model, ValueError for a config.json that is not of this model or whose
        sizes are absurd, and for weights that are not of its shapes or not finite, before memory is taken for them."""
        if "subfolder" not in options:  # which diffusers takes literally
            asked = {name: options[name] for name in ASKED_OF_HUB if name in options}
            source, options["subfolder"] = locate(source, cls.part, asked=asked)
        if not Path(source).is_dir() and is_out_of_reach(str(source)):
            options.setdefault("local_files_only", True)
        safe, variant = options.get("use_safetensors") is not False, options.get("variant")
        folder = Located(str(source), options["subfolder"]).folder
        if folder is None and safe:
            asked = {name: options.pop(name) for name in ASKED_OF_HUB if name in options}
            folder = fetch(str(source), options["subfolder"], variant, asked)
            source, options["subfolder"] = folder, None
        if folder is not None:
            settings = _settings_in(folder, cls)
            if safe:
                check_weights(cls, settings, weight_files(folder, variant))
        loaded = super().from_pretrained(str(source), **options | {"use_safetensors": safe})  # type: ignore[misc]
        check_finite(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded


def _settings_in(folder: Path, kind: type) -> dict[str, Any]:
    """A folder's config.json. Raises OSError where there is none, ValueError where it is not of such a model."""
    try:
        settings = read_json(folder / CONFIG)
        check_settings(kind, settings)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    return settings
