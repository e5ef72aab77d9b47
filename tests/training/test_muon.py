"""Our batched Muon against torch's own."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evagen.training.muon import BatchedMuon, orthogonalised

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.sampled_from([(4, 4), (4, 9), (9, 4), (1, 7)]), min_size=1, max_size=7), st.integers(0, 2**31),
    st.data(),
)  # fmt: skip
def test_it_does_what_torchs_does(shapes, seed, data):
    """Any shapes in any order, over several steps, some of them without a gradient for some."""
    random = torch.Generator().manual_seed(seed)
    start = [torch.randn(*shape, generator=random) for shape in shapes]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in start] for _ in range(2))
    batched = BatchedMuon(ours, 0.02, 0.1)
    single = torch.optim.Muon(theirs, 0.02, 0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for mine, other in zip(ours, theirs):
            gradient = torch.randn(mine.shape, generator=random)
            is_there = data.draw(st.booleans())
            mine.grad, other.grad = (gradient, gradient.clone()) if is_there else (None, None)
        batched.step()
        single.step()
    for mine, other in zip(ours, theirs):
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-2)  # products in bf16
    for (_, mine), (_, other) in zip(batched.state_dict()["state"].items(), single.state_dict()["state"].items()):
        torch.testing.assert_close(mine["momentum_buffer"], other["momentum_buffer"])


def test_singular_values_become_about_one():
    matrices = torch.randn(5, 30, 12, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrices, COEFFICIENTS, 5, 1e-7).float())
    assert values.min() > 0.5
    assert values.max() < 1.4
    assert torch.linalg.svdvals(matrices).max() > 5


def test_a_torch_without_onednn_takes_fp32(monkeypatch):
    """As on a Mac: its operations are not even there to be asked."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", None)
    assert orthogonalised(torch.randn(1, 4, 4), COEFFICIENTS, 5, 1e-7).dtype == torch.float32
