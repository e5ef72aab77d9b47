"""Packed layouts: where blocks stand, and who sees whom."""

import torch

from evagen.tokenizer.packing import PackedLayout, plan_block_causal, plan_within_blocks


def test_where_blocks_stand():
    layout = PackedLayout(torch.tensor([[2, 4], [1, 3]]))
    assert layout.num_rows == 10
    assert layout.starts.tolist() == [[0, 2], [6, 7]]


def test_a_block_sees_its_clip_up_to_itself():
    """Queries and keys in layouts of their own."""
    queries, keys = (PackedLayout(torch.tensor(lengths)) for lengths in ([[2, 4], [1, 3]], [[5, 5], [2, 6]]))
    plan = plan_block_causal(queries, keys)
    assert plan.query_lengths == (2, 4, 1, 3)
    assert plan.key_starts == (0, 0, 10, 10)
    assert plan.key_lengths == (5, 10, 2, 8)


def test_within_blocks_rows_see_each_other_only():
    plan = plan_within_blocks(PackedLayout(torch.tensor([[2, 4], [1, 3]])))
    assert plan.query_lengths == plan.key_lengths == (2, 4, 1, 3)
    assert plan.key_starts == (0, 2, 6, 7)


def test_equal_clips_share_one_call():
    layout = PackedLayout(torch.tensor([[4, 4, 4]] * 5))
    assert [run.number for run in plan_block_causal(layout, layout).runs] == [5, 5, 5]
