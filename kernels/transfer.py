"""From the host to a device in one copy.

A batch needs a dozen small tensors of numbers, of which each copy by itself costs a launch and, from memory that is not
pinned, a wait. So they are made on the CPU first and travel together, in one pinned buffer.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Nest = TypeVar("Nest")
ALIGNMENT = 16
"""Bytes; every type of number may begin at a multiple."""


def send(nest: Nest, device: torch.device | str) -> Nest:
    """Dataclasses, tuples and lists of tensors, nested, with every CPU tensor on a device; what is there already stays.
    An object with a method `to_send` is replaced by its result first. On a CPU `nest` itself."""
    device = torch.device(device)
    if device.type == "cpu":
        return nest
    tensors: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    nest = _each(nest, collect)
    if not tensors:
        return nest
    sent = iter(_sent(tensors, device))
    return _each(nest, lambda _: next(sent), prepare=False)


def _each(nest: Any, change: Callable[[Tensor], Tensor], prepare: bool = True) -> Any:
    """The nest with every CPU tensor changed, in a fixed order."""
    if isinstance(nest, Tensor):
        return change(nest) if nest.device.type == "cpu" else nest
    if prepare and hasattr(nest, "to_send"):
        nest = nest.to_send()
    if is_dataclass(nest) and not isinstance(nest, type):
        parts = {each.name: getattr(nest, each.name) for each in fields(nest)}
        changed = {name: _each(part, change, prepare) for name, part in parts.items()}
        # What stays as it is keeps what it has cached.
        return nest if all(changed[name] is parts[name] for name in parts) else replace(nest, **changed)
    if isinstance(nest, tuple | list):
        each_changed = [_each(one, change, prepare) for one in nest]
        return nest if all(new is old for new, old in zip(each_changed, nest)) else type(nest)(each_changed)
    return nest


def _sent(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """CPU tensors on a device, as parts of one buffer."""
    sizes = [-(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT for tensor in tensors]
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=device.type == "cuda")
    for part, tensor in zip(_parts(buffer, sizes, tensors), tensors):
        part.copy_(tensor)
    return _parts(buffer.to(device, non_blocking=True), sizes, tensors)


def _parts(buffer: Tensor, sizes: list[int], tensors: list[Tensor]) -> list[Tensor]:
    """The places of tensors in a buffer of bytes, as tensors of their type and shape."""
    return [
        part[: tensor.numel() * tensor.element_size()].view(tensor.dtype).view(tensor.shape)
        for part, tensor in zip(buffer.split(sizes), tensors)
    ]
