"""Sampling: from class labels and seeds to length and content tokens that always decode.

Legend: S slots sampled together, V vocabulary, T blocks, M longest sequence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ar_model.transformer import VideoGenerator


@dataclass(frozen=True)
class SamplingOptions:
    """temperature: 1 samples the model's own distribution, 0 takes the likeliest token; top_k: only that many
    likeliest tokens, 0 for all; top_p: only the likeliest tokens that together reach this probability, in (0, 1];
    guidance: classifier-free guidance scale, 1 for none."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0 (0 keeps all tokens), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1] (1 keeps all tokens), got {self.top_p}")
        if self.guidance < 0:
            raise ValueError(f"guidance must be at least 0 (1 is none), got {self.guidance}")


@dataclass(frozen=True)
class SampledTokens:
    """One clip. codes: int64 (n,); lengths: int64 (T,), which add up to n."""

    codes: Tensor
    lengths: Tensor


def token_probabilities(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Logits (S, V), -inf where a token is forbidden → float64 probabilities (S, V) after temperature, top-k, top-p."""
    logits = logits.double()
    if options.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
    logits = logits / options.temperature
    if 0 < options.top_k < logits.shape[-1]:
        kth = logits.topk(options.top_k, dim=-1).values[:, -1:]  # (S, 1)
        logits = logits.masked_fill(logits < kth, -torch.inf)
    probabilities = logits.softmax(-1)  # (S, V)
    if options.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # probability of the likelier tokens; the likeliest always stays
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= options.top_p)
        probabilities = probabilities.masked_fill(dropped, 0.0)
    return probabilities / probabilities.sum(-1, keepdim=True)


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative distribution passes `uniform` in [0, 1): (S, V), (S,) → int64 (S,).
    One random number a token, so that a clip's randomness is a short sequence of its own."""
    cumulative = probabilities.cumsum(-1)  # (S, V)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp_max(probabilities.shape[-1] - 1)


def clip_noise(seed: int, length: int) -> Tensor:
    """The uniform numbers of one clip, from its own seed: float64 (length,)."""
    return torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def sample(
    model: VideoGenerator,
    labels: Tensor,
    seeds: Sequence[int],
    options: SamplingOptions,
    batch_size: int = 64,
) -> Iterator[SampledTokens]:
    """Writes one clip for each label and seed, in order.

    labels: int64 (n,), -1 for no class; seeds: n whole numbers. A clip depends on its own label and seed only,
    not on the batch it is sampled in.
    """
    if len(labels) != len(seeds):
        raise ValueError(f"{len(labels)} labels need as many seeds, got {len(seeds)}")
    for start in range(0, len(labels), batch_size):
        some = slice(start, start + batch_size)
        yield from _sample_batch(model, labels[some], seeds[some], options)


def _sample_batch(
    model: VideoGenerator, labels: Tensor, seeds: Sequence[int], options: SamplingOptions
) -> list[SampledTokens]:
    grammar, num_slots = model.grammar, len(labels)
    guided = options.guidance != 1.0
    tokens = grammar.class_token(labels).to(model.device)  # (S,)
    null = torch.full_like(tokens, grammar.null_class)
    noise = torch.stack([clip_noise(seed, grammar.max_sequence_length) for seed in seeds]).to(model.device)  # (S, M)
    cache = model.make_cache(num_slots * (2 if guided else 1))
    state = grammar.start(num_slots, model.device)
    written = [tokens]
    for position in range(grammar.max_sequence_length - 1):
        if guided:  # the unconditional half runs beside the conditional one and differs in its class token only
            both = torch.cat([tokens, null if position == 0 else tokens])  # (2S,)
            conditional, unconditional = model.step(both, cache, position).chunk(2)  # (S, V) each
            logits = unconditional + options.guidance * (conditional - unconditional)
        else:
            logits = model.step(tokens, cache, position)  # (S, V)
        logits = logits.masked_fill(~grammar.allowed(state), -torch.inf)
        tokens = draw(token_probabilities(logits, options), noise[:, position])  # (S,)
        state = grammar.advance(state, tokens)
        written.append(tokens)
        if bool(grammar.finished(state).all()):
            break
    sequences = torch.stack(written, dim=1).cpu()  # (S, steps + 1)
    return [_clip(sequence, grammar) for sequence in sequences]


def _clip(sequence: Tensor, grammar) -> SampledTokens:
    ends = (sequence == grammar.end).nonzero()
    codes, lengths = grammar.unpack(sequence[: int(ends[0])] if len(ends) else sequence)
    return SampledTokens(codes, lengths)
