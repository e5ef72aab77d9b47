"""Tensors on the pretended GPU, and the mode in which they live.

    guard.load()                                  # before torch is imported
    with PretendedGPU() as gpu:
        main(config)                              # any code that takes `cuda` where torch has it
    gpu.meetings                                  # Counter of (kind, place): where host and device met

A meeting is a copy between host and device in either direction, or an operation whose result's shape or value the host
needs (`item`, `nonzero`, …): on a real GPU each drains the queue of kernels, but for `to the device`, a copy that is
not waited for and costs a launch of its own.
"""

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing

from evagen.bench.pretended.kernels import EMULATED
from evagen.kernels.flash import attend, attend_backward

CUDA = torch.device("cuda", 0)
PROJECT = str(Path(__file__).resolve().parents[3])
WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal",
    "is_nonzero", "bincount",
}  # fmt: skip
"""Operations whose result the host waits for."""
VIEWS = {
    "view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "detach",
    "alias", "as_strided", "unbind", "split", "split_with_sizes", "unfold", "view_as_complex", "view_as_real",
    "_reshape_alias", "diagonal", "unflatten", "real", "imag", "_conj", "movedim", "lift_fresh", "is_pinned",
    "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided",
}  # fmt: skip
"""Operations that launch no kernel."""
OURS = {"evagen::flash_attention": attend, "evagen::flash_attention_backward": attend_backward}
WAITING = "to the device, waited for"
"""A copy that the host does not go on beside."""
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
MATH_ATTENTION = 0
"""What `_fused_sdp_choice` answers for attention made of matrix products."""


@dataclass(frozen=True)
class Operation:
    """What torch says of an operation, asked once for each: its schema is slow to read.

    writes: (number of the argument, its name, the name of its memory) of what it writes into.
    returns: the name of the memory that each result shares with an argument, or None."""

    name: str
    is_mutable: bool
    may_alias: bool
    writes: tuple[tuple[int, str, frozenset[str]], ...]
    returns: tuple[frozenset[str] | None, ...]

    @staticmethod
    @functools.cache
    def of(func) -> "Operation":
        schema = func._schema
        memory = [result.alias_info and frozenset(result.alias_info.before_set) for result in schema.returns]
        writes = tuple(
            (number, argument.name, frozenset(argument.alias_info.before_set))
            for number, argument in enumerate(schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        )
        name = schema.name.removeprefix("aten::")
        return Operation(name, schema.is_mutable, any(x is not None for x in memory), writes, tuple(memory))

    def written(self, args: tuple, kwargs: dict) -> dict[frozenset[str], Any]:
        """What it writes into, by the name of its memory."""
        return {
            memory: args[number] if number < len(args) else kwargs.get(name) for number, name, memory in self.writes
        }


class Pretended(Tensor):
    """A tensor on the pretended GPU. inner: its values, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretended":
        return Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=CUDA,
        )  # fmt: skip

    def __init__(self, inner: Tensor):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return PretendedGPU.current.run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"Pretended({tuple(self.shape)}, {self.dtype})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to the host first."
        )

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def __reduce_ex__(self, _: Any) -> Any:
        return _on_the_host, (self.cpu(),)

    def __deepcopy__(self, memo: dict) -> "Pretended":
        with torch.no_grad():
            copied = self.clone()
        copied = torch.nn.Parameter(copied) if isinstance(self, torch.nn.Parameter) else copied
        return memo.setdefault(id(self), copied.requires_grad_(self.requires_grad))


def _on_the_host(tensor: Tensor) -> Tensor:
    """What a saved tensor is read as."""
    return tensor


class PretendedGPU(TorchDispatchMode):
    """While it is entered, torch has one CUDA device. Needs `guard.load` before torch was imported.

    Attributes: meetings, Counter of (kind, place in the project); launches, how many kernels were started."""

    current: "PretendedGPU"

    def __init__(self) -> None:
        super().__init__()
        self.meetings: Counter[tuple[str, str]] = Counter()
        self.launches = 0
        self.graph: PretendedGraph | None = None
        """That is being recorded."""
        self._patches = ExitStack()

    def reset(self) -> None:
        self.meetings.clear()
        self.launches = 0

    def __enter__(self) -> "PretendedGPU":
        PretendedGPU.current = self
        answers = {
            "is_available": True, "device_count": 1, "current_device": 0, "is_bf16_supported": True,
            "get_device_name": "pretended GPU", "get_device_capability": (9, 0), "is_initialized": True,
            "get_rng_state": torch.zeros(16, dtype=torch.uint8), "mem_get_info": (80 << 30, 80 << 30),
            "max_memory_allocated": 0, "memory_allocated": 0, "memory_reserved": 0, "max_memory_reserved": 0,
            **dict.fromkeys([
                "_lazy_init", "init", "set_device", "manual_seed", "manual_seed_all", "empty_cache",
                "set_rng_state", "reset_peak_memory_stats",
            ]),
        }  # fmt: skip
        for name, answer in answers.items():
            self._patches.enter_context(patch.object(torch.cuda, name, lambda *_, answer=answer, **__: answer))
        for name, replacement in (
            ("synchronize", lambda *_: self._meet("synchronize", _place())),
            ("CUDAGraph", PretendedGraph),
            ("graph", lambda graph, **_: graph.recorded()),
            *((name, Anywhere) for name in ("device", "stream", "Stream", "current_stream")),
        ):
            self._patches.enter_context(patch.object(torch.cuda, name, replacement))
        torch.__future__.set_swap_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_swap_module_params_on_conversion(False)
        self._patches.close()

    def _meet(self, kind: str, place: str) -> None:
        if self.graph is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {kind} at {place}")
        self.meetings[kind, place] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def run(self, func, args: tuple, kwargs: dict) -> Any:
        """One operation, on whichever device its tensors are."""
        operation = Operation.of(func)
        name = operation.name
        tensors = [x for x in _leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_gpu = [x for x in tensors if isinstance(x, Pretended)]
        device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        if name == "is_pinned":
            return False
        if name == "_pin_memory":
            return args[0].clone()
        if not on_gpu and (device is None or device.type != "cuda"):
            return func(*args, **{key: value for key, value in kwargs.items() if key != "pin_memory"})
        if (
            name in ("_to_copy", "copy_")
            and len({isinstance(x, Pretended) for x in tensors} | {_goes(device)} - {None}) > 1
        ):
            return self._copy_across(func, args, kwargs, device)
        if name == "device":
            return CUDA
        if name == "_fused_sdp_choice":
            return MATH_ATTENTION
        if name == "_conj":  # a flag of the tensor, which a wrapper does not show
            return self.run(torch.ops.aten._conj_physical.default, args, kwargs)
        if name in OURS:  # made of torch's operations
            return OURS[name](*args, **kwargs)
        self._check(name, args, tensors)
        self.launches += name not in VIEWS
        if name in WAITS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self._meet(name.strip("_"), _place())
        kwargs = {key: value for key, value in kwargs.items() if key not in ("pin_memory", "non_blocking")}
        inner_args, inner_kwargs = _mapped(_inner, (args, kwargs))
        if device is not None:
            inner_kwargs["device"] = torch.device("cpu")
        if self.graph is not None:
            self.graph.remember(operation.written(inner_args, inner_kwargs))
        compute = EMULATED.get(name, func)
        with _disable_current_modes():  # an emulated kernel computes on the CPU
            result = compute(*inner_args, **inner_kwargs)
        if self.graph is not None and (operation.is_mutable or not operation.may_alias):  # views see what is written
            self.graph.add(compute, inner_args, inner_kwargs, None if operation.is_mutable else result)
        if operation.is_mutable:
            return _written(operation, args, kwargs, result)
        result = _mapped(_pretended, result)
        return return_and_correct_aliasing(func, args, kwargs, result) if operation.may_alias else result

    def _copy_across(self, func, args: tuple, kwargs: dict, device: torch.device | None) -> Tensor:
        to_host = device.type == "cpu" if device is not None else not isinstance(args[0], Pretended)
        in_place = Operation.of(func).name == "copy_"
        goes_on = args[2] if in_place and len(args) > 2 else kwargs.get("non_blocking", False)
        self._meet("to the host" if to_host else "to the device" if goes_on else WAITING, _place())
        if in_place:
            func(*map(_inner, args))
            return args[0]
        kwargs = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking", "pin_memory")}
        copied = func(_inner(args[0]), **kwargs)
        copied = copied.clone() if copied is _inner(args[0]) else copied
        return copied if to_host else Pretended(copied)

    def _check(self, name: str, args: tuple, tensors: list[Tensor]) -> None:
        """What CUDA refuses, and the meetings of indexing."""
        if name in INDEXING:
            indices = [index for index in args[1] if index is not None]
            if not isinstance(args[0], Pretended):
                raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
            for index in indices:
                if not isinstance(index, Pretended):
                    self._meet(WAITING, _place())
                if index.dtype in (torch.bool, torch.uint8):
                    self._meet("nonzero", _place())
            tensors = [args[0], *(x for x in args[2:] if isinstance(x, Tensor))]
        strangers = [x for x in tensors if not isinstance(x, Pretended) and x.dim() > 0]
        if strangers and not name.startswith("_foreach"):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"({name} of {[(tuple(x.shape), x.dtype, x.device.type) for x in tensors]} at {_place()})"
            )


class Anywhere:
    """A stream or a device to be current: there is one of each, and a class in their place, since annotations name
    them."""

    def __init__(self, *_: Any):
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: Any) -> None:
        pass


class PretendedGraph:
    """A CUDA graph: the operations between, to be run again on the same tensors. As on CUDA, recording changes nothing
    that was there before, and whatever is read back or copied from the host while it lasts is an error."""

    def __init__(self) -> None:
        self.gpu = PretendedGPU.current
        self._steps: list[tuple[Any, tuple, dict, Any]] = []  # function, arguments, and where new results belong
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # by storage: what was written into, and its values before

    @contextmanager
    def recorded(self) -> Iterator[None]:
        self.gpu.graph = self
        try:
            yield
        finally:
            self.gpu.graph = None
            for written, values in self._before.values():
                written.copy_(values)
            self._before.clear()

    def remember(self, written: dict[frozenset[str], Any]) -> None:
        """The values of what an operation is going to write into."""
        for each in written.values():
            for tensor in _leaves(each):
                storage = tensor.untyped_storage()
                whole = torch.empty(0, dtype=torch.uint8).set_(storage)
                self._before.setdefault(storage.data_ptr(), (whole, whole.clone()))

    def add(self, compute, args: tuple, kwargs: dict, result: Any) -> None:
        self._steps.append((compute, args, kwargs, result))

    def replay(self) -> None:
        """One launch."""
        self.gpu.launches += 1
        with _disable_current_modes():
            for compute, args, kwargs, result in self._steps:
                again = compute(*args, **kwargs)
                for kept, new in zip(_leaves(result) if result is not None else (), _leaves(again)):
                    kept.copy_(new)


def _leaves(x: Any) -> Iterator[Any]:
    """What stands in tuples, lists and dictionaries. torch's own walks over trees take most of an operation's time."""
    if isinstance(x, tuple | list | dict):
        for each in x.values() if isinstance(x, dict) else x:
            yield from _leaves(each)
    else:
        yield x


def _mapped(function: Callable[[Any], Any], x: Any) -> Any:
    """The same trees with other leaves."""
    if isinstance(x, dict):
        return {key: _mapped(function, value) for key, value in x.items()}
    if isinstance(x, tuple | list):
        return type(x)([_mapped(function, each) for each in x])
    return function(x)


def _goes(device: torch.device | None) -> bool | None:
    """Whether a copy goes to the GPU; None where it stays."""
    return None if device is None else device.type == "cuda"


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, Pretended) else x


def _pretended(x: Any) -> Any:
    return Pretended(x) if isinstance(x, Tensor) and not isinstance(x, Pretended) else x


def _written(operation: Operation, args: tuple, kwargs: dict, result: Any) -> Any:
    """What an operation that writes into its arguments returns: these arguments."""
    written = operation.written(args, kwargs)
    for value in written.values():
        for one in _leaves(value):
            if isinstance(one, Pretended) and one.shape != one.inner.shape:
                raise NotImplementedError(f"{operation.name} changes a shape, which a pretended tensor cannot")
    results = result if isinstance(result, tuple | list) else (result,)
    returned = [
        _mapped(_pretended, one) if memory is None else written.get(memory)
        for memory, one in zip(operation.returns, results)
    ]
    if isinstance(result, tuple | list):
        return tuple(returned)
    return returned[0] if returned else None


def _place() -> str:
    """The innermost line of the project, outside of this package, that is running; or of a library below it."""
    frame, library = sys._getframe(1), "?"
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PROJECT) and "site-packages" not in name and "pretended" not in name:
            return f"{name[len(PROJECT) + 1 :]}:{frame.f_lineno}"
        if library == "?" and "site-packages" in name and "site-packages/torch/" not in name:
            library = f"{name.split('site-packages/')[1]}:{frame.f_lineno}"
        frame = frame.f_back
    return library
