"""Attention on a GPU, in every pattern that the models have: what each kernel takes, and how far it is from fp64.

Legend: Nq query rows, Nk key rows, h heads, d head width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evagen.bench.attention import HEAD_WIDTH, HEADS, router_like_lengths
from evagen.bench.timing import gpu_seconds
from evagen.kernels.attention import planned_attention
from evagen.kernels.backends import backend_for, xformers_works
from evagen.kernels.plans import AttentionPlan, plan_causal
from evagen.kernels.words import first_line
from evagen.tokenizer.packing import PackedLayout, plan_block_causal, plan_within_blocks

Attend = Callable[..., Tensor]
"""Queries (Nq, h, d), keys and values (Nk, h, d) → (Nq, h, d)."""
KERNELS = (
    ("flash", torch.bfloat16), ("xformers", torch.bfloat16), ("flex", torch.bfloat16), ("torch", torch.float32),
    ("xformers", torch.float32),
)  # fmt: skip
WITH_FLEX = "tokens"
"""The pattern that FlexAttention is tried in, which takes long to compile."""


class Pattern(NamedTuple):
    """name; plan: who sees whom; keys: how many rows of keys there are."""

    name: str
    plan: AttentionPlan
    keys: int


def patterns(num_clips: int, patches: int) -> list[Pattern]:
    """Of clips with lengths as a router gives them and so many patches a block: the encoder's, in which tokens see
    tokens of their block or of earlier ones too, and patches; the decoder's, in which patches see patches and tokens;
    and the generator's."""
    lengths = router_like_lengths(num_clips, seed=0)
    tokens, pixels = PackedLayout(lengths), PackedLayout(torch.full_like(lengths, patches))
    return [
        Pattern("tokens", plan_block_causal(tokens, tokens), tokens.num_rows),
        Pattern("tokens of a block", plan_within_blocks(tokens), tokens.num_rows),
        Pattern("tokens to patches", plan_block_causal(tokens, pixels), pixels.num_rows),
        Pattern("patches", plan_block_causal(pixels, pixels), pixels.num_rows),
        Pattern("patches to tokens", plan_block_causal(pixels, tokens), tokens.num_rows),
        Pattern("sequences", plan_causal(lengths.sum(1).tolist()), tokens.num_rows),
    ]


def measure(num_clips: int, patches: int, compiles: bool, repeats: int) -> list[dict]:
    """A row for each pattern, each kernel, of torch's own the one that works, and type: milliseconds forward and
    backward, and the largest differences of values and gradients from fp64 on the CPU, over the largest value."""
    return [row for pattern in patterns(num_clips, patches) for row in _of_pattern(pattern, compiles, repeats)]


def _of_pattern(pattern: Pattern, compiles: bool, repeats: int) -> list[dict]:
    random, device = torch.Generator().manual_seed(0), torch.device("cuda", 0)
    rows_of = (sum(pattern.plan.query_lengths), pattern.keys, pattern.keys)
    exact = [torch.randn(n, HEADS, HEAD_WIDTH, generator=random, dtype=torch.float64) for n in rows_of]
    expected, rows = _with_gradients(exact, _planned("auto", pattern.plan)), []
    on_gpu = pattern.plan.to(device)
    for backend, dtype in KERNELS:
        if backend == "flex" and pattern.name != WITH_FLEX:
            continue
        kernel = backend_for(device, dtype, HEAD_WIDTH, "torch") if backend == "torch" else backend  # what works of it
        row: dict[str, Any] = {"pattern": pattern.name, "kernel": kernel, "type": str(dtype).removeprefix("torch.")}
        rows.append(row)
        if backend == "xformers" and not xformers_works(device, dtype, HEAD_WIDTH):
            row["error"] = "does not work here"
            continue
        if backend == "flex" and not compiles:
            row["error"] = "is compiled for a real GPU only"
            continue
        inputs = [x.to("cuda", dtype) for x in exact]
        try:
            attend = flex_attention_of(pattern.plan, pattern.keys) if backend == "flex" else _planned(backend, on_gpu)
            found = _with_gradients(inputs, attend)
            took = gpu_seconds(lambda a=attend, x=inputs: _with_gradients(x, a), repeats)
        except Exception as error:
            row["error"] = first_line(error)
            continue
        row["milliseconds"] = 1e3 * took
        names = ("values", "of_queries", "of_keys", "of_values")
        row |= {
            name: ((mine.double().cpu() - theirs).abs().max() / theirs.abs().max()).item()
            for name, mine, theirs in zip(names, found, expected)
        }
    return rows


def _with_gradients(inputs: list[Tensor], attend: Attend) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    attended = attend(*leaves)
    return [attended, *torch.autograd.grad(attended, leaves, torch.ones_like(attended))]


def _planned(backend: Any, plan: AttentionPlan) -> Attend:
    return lambda *inputs: planned_attention(*inputs, plan, backend)


def flex_attention_of(plan: AttentionPlan, num_keys: int, device: str = "cuda") -> Attend:
    """Attention by a plan, over so many keys, by torch's FlexAttention, on a GPU compiled."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    lengths = torch.tensor(plan.query_lengths)
    first, count = (torch.tensor(x).repeat_interleave(lengths) for x in (plan.key_starts, plan.key_lengths))  # (Nq,)
    ends = first + (plan.positions + 1 if plan.causal else count)
    first, ends = first.to(device), ends.to(device)

    def seen(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key >= first[query]) & (key < ends[query])

    mask = create_block_mask(seen, None, None, len(first), num_keys, device=device)
    attend = torch.compile(flex_attention) if device == "cuda" else flex_attention

    def attended(*inputs: Tensor) -> Tensor:
        query, key, value = (x.transpose(0, 1)[None] for x in inputs)  # (1, h, N, d) each
        return attend(query, key, value, block_mask=mask)[0].transpose(0, 1)  # (Nq, h, d)

    return attended
