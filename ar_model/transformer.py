"""The generator: a Llama-shaped transformer over token sequences (RMSNorm, RoPE, SwiGLU).

Legend: N packed tokens, D width, h heads, d = D / h, E hidden width of the MLP, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from evagen.ar_model.grammar import SequenceGrammar
from evagen.kernels.attention import PlannedAttention
from evagen.kernels.plans import AttentionPlan, plan_causal
from evagen.kernels.registered import register_to_config
from evagen.kernels.sources import FromAnywhere
from evagen.kernels.transfer import send


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (RoFormer, arXiv 2104.09864) in Llama's half-split layout: x (…, d) with float32 cos
    and sin that broadcast to (…, d / 2), in x's type of number."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class CausalSelfAttention(nn.Module):
    def __init__(self, width: int, num_heads: int, dropout: float):
        super().__init__()
        if width % num_heads or width // num_heads % 2:
            raise ValueError(f"width {width} must split into {num_heads} heads of even width")
        self.num_heads = num_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.attend = PlannedAttention(width // num_heads)
        self.dropout = nn.Dropout(dropout)

    def _heads(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (p(x).unflatten(-1, (self.num_heads, -1)) for p in (self.q_proj, self.k_proj, self.v_proj))
        return rotate(query, cos, sin), rotate(key, cos, sin), value  # (…, h, d) each

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, plan: AttentionPlan) -> Tensor:
        query, key, value = self._heads(x, cos, sin)  # (N, h, d)
        attended = self.attend(query, key, value, plan)  # (N, h, d)
        return self.dropout(self.o_proj(attended.flatten(1)))  # (N, D)


class SwiGLU(nn.Module):
    def __init__(self, width: int, hidden_width: int, dropout: float):
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden_width, bias=False)
        self.up_proj = nn.Linear(width, hidden_width, bias=False)
        self.down_proj = nn.Linear(hidden_width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.gate_proj(x)) * self.up_proj(x)  # (…, E)
        return self.dropout(self.down_proj(hidden))  # (…, D)


class DecoderLayer(nn.Module):
    def __init__(
        self,
        width: int,
        num_heads: int,
        hidden_width: int,
        norm_eps: float,
        residual_dropout: float,
        mlp_dropout: float,
    ):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(width, eps=norm_eps)
        self.self_attn = CausalSelfAttention(width, num_heads, residual_dropout)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=norm_eps)
        self.mlp = SwiGLU(width, hidden_width, mlp_dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, plan: AttentionPlan) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, plan)  # (N, D)
        return x + self.mlp(self.post_attention_layernorm(x))  # (N, D)


def default_hidden_width(width: int) -> int:
    """Llama's rule: two thirds of 4·D, rounded up to a multiple of 256."""
    return -(-(8 * width // 3) // 256) * 256


class VideoGenerator(FromAnywhere, ModelMixin, ConfigMixin):
    """Autoregressive transformer over length and content tokens.

    Args:
        codebook_size, levels, num_blocks: of the tokenizer whose tokens it writes.
        class_names: classes it can be asked for, in label order; empty for a generator without classes.
        width, depth, num_heads: D, layers, h; `ar_model.sizes` has them by name.
        hidden_width: E; Llama's rule if None.
        rope_theta: base of the rotary frequencies.
        norm_eps: what the norms add to the mean square.
        token_dropout, residual_dropout, mlp_dropout: share of the values that training sets to zero in what leaves the
            embedding, each attention's output projection, each MLP. These are the places of LlamaGen (arXiv 2406.06525)
            and LARP (arXiv 2410.21264), whose code has 0.1 in all three and none on attention weights.
        tokenizer_fingerprint: names the tokenizer whose codes it writes; kept with the weights.
        class_dropout: share of the clips that it is trained on without their class, which guidance needs; None if not
            known.
        given_frames, num_given_blocks: for frame prediction, how many frames are given, and in how many blocks they
            are told; 0 for none.
        endless: whether it learnt windows of `num_blocks` blocks from anywhere in long videos, and so can go on from
            the last blocks of what it wrote.

    Attributes: `grammar`, the `SequenceGrammar` of its sequences; `config`, the settings above.

    Raises ValueError for sizes that do not go together, and for a lone name in place of class names.
    """

    part = "generator"
    _supports_gradient_checkpointing = True
    _repeated_blocks: ClassVar = ["DecoderLayer"]  # what is compiled, once for all of them
    _no_split_modules: ClassVar = ["DecoderLayer"]  # what FSDP shards together

    @register_to_config
    def __init__(
        self,
        codebook_size: int,
        levels: list[int],
        num_blocks: int,
        class_names: Sequence[str] = (),
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        hidden_width: int | None = None,
        rope_theta: float = 10_000.0,
        norm_eps: float = 1e-6,
        token_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        mlp_dropout: float = 0.0,
        tokenizer_fingerprint: str | None = None,
        class_dropout: float | None = None,
        given_frames: int = 0,
        num_given_blocks: int = 0,
        endless: bool = False,
    ):
        super().__init__()
        if isinstance(class_names, str):
            raise ValueError(f"class_names={class_names!r} is one name; a list of names is needed")
        if rope_theta <= 0 or norm_eps <= 0:
            raise ValueError(f"rope_theta={rope_theta} and norm_eps={norm_eps} must be positive")
        self.grammar = SequenceGrammar(codebook_size, levels, num_blocks, len(class_names), num_given_blocks, endless)
        self.embed_tokens = nn.Embedding(self.grammar.vocabulary_size, width)
        self.dropout = nn.Dropout(token_dropout)
        hidden_width = hidden_width or default_hidden_width(width)
        self.layers = nn.ModuleList(
            DecoderLayer(width, num_heads, hidden_width, norm_eps, residual_dropout, mlp_dropout) for _ in range(depth)
        )
        self.norm = nn.RMSNorm(width, eps=norm_eps)
        self.lm_head = nn.Linear(width, self.grammar.vocabulary_size, bias=False)
        self.gradient_checkpointing = False  # diffusers switches it on by this name
        initialise(self)

    def meaning_of_weights(self) -> dict[str, Any]:
        """What the weights were trained for and their shapes do not show: heads, positions and the grammar. Classes
        may be others, as many."""
        names = ("num_heads", "rope_theta", "norm_eps", "num_given_blocks", "endless")
        return {"levels": list(self.grammar.levels), **{name: self.config[name] for name in names}}

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (N,) → cos and sin of the rotary embedding, float32 (N, 1, d / 2)."""
        head_width = self.config.width // self.config.num_heads
        exponent = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32) / head_width
        frequencies = 1.0 / self.config.rope_theta**exponent  # (d / 2,), to the bit what transformers computes
        angles = positions[:, None].float() * frequencies  # (N, d / 2)
        return angles.cos()[:, None], angles.sin()[:, None]

    def forward(self, tokens: Tensor, sequence_lengths: Sequence[int]) -> Tensor:
        """Packed sequences, tokens int64 (N,) → logits (N, V) of the token that follows each. Lie sequences of equal
        length beside each other, attention takes fewer calls. Raises ValueError for lengths that do not add up."""
        if tokens.shape != (sum(sequence_lengths),):
            raise ValueError(f"sequences of {sum(sequence_lengths)} tokens in all, got tokens of {tuple(tokens.shape)}")
        plan = plan_causal(sequence_lengths)
        plan, positions = send((plan, plan.positions), tokens.device)
        cos, sin = self.rotary(positions)  # (N, 1, d / 2)
        x = self.dropout(self.embed_tokens(tokens))  # (N, D)
        for layer in self.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, cos, sin, plan, use_reentrant=False)  # (N, D)
            else:
                x = layer(x, cos, sin, plan)  # (N, D)
        return self.lm_head(self.norm(x))  # (N, V)


@torch.no_grad()
def initialise(model: VideoGenerator) -> None:
    """All initial weights, in one place: N(0, 0.02), residual branches scaled down by the depth (GPT-2)."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    for layer in model.layers:
        for branch in (layer.self_attn.o_proj, layer.mlp.down_proj):
            branch.weight.mul_((2 * len(model.layers)) ** -0.5)
