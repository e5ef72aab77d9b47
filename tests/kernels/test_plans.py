"""Attention plans: the runs they are computed in, what other kernels are told, and plans that are refused."""

import pytest
import torch

from evagen.kernels.plans import (
    AttentionPlan,
    FamilyPlan,
    Run,
    concatenated_ranges,
    plan_causal,
    plan_families,
)
from evagen.kernels.transfer import send

CPU = torch.device("cpu")


def test_ranges_one_after_the_other():
    ranges = concatenated_ranges(torch.tensor([3, 0, 7]), torch.tensor([2, 0, 3]))
    assert ranges.tolist() == [3, 4, 7, 8, 9]


def test_neighbours_of_equal_length_share_one_call():
    plan = plan_causal([3, 3, 5, 3, 7, 7, 7])
    assert sorted((run.query_start, run.number, run.query_length) for run in plan.runs) == [
        (0, 2, 3), (6, 1, 5), (11, 1, 3), (14, 3, 7),
    ]  # fmt: skip
    assert all(run[1:4] == run[4:] for run in plan.runs)  # the keys are the queries' own rows
    assert plan.positions.tolist() == [0, 1, 2, 0, 1, 2, *range(5), *range(3), *[*range(7)] * 3]
    assert plan.positions.dtype == torch.int64


def test_keys_of_a_run_do_not_overlap():
    """Their gradients are added up in place."""
    plan = AttentionPlan((2, 2, 2), (4, 4, 4), (0, 2, 6))
    assert plan.runs == (Run(1, 0, 0, 2, 0, 0, 4), Run(2, 2, 2, 2, 2, 4, 4))


@pytest.mark.parametrize(
    "keys",
    [
        {"key_lengths": (2, 4), "key_starts": (0, 2)},
        {"key_lengths": (2, 3), "key_starts": (1, 3)},
    ],
)
def test_a_causal_plan_has_its_own_rows_as_keys(keys):
    with pytest.raises(ValueError, match=r"keys of a segment are its own rows.*as plan_causal does"):
        AttentionPlan((2, 3), **keys, causal=True)


def test_families_are_all_with_a_prefix_or_none_and_not_causal():
    with pytest.raises(ValueError, match="all families or none"):
        plan_families([2, 0], [2, 2], [2, 2])
    assert isinstance(plan_families([0, 0], [2, 2], [2, 2]), AttentionPlan)
    causal = plan_causal([2, 2])
    with pytest.raises(ValueError, match="cannot be causal"):
        FamilyPlan(AttentionPlan((4,), (2,), (0,)), causal)


def test_a_plan_stays_as_it_is_on_a_cpu_and_is_packed_once_elsewhere():
    plan = AttentionPlan((2, 3), (2, 4), (1, 0))
    assert plan.to(CPU) is plan
    moved = plan.to(torch.device("meta"))
    assert moved.packed.query_bounds.is_meta
    assert moved.to(torch.device("meta")) is moved
    family = plan_families([2], [1, 2], [1, 2])
    assert send(family, CPU) is family
    assert send(family, "meta").shared.packed.query_bounds.is_meta


def test_other_kernels_are_told_rows_and_bounds():
    packed = AttentionPlan((2, 3), (2, 4), (1, 0)).to_send().packed
    assert packed.key_rows.tolist() == [1, 2, 0, 1, 2, 3]
    assert packed.query_bounds.tolist() == [0, 2, 5]
    assert packed.key_bounds.tolist() == [0, 2, 6]
    assert packed.query_bounds.dtype == packed.key_bounds.dtype == torch.int32
    assert packed.flash.key_starts.tolist() == [1, 0, 4]
    assert packed.flash.key_lengths.tolist() == [2, 4]
    causal = plan_causal([2, 3]).to_send().packed
    assert causal.key_rows is None  # they lie so already
    assert causal.query_bounds.tolist() == causal.key_bounds.tolist() == [0, 2, 5]


@pytest.mark.parametrize(
    ("plan", "kind"),
    [(plan_causal([2, 3]), "BlockDiagonalCausalMask"), (AttentionPlan((2, 3), (2, 4), (1, 0)), "BlockDiagonalMask")],
)
def test_what_xformers_is_told_is_what_it_makes_of_lengths_itself(plan, kind):
    kind = getattr(pytest.importorskip("xformers.ops.fmha.attn_bias"), kind)
    bias, its_own = plan.to_send().xformers_bias, kind.from_seqlens(plan.query_lengths, plan.key_lengths)
    assert type(bias) is kind
    for part in ("q_seqinfo", "k_seqinfo"):
        ours, theirs = vars(getattr(bias, part)), vars(getattr(its_own, part))
        assert {**ours, "seqstart": None} == {**theirs, "seqstart": None}
        assert torch.equal(ours["seqstart"], theirs["seqstart"])
        assert ours["seqstart"].dtype == theirs["seqstart"].dtype


def test_what_xformers_is_told_is_made_once_and_copies_nothing():
    pytest.importorskip("xformers.ops.fmha.attn_bias")
    moved = plan_causal([2, 3]).to(torch.device("meta"))
    assert moved.xformers_bias is moved.xformers_bias
    assert moved.xformers_bias.q_seqinfo.seqstart is moved.packed.query_bounds
