"""What every run has: its folder, its Accelerator, and the settings that say how it is carried out.

The settings stand in small sections, and a command's `run` section is made of those that it honours, so that no key
is accepted that does nothing.
"""

import atexit
import json
import logging
import os
import platform
import sys
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import diffusers
import torch
import transformers
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DataLoaderConfiguration,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    gather_object,
    parse_flag_from_env,
)
from pydantic import Field, field_validator
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from evagen import __version__
from evagen.config import ONLY_HOW, ConfigType, Section, Seed, differences, load_config, save_config
from evagen.errors import UserError
from evagen.kernels.attention import choose_attention
from evagen.kernels.backends import AttentionBackend, has_bf16
from evagen.kernels.files import read_json, write_whole
from evagen.kernels.folder_lock import LOCK, lock_folder
from evagen.kernels.names import check_utf8

logger = logging.getLogger(__name__)

MADE_FROM = "made_from.json"
"""In a folder of results, beside them: what they are made from, in as far as the run's config does not say it."""
ANOTHER_FOLDER = "choose another run folder (run.out, or --out of a command that has it)"


class RunFolder(Section):
    """Where a run leaves its results."""

    out: Annotated[Path, ONLY_HOW]
    """The run folder. Running the same command again resumes what is unfinished there."""

    @field_validator("out")
    @classmethod
    def _what_is_written_can_be_read(cls, out: Path) -> Path:
        check_utf8(out)
        return out


class Seeded(Section):
    """A run that draws random numbers."""

    seed: Seed = 0
    """Seed of weights, data order and all other draws."""


class ReadsClips(Section):
    """A run that decodes videos."""

    num_workers: Annotated[int, ONLY_HOW] = Field(0, ge=0)
    """Processes that decode video beside the main process."""


class Attends(Section):
    """A run of the tokenizer or the generator."""

    attention: Annotated[AttentionBackend, ONLY_HOW] = "auto"
    """Which kernels compute attention over packed sequences; `auto` takes the fastest that the device has."""

    def choose_attention(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        """Has a model that is to compute on a device in such numbers attend by these kernels. Raises UserError where
        they do not work there."""
        try:
            choose_attention(model, self.attention, device, dtype)
        except ValueError as error:
            raise UserError(f"run.attention={self.attention}: {error}") from error


class Infers(Attends):
    """A run of trained models."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the models' matrix products. `auto`: bf16 on a GPU that computes it, fp32 elsewhere. Metrics, the quantiser
    and the drawing of tokens stay in fp32."""


PATIENCE = timedelta(days=1)
"""For `start_accelerator`, where processes meet only at the end, and the fastest may wait long for the slowest."""


def start_accelerator(
    config: Section,
    out: Path,
    *,
    mixed_precision: str | None = None,
    tracker: str = "none",
    project: str = "evagen",
    accumulation: int = 1,
    patience: timedelta | None = None,
    claim: bool = True,
    may_differ: Collection[str] = (),
) -> Accelerator:
    """Makes the run folder, writes the resolved config, starts the tracker, where `project` is the run's project.
    `mixed_precision`: of what Accelerate prepares, its own setting if None. `patience`: how long processes wait for
    each other before they take the others for dead, torch's 10 to 30 minutes if None. `claim`: raise UserError when
    the folder holds a run with another config, which may differ in the keys `may_differ`; if not, one that has begun
    keeps its config until the caller has checked what is there. Raises UserError too where
    another process is at work in the folder, for a tracker that is not installed, and for what `accelerate launch` or
    the environment asks for and this run would not do."""
    refuse_unheard(accumulation)
    mixed_precision = _computed_in(mixed_precision, config)
    if tracker != "none" and tracker not in {each.value for each in get_available_trackers()}:
        raise UserError(
            f"run.tracker={tracker} is not installed: pip install {tracker}, or give run.tracker=tensorboard"
        )
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = Accelerator(
        # Without this, Accelerate takes each of several processes on a machine without GPUs for a run of its own.
        cpu=several and not torch.accelerator.is_available(),
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=accumulation,
        log_with=None if tracker == "none" else tracker,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=patience)] if patience else None,
        fsdp_plugin=_sharding(),
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out)),
        dataloader_config=DataLoaderConfiguration(dispatch_batches=False),
    )
    if several and accelerator.device.type == "cuda":
        _compare_gpus(gather_object([(torch.cuda.get_device_name(), has_bf16(accelerator.device))]))
    if accelerator.is_main_process:
        _lock(out)
        if claim:
            claim_folder(config, out, may_differ)
        elif not _has_begun(out):
            save_config(config, out)
    accelerator.wait_for_everyone()
    if tracker != "none":
        _start_tracker(accelerator, tracker, project, config, out)
    return accelerator


def _computed_in(asked: str | None, config: Section) -> str:
    """The mixed precision of a run, Accelerate's setting where none is asked for. Raises UserError for one that the
    device does not have."""
    asked = asked or os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked != "no" and hasattr(getattr(config, "run", None), "precision"):
        logger.warning("ACCELERATE_MIXED_PRECISION=%s is for trainings: run.precision counts here", asked)
        return "no"
    if asked == "bf16" and torch.cuda.is_available() and not has_bf16(torch.device("cuda")):
        raise UserError(
            f"run.mixed_precision=bf16, or Accelerate's: {torch.cuda.get_device_name()} has no bf16; "
            "give run.mixed_precision=fp16 or no"
        )
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    if asked == "fp16" and on_cpu:  # Accelerate would compute in fp32 and say nothing
        raise UserError(
            "run.mixed_precision=fp16, or Accelerate's, is for GPUs, and this runs on a CPU: give "
            "run.mixed_precision=bf16 or no"
        )
    return asked


def _lock(out: Path) -> None:
    """Raises UserError where another process is at work in a run folder."""
    out.mkdir(parents=True, exist_ok=True)
    if other := lock_folder(out):
        raise UserError(f"{out} is at work: {other} has it; wait for its end, or {ANOTHER_FOLDER}")


def refuse_unheard(accumulation: int) -> None:
    """Raises UserError for settings of Accelerate, which come from the environment, its config file or the options of
    `accelerate launch`, that would change a run behind its config, or that it would not follow."""
    environment = os.environ

    def is_on(name: str) -> bool:
        return environment.get(name, "").lower() in ("1", "true", "yes", "on", "y", "t")

    name = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
    if environment.get(name, str(accumulation)) != str(accumulation):
        raise UserError(
            f"{name}={environment[name]} in the environment, and this run adds up the gradients of {accumulation}: "
            "unset it; a training takes optimizer.accumulation"
        )
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", "bf16", "fp16"):
        raise UserError(
            f"ACCELERATE_MIXED_PRECISION={precision}: a run computes in no (fp32), bf16 or fp16; give "
            "--mixed_precision bf16 to accelerate launch, or run.mixed_precision=bf16"
        )
    compiler = environment.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if compiler.lower() != "no":
        raise UserError(
            f"ACCELERATE_DYNAMO_BACKEND={compiler}: Accelerate would compile anew for every length; leave "
            "--dynamo_backend away and give run.compile=true to a training"
        )
    for way in ("DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG", "SAGEMAKER"):
        if is_on(f"ACCELERATE_USE_{way}"):
            raise UserError(
                f"ACCELERATE_USE_{way} is set: runs are spread over GPUs by DDP or FSDP 2 alone; give accelerate "
                "launch --config_file configs/accelerate/ddp.yaml or fsdp.yaml"
            )
    if is_on("ACCELERATE_USE_FSDP") and environment.get("FSDP_VERSION", "1") != "2":
        raise UserError(
            f"FSDP_VERSION={environment.get('FSDP_VERSION', '1')}: version 2 is needed; give accelerate launch "
            "--fsdp_version 2, or --config_file configs/accelerate/fsdp.yaml"
        )


def _start_tracker(accelerator: Accelerator, tracker: str, project: str, config: Section, out: Path) -> None:
    """TensorBoard's files go into the run folder; the others are told the project, the run's name and its config."""
    if tracker == "tensorboard":
        accelerator.init_trackers("tracker")
        return
    named = {"wandb": {"name": out.name, "dir": str(out)}}
    accelerator.init_trackers(project, config.model_dump(mode="json"), {k: v for k, v in named.items() if k == tracker})


def _compare_gpus(gpus: list[tuple[str, bool]]) -> None:
    """Names of all processes' GPUs and whether they have bf16. Raises UserError where only some have, since these would
    compute in another precision than the others; of other differences it tells."""
    names = sorted({name for name, _ in gpus})
    without = sorted({name for name, has in gpus if not has})
    if 0 < len(without) < len(names):
        raise UserError(
            f"the processes have GPUs of different kinds, {', '.join(names)}, and {', '.join(without)} has no bf16: "
            "choose GPUs of one kind with CUDA_VISIBLE_DEVICES"
        )
    if len(names) > 1:
        logger.warning(
            "GPUs of different kinds, %s: which of them makes a clip shows in its rounding", ", ".join(names)
        )


def _sharding() -> FullyShardedDataParallelPlugin | None:
    """FSDP 2 where `accelerate launch` asks for it, so that it computes what one process does under autocast. Left to
    Accelerate, it would round the weights of norms and codebooks, angles, the sum over layers, logits and gradients on
    their way to half precision."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    return FullyShardedDataParallelPlugin(mixed_precision_policy=policy)


def part_processes(status: int = 0) -> None:
    """For the end of a program: one of several processes ends right here. Interpreters that end in the usual way free
    what holds the processes together, which may wait for a thread that waits for the interpreter (gloo, in torch 2.13),
    and where others are gone, what is left of a training that broke off would wait for them."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if not status:
            atexit._run_exitfuncs()  # trackers have theirs
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def claim_folder(config: Section, out: Path, may_differ: Collection[str] = ()) -> None:
    """Writes `config.yaml` into a run folder. Raises UserError if it already holds the config of another run, one that
    differs in more than how it is carried out, in that it does more, or in the keys `may_differ`; unless that one left
    nothing but its config."""
    theirs = config_there(config, out) if out.exists() and _has_begun(out) else None
    found = differences(config, theirs) if theirs else {}
    if differing := {key: values for key, values in found.items() if key not in may_differ}:
        listed = [f"{key} is {there} there and {here} here" for key, (here, there) in differing.items()]
        more = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
        raise UserError(
            f"{out} holds a run with another config: {', '.join(listed[:4])}{more}; {ANOTHER_FOLDER}, or "
            "delete it to start afresh"
        )
    save_config(config, out)


def config_there(config: ConfigType, out: Path) -> ConfigType | None:
    """The config that a run folder holds; None where it holds none. Raises UserError for one of another kind than
    `config`."""
    written = out / "config.yaml"
    if not written.exists():
        return None
    try:
        return load_config(type(config), written)
    except UserError as error:
        problems = str(error).splitlines()[1:] or [str(error)]
        first = next((each for each in problems if "unknown key" in each), problems[0]).strip()
        raise UserError(
            f"{out} holds a run of another command, or of another version of evagen ({first}); {ANOTHER_FOLDER}"
        ) from error


def claim_results(folder: Path, made_from: dict[str, Any]) -> None:
    """Writes what the results in a folder are made from beside them. Raises UserError where those that are there were
    made from something else."""
    if (folder / MADE_FROM).exists():
        check_same(folder, read_made_from(folder / MADE_FROM), made_from)
    write_whole(folder / MADE_FROM, json.dumps(made_from, indent=1))


def read_made_from(path: Path) -> dict[str, Any]:
    """Raises UserError for a damaged file."""
    try:
        return read_json(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete {path.parent} to start afresh") from error


def check_same(folder: Path, made_from: dict[str, Any], about: dict[str, Any]) -> None:
    """Raises UserError for a folder of results that were made from something else than `about` says."""
    changed = [name for name in made_from | about if made_from.get(name) != about.get(name)]
    if changed:
        raise UserError(
            f"{folder} holds results that were made from other {', '.join(changed)} than there are now; put the "
            f"earlier ones back, or delete {folder} to start afresh"
        )


def _has_begun(out: Path) -> bool:
    """Whether a run folder holds more than what every run writes before its first step."""
    return any(path.name not in ("config.yaml", MADE_FROM, "tracker", "wandb", LOCK) for path in out.iterdir())


def device_name(device: torch.device) -> str:
    """The model of a GPU, since two of them do not round alike; else the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def versions() -> dict[str, str]:
    """Names and versions of what computes a result, for manifests and records."""
    return {
        "evagen": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "diffusers": diffusers.__version__,
    }
