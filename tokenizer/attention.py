"""Block-causal attention over packed sequences. The one module that owns attention in this library.

Legend: Nq query rows, Nk key rows, D model width, h heads, d = D / h head width, G segments of one shape.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.packing import AttentionPlan
from tokenizer.positions import rotate

KeyValue = tuple[Tensor, Tensor]  # keys and values, each (Nk, h, d)


def planned_attention(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan) -> Tensor:
    """Softmax attention in which each query row sees exactly the key rows that the plan gives it.

    query (Nq, h, d), key and value (Nk, h, d) → (Nq, h, d). Segments of equal shape share one dense
    `scaled_dot_product_attention`: no mask, no padding, and no work on pairs that may not see each other.
    """
    query = _take(query, plan.query_rows)  # (Nq, h, d) ordered by group
    key_value = _take(torch.stack([key, value], dim=1), plan.key_rows)  # (·, 2, h, d) likewise
    queries = query.split([group.num_segments * group.query_length for group in plan.groups])
    key_values = key_value.split([group.num_segments * group.key_length for group in plan.groups])
    outputs = []
    for group, q, kv in zip(plan.groups, queries, key_values):
        q = q.unflatten(0, (group.num_segments, -1)).transpose(1, 2)  # (G, h, length, d)
        k, v = kv.unflatten(0, (group.num_segments, -1)).permute(2, 0, 3, 1, 4)  # (G, h, length, d) each
        outputs.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1))
    return _take(torch.cat(outputs), plan.inverse)  # (Nq, h, d)


def _take(x: Tensor, rows: Tensor) -> Tensor:
    """x[rows] for (N, …). As an embedding lookup, whose backward pass adds rows up in parallel on a CPU
    where that of indexing is a serial scatter."""
    return F.embedding(rows, x.flatten(1)).unflatten(-1, x.shape[1:])


class Attention(nn.Module):
    """Multi-head attention whose pattern is an `AttentionPlan`.

    Args:
        width: D of the queries and of the output.
        context_width: width of the rows that keys and values come from.
        num_heads: h.
    """

    def __init__(self, width: int, context_width: int, num_heads: int):
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is not divisible by {num_heads} heads")
        self.num_heads = num_heads
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(context_width, 2 * width)
        self.to_out = nn.Linear(width, width)

    def key_value(self, context: Tensor, rotation: Tensor) -> KeyValue:
        """Keys, turned to their places, and values of context rows: (Nk, context_width) → two of (Nk, h, d)."""
        key, value = self.to_key_value(context).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)  # (Nk, h, d) each
        return rotate(key, rotation), value

    def forward(self, x: Tensor, rotation: Tensor, key_value: KeyValue, plan: AttentionPlan) -> Tensor:
        """x (Nq, D) and the rotation of its places, keys and values as `key_value` gives them → (Nq, D)."""
        query = rotate(self.to_query(x).unflatten(-1, (self.num_heads, -1)), rotation)  # (Nq, h, d)
        attended = planned_attention(query, *key_value, plan)  # (Nq, h, d)
        return self.to_out(attended.flatten(1))  # (Nq, D)
