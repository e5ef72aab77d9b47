"""The transformer that both halves of the tokenizer are made of.

Legend: Nq query rows, Nc context rows, D width, Dc context width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenizer.attention import Attention, KeyValue
from tokenizer.packing import AttentionPlan, FamilyPlan
from tokenizer.positions import Rotary


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

    def to(self, device: torch.device) -> "Plans":
        return Plans(self.within.to(device), self.cross.to(device))


@dataclass(frozen=True)
class Places:
    """Rotations of the query rows and of the context rows, as `Rotary` gives them."""

    queries: Tensor
    context: Tensor


@dataclass(frozen=True)
class LayerCache:
    """Keys and values that one layer has computed so far. Later rows are appended; plans index into the whole."""

    self_key_value: KeyValue
    cross_key_value: KeyValue


def _append(past: KeyValue | None, new: KeyValue) -> KeyValue:
    if past is None or not len(new[0]):
        return past or new
    return torch.cat([past[0], new[0]]), torch.cat([past[1], new[1]])


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

    def forward(
        self, x: Tensor, context: Tensor, places: Places, plans: Plans, past: LayerCache | None
    ) -> tuple[Tensor, LayerCache]:
        normed = self.norm_self(x)  # (Nq, D)
        self_kv = _append(past and past.self_key_value, self.self_attention.key_value(normed, places.queries))
        x = x + self.self_attention(normed, places.queries, self_kv, plans.within)  # (Nq, D)
        cross_kv = _append(past and past.cross_key_value, self.cross_attention.key_value(context, places.context))
        x = x + self.cross_attention(self.norm_cross(x), places.queries, cross_kv, plans.cross)  # (Nq, D)
        x = x + self.mlp(self.norm_mlp(x))  # (Nq, D)
        return x, LayerCache(self_kv, cross_kv)


class QFormer(nn.Module):
    """A stack of `QFormerLayer`s over a context that is normalised once and stays the same for all layers.

    Called on whole clips, or repeatedly on later blocks with the caches of the earlier ones: the plans
    say which rows, cached or new, each query sees.
    """

    def __init__(self, width: int, context_width: int, depth: int, num_heads: int):
        super().__init__()
        self.rotary = Rotary(width // num_heads)
        self.norm_context = nn.LayerNorm(context_width)
        self.layers = nn.ModuleList(QFormerLayer(width, context_width, num_heads) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)
        self.gradient_checkpointing = False  # diffusers switches it on by this name

    def forward(self, x: Rows, context: Rows, plans: Plans) -> tuple[Tensor, list[Tensor]]:
        """Query rows of width D and context rows of width Dc → (Nq, D), and what each layer put out, (Nq, D) before
        the last norm."""
        places = Places(self.rotary(x.coordinates), self.rotary(context.coordinates))
        rows, normed_context = x.values, self.norm_context(context.values)  # (Nq, D), (Nc, Dc)
        outputs = []
        for layer in self.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                rows = checkpoint(
                    _only_rows, layer, rows, normed_context, places, plans, use_reentrant=False
                )  # (Nq, D)
            else:
                rows = _only_rows(layer, rows, normed_context, places, plans)  # (Nq, D)
            outputs.append(rows)
        return self.norm_out(rows), outputs  # (Nq, D)

    def extend(
        self, x: Rows, context: Rows, plans: Plans, past: list[LayerCache] | None
    ) -> tuple[Tensor, list[LayerCache]]:
        """The same for new query and context rows behind those that `past` remembers: (Nq, D), and the caches with
        the new rows appended."""
        places = Places(self.rotary(x.coordinates), self.rotary(context.coordinates))
        rows, normed_context = x.values, self.norm_context(context.values)  # (Nq, D), (Nc, Dc)
        caches = []
        for i, layer in enumerate(self.layers):
            rows, cache = layer(rows, normed_context, places, plans, past[i] if past else None)  # (Nq, D)
            caches.append(cache)
        return self.norm_out(rows), caches  # (Nq, D)


def _only_rows(layer: QFormerLayer, rows: Tensor, context: Tensor, places: Places, plans: Plans) -> Tensor:
    """A layer's output without its keys and values, which a whole clip's pass need not keep."""
    return layer(rows, context, places, plans, None)[0]
