"""The transformer that both halves of the tokenizer are made of.

Legend: Nq query rows, Nk key rows, Nc context rows, D width, Dc context width, h heads, d = D / h head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from evagen.kernels.attention import KeyValue, PlannedAttention
from evagen.kernels.plans import AttentionPlan, FamilyPlan
from evagen.tokenizer.positions import Rotary, rotate


@dataclass(frozen=True)
class Rows:
    """Rows of a packed sequence and where they stand: values (N, width), coordinates (N, 3) as (block, y, x)."""

    values: Tensor
    coordinates: Tensor


@dataclass(frozen=True)
class Plans:
    """Which query rows see which query rows (within) and which context rows (cross)."""

    within: AttentionPlan | FamilyPlan
    cross: AttentionPlan | FamilyPlan


@dataclass(frozen=True)
class Places:
    """Rotations of the query rows and of the context rows, as `Rotary` gives them."""

    queries: Tensor
    context: Tensor


@dataclass(frozen=True)
class Past:
    """What families of new rows share: keys and values of the rows before them, where they see these, and of these
    rows' context, where that is not all known from the start; one pair a layer, (…, h, d) each."""

    rows: list[KeyValue] | None
    context: list[KeyValue] | None = None


class Attention(nn.Module):
    """Multi-head attention whose pattern is an `AttentionPlan`.

    Args:
        width: D of the queries and of the output.
        context_width: width of the rows that keys and values come from.
        num_heads: h.

    Raises ValueError for a width that the heads do not divide.
    """

    def __init__(self, width: int, context_width: int, num_heads: int):
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is not divisible by {num_heads} heads")
        self.num_heads = num_heads
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(context_width, 2 * width)
        self.to_out = nn.Linear(width, width)
        self.attend = PlannedAttention(width // num_heads)

    def key_value(self, context: Tensor, rotation: Tensor) -> KeyValue:
        """Keys, turned to their places, and values of context rows: (Nk, context_width) → two of (Nk, h, d)."""
        key, value = self.to_key_value(context).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)  # (Nk, h, d) each
        return rotate(key, rotation), value

    def forward(
        self,
        x: Tensor,
        rotation: Tensor,
        key_value: KeyValue,
        plan: AttentionPlan | FamilyPlan,
        shared: KeyValue | None = None,
    ) -> Tensor:
        """x (Nq, D) and the rotation of its places, keys and values as `key_value` gives them, and such as families
        share → (Nq, D)."""
        query = rotate(self.to_query(x).unflatten(-1, (self.num_heads, -1)), rotation)  # (Nq, h, d)
        attended = self.attend(query, *key_value, plan, shared)  # (Nq, h, d)
        return self.to_out(attended.flatten(1))  # (Nq, D)


class QFormerLayer(nn.Module):
    """Self-attention among the queries, cross-attention to a context, MLP; pre-norm, residual."""

    def __init__(self, width: int, context_width: int, num_heads: int):
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.self_attention = Attention(width, width, num_heads)
        self.norm_cross = nn.LayerNorm(width)
        self.cross_attention = Attention(width, context_width, num_heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, context: Tensor, places: Places, plans: Plans) -> Tensor:
        """Rows (Nq, D) of whole clips and their context (Nc, Dc) → (Nq, D)."""
        context_kv = self.cross_attention.key_value(context, places.context)  # (Nc, h, d) each
        return self.extend(x, context_kv, places.queries, plans)[0]

    def extend(
        self,
        x: Tensor,
        context_kv: KeyValue,
        rotation: Tensor,
        plans: Plans,
        past_rows: KeyValue | None = None,
        past_context: KeyValue | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """The same for a context whose keys and values are known, and for rows that share a past: (Nq, D), and the new
        rows' keys and values."""
        normed = self.norm_self(x)  # (Nq, D)
        self_kv = self.self_attention.key_value(normed, rotation)  # (Nq, h, d) each
        x = x + self.self_attention(normed, rotation, self_kv, plans.within, past_rows)  # (Nq, D)
        x = x + self.cross_attention(self.norm_cross(x), rotation, context_kv, plans.cross, past_context)  # (Nq, D)
        x = x + self.mlp(self.norm_mlp(x))  # (Nq, D)
        return x, self_kv


class QFormer(nn.Module):
    """A stack of `QFormerLayer`s over a context that is normalised once and stays the same for all layers.

    Called on whole clips, or repeatedly on later blocks with the caches of the earlier ones: the plans
    say which rows, cached or new, each query sees. finest_blocks: shortest wavelength of the places, see `Rotary`.
    """

    def __init__(self, width: int, context_width: int, depth: int, num_heads: int, finest_blocks: float):
        super().__init__()
        self.rotary = Rotary(width // num_heads, finest_blocks)
        self.norm_context = nn.LayerNorm(context_width)
        self.layers = nn.ModuleList(QFormerLayer(width, context_width, num_heads) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)
        self.gradient_checkpointing = False  # diffusers switches it on by this name

    def forward(self, x: Rows, context: Rows, plans: Plans) -> tuple[Tensor, list[Tensor]]:
        """Query rows of width D and context rows of width Dc → (Nq, D), and what each layer put out, (Nq, D) before
        the last norm."""
        places = Places(self.rotary(x.coordinates), self.rotary(context.coordinates))
        rows, normed_context = _summed(x.values), self.norm_context(context.values)  # (Nq, D), (Nc, Dc)
        outputs = []
        for layer in self.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                rows = checkpoint(layer, rows, normed_context, places, plans, use_reentrant=False)  # (Nq, D)
            else:
                rows = layer(rows, normed_context, places, plans)  # (Nq, D)
            outputs.append(rows)
        return self.norm_out(rows), outputs  # (Nq, D)

    def context_key_values(self, context: Rows) -> list[KeyValue]:
        """Each layer's keys and values of context rows, which depend on nothing else: (Nc, h, d) each."""
        normed, rotation = self.norm_context(context.values), self.rotary(context.coordinates)
        return [layer.cross_attention.key_value(normed, rotation) for layer in self.layers]

    def extend(
        self, x: Rows, context: list[KeyValue], plans: Plans, past: Past | None = None
    ) -> tuple[Tensor, list[KeyValue]]:
        """`forward` for a context as `context_key_values` gives it, and for rows that share a past: (Nq, D), and the
        new rows' keys and values, one pair a layer."""
        rotation, rows, known = self.rotary(x.coordinates), _summed(x.values), []
        for i, layer in enumerate(self.layers):
            before = (past.rows, past.context) if past else (None, None)
            shared = [key_values[i] if key_values else None for key_values in before]
            rows, key_value = layer.extend(rows, context[i], rotation, plans, *shared)  # (Nq, D)
            known.append(key_value)
        return self.norm_out(rows), known  # (Nq, D)


def _summed(rows: Tensor) -> Tensor:
    """Rows that layers add to: in fp32 under autocast, which else would round the sum after every layer."""
    return rows.float() if torch.is_autocast_enabled(rows.device.type) else rows
