"""Writing a token at a time: a generator's weights and cache arranged so that a step takes about as long as reading
the weights from memory.

Projections that read the same input are one matrix product. Rows are sequences; each stands at its own position, so
one that has ended can make room for another. A step of few rows is compiled code where that is possible: on a CPU
decode_step.py, on CUDA in half precision decode_step_triton.py. Everything else is torch's operations.

Legend: R rows, N packed tokens, M cache length, D width, h heads, d = D / h, E hidden width of the MLP, V vocabulary.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evagen.ar_model.transformer import DecoderLayer, VideoGenerator
from evagen.kernels.backends import HALF, flash_works, works
from evagen.kernels.decode_step import CompiledStep, can_compile
from evagen.kernels.flash import FlashPlan, flash_forward
from evagen.kernels.packed_linear import pack_linears
from evagen.kernels.plans import plan_causal
from evagen.kernels.transfer import send

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]
Method = TypeVar("Method", bound=Callable)
Step = Callable[[Tensor, Tensor], Tensor]
"""Tokens and positions int64 (R,) → logits (R, V)."""
LARGEST_ERROR = 0.1
"""Of a step in half precision, relative to another with the same roundings but other orders of sums. 30 layers with
random weights differ by 0.03."""
STEPS_TRIED = 8
"""In torch, before a compiled step is compared with one that follows them."""
KEYS_AT_ONCE = 128
"""On an accelerator a step without a kernel for unequal lengths reads the cache up to a multiple of it, so that steps
are alike for a while."""


class FusedLayer(nn.Module):
    """One layer's weights for inference: q, k and v in one product, gate and up in another."""

    def __init__(self, layer: DecoderLayer, dtype: torch.dtype):
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.attend = attention.attend  # by the backend that was chosen for the model
        self.norm1, self.norm2 = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = _joined(dtype, attention.q_proj, attention.k_proj, attention.v_proj)
        self.qkv.weight = nn.Parameter(_pairs_side_by_side(self.qkv.weight, attention.num_heads), requires_grad=False)
        self.out = _joined(dtype, attention.o_proj)
        self.gate_up = _joined(dtype, mlp.gate_proj, mlp.up_proj)
        self.down = _joined(dtype, mlp.down_proj)


def _in_its_own_precision(method: Method) -> Method:
    """A method of `Decoder` that autocast around it does not reach: the cache has one type of number."""

    @functools.wraps(method)
    def wrapped(self: "Decoder", *arguments):
        with torch.autocast(self.device.type, enabled=False):
            return method(self, *arguments)

    return wrapped


class Decoder:
    """Rows of sequences that grow by a token a step.

    Args:
        model: in eval mode; its weights must not change while this is used.
        num_rows: R.
        dtype: of the matrix products and the cache, the model's if None; norms and the sum over layers stay in the
            model's, logits are float32.

    Attributes: `positions`, where each row's next token will stand, int64 (R,), written in place.
    """

    def __init__(self, model: VideoGenerator, num_rows: int, dtype: torch.dtype | None = None):
        config = model.config
        self.num_heads, self.length = config.num_heads, model.grammar.max_sequence_length
        self.device, self.dtype = model.device, dtype or model.dtype
        self.embed_tokens, self.norm = model.embed_tokens, model.norm
        self.layers = pack_linears(nn.ModuleList(FusedLayer(layer, self.dtype) for layer in model.layers))
        self.lm_head = pack_linears(_joined(self.dtype, model.lm_head))
        self.rotation = torch.complex(*model.rotary(torch.arange(self.length, device=self.device)))  # (M, 1, d / 2)
        head_width = config.width // self.num_heads
        self.cache = [self._empty_cache(num_rows, head_width) for _ in model.layers]  # 2 R h M d
        self.by_length = flash_works(self.device, self.dtype, head_width)
        self.norm_eps = config.norm_eps
        self.positions = torch.zeros(num_rows, dtype=torch.int64, device=self.device)
        self.all_rows = torch.arange(num_rows, device=self.device)
        self._seen = [0] * num_rows  # the positions, known to the host without asking the device
        self._triton_failed = False
        self._fused_step: Step | None = None
        self._fused_step = self._make_fused_step()

    def _empty_cache(self, num_rows: int, head_width: int) -> Tensor:
        """(2, R, h, M, d), in memory as the kernels read it: on a CPU each head's keys beside each other, elsewhere
        each token's."""
        shape = (num_rows, self.num_heads, self.length, head_width)
        if self.device.type == "cpu":
            return torch.zeros(2, *shape, dtype=self.dtype)
        rows, heads, length, width = shape
        return torch.zeros(2, rows, length, heads, width, device=self.device, dtype=self.dtype).transpose(2, 3)

    @_in_its_own_precision
    def prefill(self, rows: Sequence[int], prompts: Sequence[Tensor]) -> None:
        """Starts these rows anew with prompts, int64 (n,) each, all but whose last tokens are read in one pass; the
        last ones are due in the next `step`."""
        lengths = [len(prompt) - 1 for prompt in prompts]
        order = sorted((i for i, n in enumerate(lengths) if n), key=lambda i: lengths[i])  # equal lengths side by side
        plan = plan_causal([lengths[i] for i in order])
        tokens = torch.cat([prompts[i][:-1] for i in order]) if order else torch.empty(0, dtype=torch.int64)  # (N,)
        row_of_token = torch.tensor([rows[i] for i in order for _ in range(lengths[i])])  # (N,)
        begun, plan, places, tokens, row_of_token = send(
            (torch.tensor([rows, lengths]), plan, plan.positions, tokens, row_of_token), self.device
        )
        self.positions[begun[0]] = begun[1]
        for row, length in zip(rows, lengths):
            self._seen[row] = length
        if order:
            self._layers(
                tokens, row_of_token, places,
                lambda query, key, value, layer: self.layers[layer].attend(query, key, value, plan),
            )  # fmt: skip

    def step(self, tokens: Tensor) -> Tensor:
        """The next token of every row, int64 (R,) → logits (R, V) of what follows it."""
        logits = self.launch(tokens)
        self.count()
        return logits

    def launch(self, tokens: Tensor) -> Tensor:
        """The device's part of a step, which depends on `keys_read` alone, so that it can be recorded."""
        logits = self._step_in_torch(tokens) if self._fused_step is None else self._fused_step(tokens, self.positions)
        self.positions.add_(1).clamp_max_(self.length - 1)  # rows that have ended write over their end
        return logits

    def count(self) -> None:
        """The host's part of a step."""
        self._seen = [min(n + 1, self.length - 1) for n in self._seen]

    @property
    def keys_read(self) -> int:
        """How far into the cache the next step reads; 0 where a kernel reads each row as far as it is written."""
        if self.by_length or (self._fused_step is not None and self.device.type != "cpu"):
            return 0
        seen = max(self._seen) + 1
        return seen if self.device.type == "cpu" else min(-(-seen // KEYS_AT_ONCE) * KEYS_AT_ONCE, self.length)

    @_in_its_own_precision
    def _step_in_torch(self, tokens: Tensor) -> Tensor:
        seen = self.keys_read
        mask = None  # (R, 1, 1, seen): what each row has written so far
        if self.by_length:
            rows = torch.arange(len(tokens) + 1, dtype=torch.int32, device=self.device)
            written = (self.positions + 1).int()  # (R,)
            plan = FlashPlan(rows, rows * self.length, written, len(tokens) * self.length, 1, self.length, causal=False)
        elif self.device.type != "cpu" or min(self._seen) + 1 < seen:
            mask = (torch.arange(seen, device=self.device) <= self.positions[:, None])[:, None, None]

        def attend(query: Tensor, key: Tensor, value: Tensor, layer: int) -> Tensor:
            if self.by_length:
                keys, values = self.cache[layer].transpose(2, 3).flatten(1, 2)  # (R·M, h, d) each
                return flash_forward(query, keys, values, plan)[0]
            keys, values = self.cache[layer][:, :, :, :seen]  # (R, h, seen, d) each
            attended = F.scaled_dot_product_attention(query[:, :, None], keys, values, attn_mask=mask)
            return attended[:, :, 0]  # (R, h, d)

        x = self._layers(tokens, self.all_rows, self.positions, attend)  # (R, D)
        return self.lm_head(self.norm(x).to(self.dtype)).float()  # (R, V)

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with these rows alone."""
        chosen = send(torch.tensor(rows), self.device)
        self.cache = [layer.transpose(2, 3)[:, chosen].transpose(2, 3) for layer in self.cache]
        if self.device.type == "cpu":
            self.cache = [layer.contiguous() for layer in self.cache]
        self.positions, self.all_rows = self.positions[chosen], self.all_rows[: len(rows)]
        self._seen = [self._seen[row] for row in rows]
        self._fused_step = None  # of another cache
        self._fused_step = self._make_fused_step()

    def _make_fused_step(self) -> Step | None:
        """The step as compiled code, over these weights and this cache; None where there is none."""
        on_cpu, in_fp32 = self.device.type == "cpu", {self.dtype, self.embed_tokens.weight.dtype} == {torch.float32}
        if not (on_cpu and in_fp32) and not (self.device.type == "cuda" and self.dtype in HALF):
            return None
        weights = {
            "embedding": self.embed_tokens.weight, "norm": self.norm.weight, "head": self.lm_head.weight,
            "rotation": torch.view_as_real(self.rotation[:, 0]).contiguous(),
        }  # fmt: skip
        layers = [
            {name: getattr(layer, name).weight for name in ("norm1", "qkv", "out", "norm2", "gate_up", "down")}
            | {"keys": cache[0], "values": cache[1]}
            for layer, cache in zip(self.layers, self.cache)
        ]
        if not on_cpu:
            return self._triton_step(weights, layers)
        width, hidden = self.layers[0].down.weight.shape
        if not can_compile(len(self.positions), width, hidden, width // self.num_heads):
            return None
        return CompiledStep(weights, layers, self.num_heads, self.norm_eps)

    def _triton_step(self, weights: dict[str, Tensor], layers: list[dict[str, Tensor]]) -> Step | None:
        """The step as Triton kernels, once they have made one as torch does: both write to the places in the cache that
        the next step writes anew. None where there is no Triton, where it fails or is wrong, for a reason that is
        logged, or for other shapes."""
        if self._triton_failed:
            return None
        found: list[Step] = []

        def attempt() -> None:
            from evagen.kernels.decode_step_triton import TritonStep, has_kernels_for

            width, hidden = self.layers[0].down.weight.shape
            if not has_kernels_for(len(self.positions), width, hidden, width // self.num_heads):
                return
            step = TritonStep(weights, layers, self.num_heads, self.norm_eps)
            tokens = self.all_rows % self.embed_tokens.num_embeddings
            with torch.no_grad(), self._after_some_steps():
                logits, expected = step(tokens, self.positions), self._step_in_torch(tokens)
            error = ((logits - expected).norm() / expected.norm()).item()
            if not error < LARGEST_ERROR:  # nor nan
                raise RuntimeError(f"their logits are wrong by {error:.2g} of their norm")
            found.append(step)

        complaint = "a step's Triton kernels do not work here, torch's slower ones are taken"
        self._triton_failed = not works(attempt, complaint)
        return found[0] if found else None

    @contextmanager
    def _after_some_steps(self) -> Iterator[None]:
        """Where nothing is written yet, some steps are for a moment, and each row is at a place of its own: of a single
        key attention would give its value, whatever the query."""
        if any(self._seen):
            yield
            return
        count = min(STEPS_TRIED, self.length - 1)
        try:
            for step in range(count):
                self._step_in_torch((self.all_rows + step) % self.embed_tokens.num_embeddings)
                self.positions.add_(1)
                self._seen = [step + 1] * len(self._seen)
            self.positions.sub_(self.all_rows % count)
            self._seen = [count - row % count for row in range(len(self._seen))]
            yield
        finally:
            self._seen = [0] * len(self._seen)
            self.positions.zero_()
            for layer in self.cache:
                layer[:, :, :, : count + 1].zero_()

    def _layers(self, tokens: Tensor, rows: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Tokens (N,) of these rows at these positions → the last layer's output (N, D); keys and values are kept."""
        rotation = self.rotation[positions][:, None]  # (N, 1, 1, d / 2)
        x = self.embed_tokens(tokens)  # (N, D)
        for i, layer in enumerate(self.layers):
            qkv = layer.qkv(layer.norm1(x).to(self.dtype)).unflatten(1, (3, self.num_heads, -1))  # (N, 3, h, d)
            pairs = torch.view_as_complex(qkv[:, :2].float().unflatten(-1, (-1, 2)))  # (N, 2, h, d / 2)
            query, key = torch.view_as_real(pairs * rotation).flatten(-2).to(qkv.dtype).unbind(1)  # (N, h, d) each
            value = qkv[:, 2]  # (N, h, d)
            self.cache[i][0, rows, :, positions], self.cache[i][1, rows, :, positions] = key, value
            x = x + layer.out(attend(query, key, value, i).flatten(1))  # (N, D)
            gate_up = layer.gate_up(layer.norm2(x).to(self.dtype))  # (N, 2·E)
            half = gate_up.shape[1] // 2
            x = x + layer.down(F.silu(gate_up[:, :half]) * gate_up[:, half:])  # (N, D)
        return x


def _pairs_side_by_side(weight: Tensor, num_heads: int) -> Tensor:
    """The rows (3·D, D) of q and k in another order within each head, so that the two numbers that RoPE rotates as a
    pair, half a head apart, come out side by side, as a complex number. Products of queries with keys stay the same."""
    query_key, value = weight.split([2 * weight.shape[1], weight.shape[1]])
    halves = query_key.unflatten(0, (2 * num_heads, 2, -1))  # (2·h, 2, d / 2, D)
    return torch.cat([halves.transpose(1, 2).flatten(0, 2), value])  # (3·D, D)


def _joined(dtype: torch.dtype, *linears: nn.Linear) -> nn.Linear:
    """One layer without bias whose outputs are those of these, one behind another; shares the weights of a single one
    of the same type."""
    weight = linears[0].weight if len(linears) == 1 else torch.cat([linear.weight for linear in linears])
    with torch.device("meta"):
        joined = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    joined.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
    return joined
