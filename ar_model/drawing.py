"""Drawing the next token of every slot: guidance, what the grammar and the request allow, temperature and the cuts, one
random number, and where each slot stands after it.

Everything is written into tensors that are there, so that it can be recorded. On CUDA it is one Triton kernel where
that works (kernels/draw_triton.py), since in torch it is some fifty small ones.

Legend: S slots, R rows of logits (S, or 2·S with guidance), V vocabulary, M longest sequence.
"""

import functools
import numbers
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evagen.ar_model.grammar import GrammarState, SequenceGrammar
from evagen.ar_model.lengths import LARGEST, LengthConstraints, LengthScores
from evagen.kernels.backends import works
from evagen.kernels.transfer import send

GuidanceSchedule = Literal["constant", "linear", "interval"]
LEAST_TEMPERATURE = 1e-6
"""But for 0. Logits that are divided by less may be infinite."""


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn.

    Args:
        temperature: 1 samples the model's own distribution, 0 takes the likeliest token.
        top_k: only that many likeliest tokens, 0 for all.
        top_p: only the likeliest tokens that together reach this probability, in (0, 1] (arXiv 1904.09751).
        min_p: only tokens at least this likely relative to the likeliest, in [0, 1] (arXiv 2407.01082).
        guidance: classifier-free guidance scale g, 1 for none (arXiv 2207.12598): logits u + g·(c - u). To a generator
            without classes it makes no difference.
        guidance_schedule: `constant`; `linear`, from 1 at the clip's start to g at its end; or `interval`, g within
            `guidance_interval` and 1 outside (arXiv 2404.07724). The last two are for clips of one window.
        guidance_interval: from and to which part of the clip's time, within [0, 1]; for the schedule `interval`.

    Raises ValueError for values out of range, and for an interval beside another schedule.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    guidance: float = 1.0
    guidance_schedule: GuidanceSchedule = "constant"
    guidance_interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "guidance_interval", tuple(self.guidance_interval))  # as a list it had no hash
        low, high = self.guidance_interval
        schedule, schedules = self.guidance_schedule, get_args(GuidanceSchedule)
        whole = isinstance(self.top_k, numbers.Integral)
        for holds, message in (
            (
                self.temperature == 0 or LEAST_TEMPERATURE <= self.temperature <= LARGEST,
                f"temperature must be 0 or lie in [{LEAST_TEMPERATURE:g}, {LARGEST:g}], got {self.temperature}",
            ),
            (whole and self.top_k >= 0, f"top_k must be a whole number, 0 (all tokens) or more, got {self.top_k}"),
            (0 < self.top_p <= 1, f"top_p must lie in (0, 1] (1 keeps all tokens), got {self.top_p}"),
            (0 <= self.min_p <= 1, f"min_p must lie in [0, 1] (0 keeps all tokens), got {self.min_p}"),
            (0 <= self.guidance <= LARGEST, f"guidance must lie in [0, {LARGEST:g}] (1 is none), got {self.guidance}"),
            (schedule in schedules, f"guidance_schedule must be one of {', '.join(schedules)}, got {schedule}"),
            (0 <= low < high <= 1, f"guidance_interval must rise within [0, 1], got {self.guidance_interval}"),
            (
                (low, high) == (0, 1) or schedule == "interval",
                f"guidance_interval={self.guidance_interval} is for guidance_schedule=interval, got {schedule}",
            ),
        ):
            if not holds:
                raise ValueError(message)

    def guidance_at(self, progress: Tensor) -> Tensor:
        """The scale of each slot, (S, 1), at its progress in [0, 1], (S,)."""
        low, high = self.guidance_interval
        if self.guidance_schedule == "linear":
            scale = 1 + (self.guidance - 1) * progress
        elif self.guidance_schedule == "interval":
            scale = torch.where((progress >= low) & (progress < high), self.guidance, 1.0)
        else:
            scale = torch.full_like(progress, self.guidance)
        return scale[:, None]


class SlotTables(NamedTuple):
    """What has a row for each of S slots. written: int64 (S, M); noise: a uniform number for each place, float64
    (S, M); by_block, most: what requests say of lengths, as in `LengthScores`; begun, remaining, length, total: where a
    slot stands, as in `GrammarState`."""

    written: Tensor
    noise: Tensor
    by_block: Tensor
    most: Tensor
    begun: Tensor
    remaining: Tensor
    length: Tensor
    total: Tensor


@dataclass
class Slots:
    """What is known of S slots, on the device. tokens: due next, int64 (R,), with guidance those of both halves."""

    tokens: Tensor
    tables: SlotTables

    @staticmethod
    def empty(num_slots: int, num_rows: int, grammar: SequenceGrammar, device: torch.device) -> "Slots":
        longest = grammar.max_sequence_length
        free = LengthScores.of([LengthConstraints()] * num_slots, grammar)
        tables = SlotTables(
            written=torch.zeros(num_slots, longest, dtype=torch.int64, device=device),
            noise=torch.zeros(num_slots, longest, dtype=torch.float64, device=device),
            **LengthScores(*send(tuple(free), device))._asdict(),
            **vars(grammar.start(num_slots, device)),
        )
        return Slots(torch.zeros(num_rows, dtype=torch.int64, device=device), tables)

    @property
    def state(self) -> GrammarState:
        """In the grammar, in the tables' own memory."""
        return GrammarState(*(getattr(self.tables, each.name) for each in fields(GrammarState)))

    def keep(self, slots: Tensor) -> "Slots":
        """Of these slots alone, int64 (s,) on the device."""
        tokens = self.tokens.view(-1, len(self.tables.noise))[:, slots].flatten()
        return Slots(tokens, SlotTables(*(table[slots] for table in self.tables)))


class Drawing:
    """How tokens are drawn for the slots of one sampler."""

    def __init__(self, grammar: SequenceGrammar, options: SamplingOptions, device: torch.device):
        self.grammar, self.options = grammar, options
        self.in_triton = device.type == "cuda" and triton_draws(device, grammar.vocabulary_size, options)

    def __call__(self, logits: Tensor, positions: Tensor, slots: Slots) -> None:
        """Draws from logits float32 (R, V), which may be overwritten, what will stand at positions int64 (R,), and
        moves every slot on."""
        draw_all = draw_in_triton if self.in_triton else draw_in_torch
        draw_all(logits, positions, slots, self.grammar, self.options)


@functools.cache
def triton_draws(device: torch.device, vocabulary_size: int, options: SamplingOptions) -> bool:
    """Whether the kernel works there for so many tokens, and draws those that torch does."""

    def attempt() -> None:
        grammar = SequenceGrammar(vocabulary_size - 6, [1, 2], 2, 1)
        random = torch.Generator().manual_seed(0)
        logits = torch.randn(4, vocabulary_size, generator=random).to(device)
        noise = torch.rand(4, grammar.max_sequence_length, generator=random, dtype=torch.float64).to(device)
        drawn = []
        for draw_all in (draw_in_torch, draw_in_triton):
            num_slots = 4 if options.guidance == 1 else 2
            slots = Slots.empty(num_slots, 4, grammar, device)
            slots.tables.noise.copy_(noise[:num_slots])
            for place in range(1, 4):
                draw_all(logits.clone(), torch.full((4,), place, device=device), slots, grammar, options)
            drawn.append(torch.cat([table.double().flatten() for table in slots.tables]))
        if not drawn[0].equal(drawn[1]):
            raise RuntimeError("it draws other tokens than torch")

    complaint = f"the Triton kernel that draws tokens does not work on {device}, torch's slower ones are taken"
    return works(attempt, complaint)


def draw_in_triton(
    logits: Tensor, positions: Tensor, slots: Slots, grammar: SequenceGrammar, options: SamplingOptions
) -> None:
    """`Drawing` as one kernel. Raises ImportError without Triton, ValueError for a vocabulary that is too large."""
    from evagen.kernels.draw_triton import launch_draw

    low, high = options.guidance_interval if options.guidance_schedule == "interval" else (0.0, 2.0)
    launch_draw(
        logits, positions, slots.tokens, slots.tables._asdict(), grammar.levels_on(logits.device), grammar.end,
        grammar.codebook_size, (options.temperature, options.top_k, options.top_p, options.min_p),
        (options.guidance, low, high, options.guidance_schedule == "linear"),
    )  # fmt: skip


def draw_in_torch(
    logits: Tensor, positions: Tensor, slots: Slots, grammar: SequenceGrammar, options: SamplingOptions
) -> None:
    """`Drawing` as torch's operations."""
    tables, state = slots.tables, slots.state
    places = positions[: len(tables.noise), None]  # (S, 1)
    if len(logits) > len(places):
        conditional, unconditional = logits.chunk(2)  # (S, V) each
        scale = options.guidance_at(grammar.progress(state))  # (S, 1)
        logits = unconditional + scale * (conditional - unconditional)  # (S, V)
    scores = LengthScores(tables.by_block, tables.most)(state, grammar.levels_on(logits.device))  # (S, L)
    logits[:, grammar.first_length : grammar.first_class] += scores
    logits = logits.masked_fill(~grammar.allowed(state), -torch.inf)
    uniform = tables.noise.gather(1, places - 1)[:, 0]  # (S,): of the place before, where the token was that is read
    tokens = draw(token_probabilities(logits, options), uniform)  # (S,)
    after = grammar.advance(state, tokens)
    slots.tokens.view(-1, len(tokens)).copy_(tokens)
    tables.written.scatter_(1, places, tokens[:, None])
    for each in fields(GrammarState):
        getattr(state, each.name).copy_(getattr(after, each.name))


def token_probabilities(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Logits (S, V), -inf where a token is forbidden → float32 probabilities (S, V) after temperature, top-k, top-p and
    min-p, in this order. The likeliest token always stays. Of logits that are no numbers all are NaN."""
    logits = logits.float()
    if options.temperature == 0:
        likeliest = F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
        return likeliest.masked_fill(logits.isnan().any(-1, keepdim=True), torch.nan)
    logits = logits / options.temperature
    if 0 < options.top_k < logits.shape[-1]:
        kth = logits.topk(options.top_k, dim=-1).values[:, -1:]  # (S, 1)
        logits = logits.masked_fill(logits < kth, -torch.inf)
    probabilities = logits.softmax(-1)  # (S, V)
    if options.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # probability of the likelier tokens
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= options.top_p)
        probabilities = probabilities.masked_fill(dropped, 0.0)
    if options.min_p > 0:
        least = options.min_p * probabilities.amax(-1, keepdim=True)  # (S, 1)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    return probabilities


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative distribution passes `uniform` in [0, 1): weights (S, V), which need not add up
    to 1, and float64 (S,) → int64 (S,). One random number a token, so that a clip's randomness is a short sequence of
    its own. Where weights are NaN it is the last token, the end, so that the clip does not decode."""
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)  # (S, V)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp_max(probabilities.shape[-1] - 1)


def clip_noise(seed: int, length: int, window: int = 0) -> Tensor:
    """The uniform numbers of one clip, from its own seed, or of a later window of a video without an end: float64
    (length,). torch's generator knows the low 32 bits of a seed alone: what sets windows apart is mixed into these."""
    seed %= 2**32
    if window:
        seed = int(np.random.SeedSequence([seed, window]).generate_state(1)[0])
    return torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
