"""Tensors that travel together arrive as they were."""

from dataclasses import dataclass

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evagen.kernels.plans import AttentionPlan
from evagen.kernels.transfer import _parts, _sent, send

TYPES = [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float32, torch.float64, torch.bfloat16]


@dataclass(frozen=True)
class Nest:
    rows: Tensor
    some: tuple[Tensor, ...]
    name: str = "kept"
    none: Tensor | None = None


def tensor(kind: torch.dtype, shape: tuple[int, ...], seed: int) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 100).to(kind)


@given(
    st.lists(
        st.tuples(st.sampled_from(TYPES), st.lists(st.integers(0, 5), max_size=3).map(tuple)), min_size=1, max_size=6
    )
)
def test_any_types_and_shapes_share_a_buffer(kinds):
    """As parts of one buffer, here on the CPU; every second one is not contiguous."""
    tensors = [tensor(kind, shape, seed) for seed, (kind, shape) in enumerate(kinds)]
    tensors = [each.T if each.ndim == 2 and number % 2 else each for number, each in enumerate(tensors)]
    for there, here in zip(_sent(tensors, torch.device("cpu")), tensors, strict=True):
        assert (there.dtype, there.shape) == (here.dtype, here.shape)
        assert torch.equal(there, here)


def test_parts_begin_where_their_type_may():
    sizes = [16, 32, 16]
    parts = _parts(
        torch.zeros(64, dtype=torch.uint8),
        sizes,
        [torch.zeros(3, dtype=k) for k in (torch.bool, torch.float64, torch.int32)],
    )
    assert [part.data_ptr() % part.element_size() for part in parts] == [0, 0, 0]


def test_nests_keep_their_form_and_stay_as_they_are_on_a_cpu():
    nest = (Nest(torch.arange(3), (torch.ones(2), torch.zeros(()))), [AttentionPlan((2,), (2,), (0,))], 7)
    assert send(nest, "cpu") is nest
    moved, (plan,), number = send(nest, "meta")
    assert (moved.name, moved.none, number) == ("kept", None, 7)
    assert (moved.rows.device.type, moved.rows.shape) == ("meta", (3,))
    assert [each.shape for each in moved.some] == [(2,), ()]
    assert plan.packed.query_bounds.is_meta
    assert send(moved, "meta") is moved  # there already
