"""Which clips a batch of token sequences is packed from."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_corpus import write_corpus

from evagen.ar_model import SequenceGrammar
from evagen.data.corpus import Windows, read_corpus
from evagen.data.loader import EndlessSampler
from evagen.errors import UserError
from evagen.training.token_batches import ClipBatches, class_dropout_numbers, weighted_batches


def batches_of(tokens_per_clip, num_processes=1, batch_size=None, tokens_per_batch=None) -> ClipBatches:
    return ClipBatches(np.array(tokens_per_clip), 0, num_processes, batch_size, tokens_per_batch)


def some(batches: ClipBatches, count: int) -> list[list[list[int]]]:
    return [next(batches) for _ in range(count)]


clip_sizes = st.lists(st.integers(1, 30), min_size=1, max_size=20)


@settings(max_examples=80, deadline=None)
@given(clip_sizes, st.integers(30, 90), st.integers(1, 3))
def test_each_batch_holds_as_many_whole_clips_as_fit(sizes, budget, num_processes):
    shares = [share for batch in some(batches_of(sizes, num_processes, None, budget), 12) for share in batch]
    size_of = lambda key: sizes[key % len(sizes)]  # noqa: E731
    for share, following in pairwise(shares):
        used = sum(map(size_of, share))
        assert used <= budget < used + size_of(following[0])


@settings(max_examples=60, deadline=None)
@given(clip_sizes, st.sampled_from([(3, None), (None, 40)]), st.integers(1, 3))
def test_processes_share_one_endless_sequence(sizes, rule, num_processes):
    batches = batches_of(sizes, num_processes, *rule)
    keys = [key for batch in some(batches, 10) for share in batch for key in share]
    order = iter(EndlessSampler(len(sizes), 0))
    assert keys == [next(order) for _ in keys]
    assert batches.state_dict() == {"position": len(keys)}


@settings(max_examples=60, deadline=None)
@given(clip_sizes, st.sampled_from([(3, None), (None, 40)]), st.integers(0, 9), st.integers(1, 3))
def test_from_the_kept_place_the_same_batches_follow(sizes, rule, stop, num_processes):
    straight, stopped, resumed = (batches_of(sizes, num_processes, *rule) for _ in range(3))
    some(stopped, stop)
    resumed.load_state_dict(stopped.state_dict())
    assert some(straight, 10)[stop:] == some(resumed, 10 - stop)


@pytest.mark.parametrize("rule", [(3, None), (None, 40)])
def test_the_weights_of_a_step_are_shares_of_what_it_predicts(rule):
    sizes = np.array([9, 4, 30, 12, 7])
    shares = [weighted_batches(batches_of(sizes, 2, *rule), sizes - 2, 3, process) for process in range(2)]
    step = [next(each) for each in shares for _ in range(3)]
    assert sum(batch.weight for batch in step) == pytest.approx(2 * 3)  # as many as there are gradients in the mean
    assert {batch.num_targets for batch in step} > {min(batch.num_targets for batch in step)}
    for batch in step:
        assert batch.num_targets == sum(int(sizes[key % 5]) - 2 for key in batch.keys)
        assert batch.weight / step[0].weight == pytest.approx(batch.num_targets / step[0].num_targets)


def test_a_budget_too_small_for_the_longest_clip_is_explained():
    with pytest.raises(UserError, match=r"tokens_per_batch is 8, but the longest clip .* takes 9 tokens"):
        batches_of([3, 9, 4], tokens_per_batch=8)


def test_class_dropout_follows_from_the_clip_and_the_seed_alone():
    numbers = class_dropout_numbers(range(2000), seed=1)
    assert numbers[7:9] == class_dropout_numbers([7, 8], seed=1)
    assert numbers[:9] != class_dropout_numbers(range(9), seed=2)
    assert np.mean(np.array(numbers) < 0.1) == pytest.approx(0.1, abs=0.02)


# Windows of long rows


def test_windows_are_pieces_of_their_rows(tmp_path):
    corpus = read_corpus(write_corpus(tmp_path, 5, blocks=10, memory_blocks=2))
    windows = Windows(corpus, 8)
    assert windows.starts.tolist() == [0, 2] * 5
    numbers = [1, 4, 9]
    clips, labels, given, begins_later = windows.read(numbers)
    assert (given, begins_later) == (None, [True, False, True])
    for number, clip, label in zip(numbers, clips, labels.tolist()):
        row, start = corpus.table[int(windows.rows[number])], int(windows.starts[number])
        before = int(row["lengths"][:start].sum())
        assert torch.equal(clip.lengths, row["lengths"][start : start + 8])
        assert torch.equal(clip.codes, row["codes"][before : before + int(clip.lengths.sum())])
        assert label == row["label"]
    grammar = SequenceGrammar(corpus.codebook_size, corpus.levels, 8, 2, endless=True)
    _, lengths = grammar.pack(clips, labels, begins_later=begins_later)
    assert lengths == windows.tokens[numbers].tolist()
    assert windows.targets[numbers].tolist() == [int(clip.lengths.sum()) + 8 for clip in clips]


def test_without_windows_rows_are_learnt_whole(tmp_path):
    corpus = read_corpus(write_corpus(tmp_path, 5))
    windows = Windows(corpus)
    assert (windows.rows.tolist(), windows.starts.tolist()) == ([0, 1, 2, 3, 4], [0] * 5)
    assert windows.tokens.tolist() == (windows.targets + 2).tolist()


def test_windows_that_cannot_be_are_explained(tmp_path):
    clips, runs = (write_corpus(tmp_path / f"{m}", 3, memory_blocks=m) for m in (None, 2))
    with pytest.raises(UserError, match="blocks=2: the corpus is of a tokenizer without a memory"):
        Windows(read_corpus(clips), 2)
    for blocks in (1, 3, 4):
        with pytest.raises(UserError, match=f"blocks={blocks}: the rows .* have 3 blocks, .*; give at most 2, or"):
            Windows(read_corpus(runs), blocks)
    assert Windows(read_corpus(runs), 2).starts.tolist() == [0, 1] * 3
