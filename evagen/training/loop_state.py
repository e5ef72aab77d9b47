"""All that going on with a training needs, as files: `state.json`, which a person can read, and safetensors.

Models, optimisers and averages are stored whole, whatever held them, so that a run goes on with another number of
processes, with DDP or FSDP. Nothing here reads or writes a pickle: of a folder that somebody else has written, no byte
runs.
"""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evagen.errors import UserError
from evagen.training.sharding import spread_like, whole

STATE = "state.json"


class LoopState:
    """What Accelerate has prepared (models, optimisers, the scaler of fp16), each process's random numbers, and
    `kept`: further objects with `state_dict` and `load_state_dict`, whose states are the same in all processes."""

    def __init__(self, accelerator: Accelerator, kept: Sequence[Any]):
        self.accelerator, self.kept = accelerator, kept

    def collect(self) -> Callable[[Path], None]:
        """For all processes: the state as it is now. Returns what writes it into a folder, in the main process."""
        tensors: dict[str, dict[str, Tensor]] = {}
        keep = self.accelerator.is_main_process
        parts = {
            name: _encode(part.state_dict(), "", tensors.setdefault(name, {}), keep)
            for name, part in self._parts().items()
        }
        numbers = gather_object([_random_numbers(self.accelerator.device)])

        def write(folder: Path) -> None:
            (folder / STATE).write_text(
                json.dumps({"parts": parts, "random_numbers": numbers}) + "\n", encoding="utf-8"
            )
            for name, of_part in tensors.items():
                if of_part:
                    save_file(_apart(of_part), folder / f"{name}.safetensors")

        return write

    def load(self, folder: Path) -> None:
        """For all processes. The random numbers of a process that was not there before stay as they are. Raises
        UserError for a state that is not of this training."""
        try:
            state = json.loads((folder / STATE).read_bytes())
            for name, part in self._parts().items():
                file = folder / f"{name}.safetensors"
                values = _decode(state["parts"][name], load_file(file) if file.exists() else {})
                _put(values, part)
            numbers, process = state["random_numbers"], self.accelerator.process_index
            if len(numbers) == self.accelerator.num_processes:
                _set_random_numbers(numbers[process], self.accelerator.device)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
            raise UserError(
                f"{folder} is no state of this training: {' '.join(str(error).split())[:300]}; delete it to go on from "
                "the one before"
            ) from error

    def _parts(self) -> dict[str, Any]:
        """All that is stored, by the names of its files. Those of one kind are told apart by their places, `model_0`,
        `model_1`, so their order belongs to what is on disk."""
        of_kinds = {
            "model": [self.accelerator.unwrap_model(model) for model in self.accelerator._models],
            "optimizer": self.accelerator._optimizers,
            "kept": self.kept,
            "scaler": [self.accelerator.scaler] if self.accelerator.scaler is not None else [],
        }
        return {f"{kind}_{number}": part for kind, parts in of_kinds.items() for number, part in enumerate(parts)}


def _put(state: Any, part: Any) -> None:
    """Loads a state of whole tensors into what may hold a share of each in every process."""
    if isinstance(part, nn.Module):
        own = part.state_dict()
        part.load_state_dict({name: spread_like(value, own[name]) for name, value in state.items()})
        return
    if hasattr(part, "param_groups"):
        parameters = [each for group in part.param_groups for each in group["params"]]
        for number, of_parameter in state["state"].items():
            for name, value in of_parameter.items():
                if isinstance(value, Tensor) and value.shape == parameters[number].shape:
                    of_parameter[name] = spread_like(value, parameters[number])
    part.load_state_dict(state)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With a memory of its own for each name, since safetensors holds no two names of one."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return apart


def _encode(value: Any, name: str, tensors: dict[str, Tensor], keep: bool) -> Any:
    """A tree of plain values as JSON has them; tuples, tensors and dicts, whose keys may be numbers, as dicts of one
    key. The tensors go into `tensors` under the names of their places, where they are kept."""
    if isinstance(value, Tensor):
        of_all = whole(value.detach())
        if keep:
            tensors[name] = of_all.cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        items = [[key, _encode(inner, f"{name}.{key}".lstrip("."), tensors, keep)] for key, inner in value.items()]
        return {"dict": items}
    if isinstance(value, list | tuple):
        inner = [_encode(each, f"{name}.{number}".lstrip("."), tensors, keep) for number, each in enumerate(value)]
        return {"tuple": inner} if isinstance(value, tuple) else inner
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}, which JSON and safetensors do not hold")


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {key: _decode(each, tensors) for key, each in inner}
    return tuple(_decode(each, tensors) for each in inner)


def _random_numbers(device: torch.device) -> dict[str, Any]:
    """Where the generators of Python, NumPy and torch stand in this process, as JSON holds it."""
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002, a library may draw from it
    numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
    version, numbers, gauss = random.getstate()
    states = {"python": [version, list(numbers), gauss], "numpy": numpy_state, "torch": _hex(torch.get_rng_state())}
    if device.type == "cuda":
        states["cuda"] = _hex(torch.cuda.get_rng_state(device))
    return states


def _set_random_numbers(states: dict[str, Any], device: torch.device) -> None:
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    numpy_state = states["numpy"]
    numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy_state)  # noqa: NPY002
    torch.set_rng_state(_from_hex(states["torch"]))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(_from_hex(states["cuda"]), device)


def _hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _from_hex(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
