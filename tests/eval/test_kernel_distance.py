"""The kernel distance against torchmetrics and a loop over pairs; its streaming and its processes."""


# isort: split

import pytest
import torch
from feature_sets import PixelDetector, clips, in_two_processes, random
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from evagen.eval import kernel
from evagen.eval.kernel import KernelVideoDistance, kernel_distance


def test_equals_torchmetrics():
    a, b = random(60, 40), 1.5 * random(60, 40, seed=1) + 0.3
    theirs = poly_mmd(a, b, degree=3, gamma=None, coef=1.0)
    assert kernel_distance(a, b).item() == pytest.approx(theirs.item(), rel=1e-10)


@given(st.integers(2, 7), st.integers(2, 7), st.integers(1, 5), st.integers(1, 4), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_equals_a_loop_over_pairs_in_blocks_of_any_size(n, m, width, rows, seed):
    x, y = random(n, width, seed=seed), random(m, width, seed=seed + 1)

    def k(a: Tensor, b: Tensor) -> float:
        return (a @ b / width + 1).item() ** 3

    same = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    other = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    across = sum(k(a, b) for a in x for b in y) / (n * m)
    before, kernel.ROWS_AT_ONCE = kernel.ROWS_AT_ONCE, rows
    try:
        ours = kernel_distance(x, y).item()
    finally:
        kernel.ROWS_AT_ONCE = before
    assert ours == pytest.approx(same + other - 2 * across, rel=1e-9, abs=1e-10)


def test_is_unbiased_at_any_count():
    values = torch.stack([kernel_distance(random(5, 3, seed=s), random(9, 3, seed=s + 10_000)) for s in range(2000)])
    assert values.mean().abs() < 4 * values.std() / 2000**0.5
    assert values.min() < 0


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_metric_in_batches_equals_all_at_once():
    real, generated = clips(20, 0), 1.3 * clips(15, 1) + 0.2
    metric = KernelVideoDistance(PixelDetector())
    for batch in real.split(6):
        metric.update(batch, real=True)
    for batch in generated.split(4):
        metric.update(batch, real=False)
    expected = kernel_distance(PixelDetector()(real), PixelDetector()(generated))
    assert metric.compute().item() == pytest.approx(expected.item(), rel=1e-12)
    assert metric.features(real=True).shape == (20, 8)
    metric.reset()
    with pytest.raises(ValueError, match="at least 2 real and 2 generated videos, got 0 and 0"):
        metric.compute()


def distance_as_process(rank: int) -> float:
    metric = KernelVideoDistance(PixelDetector())
    metric.update(clips(21, 0)[rank::2], real=True)
    if rank == 1:  # the other process sees no generated clip at all
        metric.update(2 * clips(12, 1)[:7] + 1, real=False)
        metric.update(2 * clips(12, 1)[7:] + 1, real=False)
    first = metric.compute()
    metric.update(torch.zeros(0, 3, 2, 4, 4), real=False)  # after a sync each process has its own again
    assert metric.compute() == first
    return first.item()


def test_two_processes_equal_one(tmp_path):
    distances = in_two_processes(distance_as_process, str(tmp_path / "rendezvous"))
    alone = KernelVideoDistance(PixelDetector())
    alone.update(clips(21, 0), real=True)
    alone.update(2 * clips(12, 1) + 1, real=False)
    assert distances == pytest.approx([alone.compute().item()] * 2, rel=1e-9)


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(N, D\) and \(M, D\), not \(4, 3\) and \(4, 2\)"):
        kernel_distance(random(4, 3), random(4, 2))
    metric = KernelVideoDistance(PixelDetector())
    with pytest.raises(ValueError, match="detector pixels gave features"):
        metric.update(torch.full((2, 3, 2, 4, 4), float("nan")), real=True)
