"""Sampling: from requests to tokens that always decode.

Slots write side by side, each at its own place; a clip that is finished makes room for the next request. What a clip
becomes follows from its request alone, not from what is written beside it (up to the rounding of matrix products
of another size).

A generator without an end writes a video of any length in windows: when its T blocks are written, the slot goes on with
the last half of them as the beginning of the next window. So neither the cache nor a token's time grows.

Legend: S slots, R rows of the decoder (S, or 2·S with guidance), V vocabulary, M longest sequence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from evagen.ar_model.decoding import Decoder
from evagen.ar_model.grammar import ClipTokens, GrammarState
from evagen.ar_model.lengths import LengthConstraints, LengthScores
from evagen.ar_model.transformer import VideoGenerator
from evagen.kernels.replay import Replayed
from evagen.kernels.transfer import send

SEEDS_BETWEEN_WINDOWS = 2**40
"""More than there are clips, so that no window repeats another clip's random numbers."""
STEPS_BETWEEN_LOOKS = 16
"""On an accelerator, how often the host asks which clips are finished; it waits for the device only then."""


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn.

    Args:
        temperature: 1 samples the model's own distribution, 0 takes the likeliest token.
        top_k: only that many likeliest tokens, 0 for all.
        top_p: only the likeliest tokens that together reach this probability, in (0, 1] (arXiv 1904.09751).
        min_p: only tokens at least this likely relative to the likeliest, in [0, 1] (arXiv 2407.01082).
        guidance: classifier-free guidance scale g, 1 for none (arXiv 2207.12598): logits u + g·(c - u).
        guidance_schedule: `constant`; `linear`, from 1 at the clip's start to g at its end; or `interval`, g within
            `guidance_interval` and 1 outside (arXiv 2404.07724).
        guidance_interval: from and to which part of the clip's time, within [0, 1].
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    guidance: float = 1.0
    guidance_schedule: Literal["constant", "linear", "interval"] = "constant"
    guidance_interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.guidance_interval
        for holds, message in (
            (self.temperature >= 0, f"temperature must be at least 0, got {self.temperature}"),
            (self.top_k >= 0, f"top_k must be at least 0 (0 keeps all tokens), got {self.top_k}"),
            (0 < self.top_p <= 1, f"top_p must lie in (0, 1] (1 keeps all tokens), got {self.top_p}"),
            (0 <= self.min_p <= 1, f"min_p must lie in [0, 1] (0 keeps all tokens), got {self.min_p}"),
            (self.guidance >= 0, f"guidance must be at least 0 (1 is none), got {self.guidance}"),
            (0 <= low < high <= 1, f"guidance_interval must rise within [0, 1], got {self.guidance_interval}"),
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


@dataclass(frozen=True)
class ClipRequest:
    """One clip to be written. seed: a whole number; label: -1 for no class; given: for frame prediction the given
    frames' blocks, for continuation the clip's own first blocks; constraints: on its lengths; num_blocks: of the clip,
    those that are given included, the generator's own number if None, which only one without an end can exceed."""

    seed: int
    label: int = -1
    given: ClipTokens | None = None
    constraints: LengthConstraints = field(default_factory=LengthConstraints)
    num_blocks: int | None = None


@dataclass
class _Work:
    """A clip that is being written. number: its request's; blocks: so far, `count` of them; beginning: the first blocks
    of its next window, which are there already; begins_later: whether that window is one from the middle of a video;
    windows: how many are written."""

    number: int
    blocks: list[ClipTokens] = field(default_factory=list)
    count: int = 0
    beginning: ClipTokens | None = None
    begins_later: bool = False
    windows: int = 0


def sample(
    model: VideoGenerator,
    requests: Sequence[ClipRequest],
    options: SamplingOptions | None = None,
    num_slots: int = 64,
    dtype: torch.dtype | None = None,
) -> Iterator[tuple[int, ClipTokens]]:
    """Writes a clip for each request; yields its number and its tokens, on the CPU, as clips get finished. Continued
    clips come with the blocks that they were given. dtype: of the matrix products, the model's if None.

    Raises ValueError for requests or options that the model cannot follow, before anything is written.
    """
    options = options or SamplingOptions()
    _check(model, requests, options)
    if not requests:
        return iter(())
    return ContinuousBatch(model, requests, options, min(num_slots, len(requests)), dtype).run()


def sample_in_order(model: VideoGenerator, requests: Sequence[ClipRequest], *rest, **options) -> list[ClipTokens]:
    """The clips of `sample` in the order of their requests."""
    clips = dict(sample(model, requests, *rest, **options))
    return [clips[number] for number in range(len(requests))]


def _check(model: VideoGenerator, requests: Sequence[ClipRequest], options: SamplingOptions) -> None:
    grammar = model.grammar
    for request in requests:
        given = request.given and _last(request.given, grammar.num_blocks - 1) if grammar.endless else request.given
        grammar.prompt(request.label, given)
        own = given.lengths.tolist() if given and not grammar.num_given_blocks else []
        request.constraints.check(grammar, own)
        num_given = len(request.given.lengths) if request.given and not grammar.num_given_blocks else 0
        if (wanted := request.num_blocks or grammar.num_blocks) <= num_given:
            raise ValueError(f"of a clip of {wanted} blocks {num_given} are given: ask for more blocks, or give fewer")
        if request.num_blocks not in (None, grammar.num_blocks):
            if not grammar.endless:
                raise ValueError(
                    f"this generator writes clips of {grammar.num_blocks} blocks, not {request.num_blocks}; for videos "
                    "of any length train one with blocks=… on the tokens of a tokenizer with a memory"
                )
            if request.constraints.forced is not None or request.constraints.max_tokens is not None:
                raise ValueError(
                    f"forced lengths and max_tokens are for clips of {grammar.num_blocks} blocks, as this generator "
                    "was trained; bound a longer or shorter video by max_length or bias"
                )
    if options.guidance != 1 and model.config["class_dropout"] == 0:
        raise ValueError(
            f"guidance {options.guidance} needs a model that also knows clips without a class; this one was trained "
            "with class_dropout 0: sample with guidance 1, or train it with class_dropout 0.1"
        )


class ContinuousBatch:
    """The clips that one call of `sample` has in work, on the model's device. The batch is continuous: a slot
    whose clip is finished takes the next request (Orca, OSDI 2022, calls this iteration-level scheduling)."""

    def __init__(
        self,
        model: VideoGenerator,
        requests: Sequence[ClipRequest],
        options: SamplingOptions,
        num_slots: int,
        dtype: torch.dtype | None = None,
    ):
        self.grammar, self.options, self.device = model.grammar, options, model.device
        self.guided = options.guidance != 1
        self.decoder = Decoder(model, num_slots * (2 if self.guided else 1), dtype)
        self.requests, self.next_request = requests, 0
        self.occupants: list[_Work | None] = [None] * num_slots
        self.state = model.grammar.start(num_slots, model.device)
        longest = model.grammar.max_sequence_length
        self.tokens = torch.zeros(num_slots, dtype=torch.int64, device=model.device)  # due next
        self.written = torch.zeros(num_slots, longest, dtype=torch.int64, device=model.device)  # S M
        self.noise = torch.zeros(num_slots, longest, dtype=torch.float64, device=model.device)  # S M
        free = LengthScores.of([LengthConstraints()] * num_slots, model.grammar)
        self.length_scores = LengthScores(*send(tuple(free), model.device))
        self.steps_between_looks = 1 if model.device.type == "cpu" else STEPS_BETWEEN_LOOKS
        self.step = Replayed(self._step, model.device)

    @torch.no_grad()
    def run(self) -> Iterator[tuple[int, ClipTokens]]:
        self._occupy(list(range(len(self.occupants))))
        while any(self.occupants):
            for _ in range(self.steps_between_looks):
                self.step(self.decoder.keys_read)
                self.decoder.count()
            done = self.grammar.finished(self.state).tolist()
            ready = {slot: work for slot, work in enumerate(self.occupants) if work and done[slot]}
            if not ready:
                continue
            sequences = self.written.cpu()[list(ready)]  # (ready, M)
            for work, sequence in zip(ready.values(), sequences):
                self._add(work, self._unpacked(sequence))
            unfinished = {slot: work for slot, work in ready.items() if work.count < self._wanted(work)}
            self._start(unfinished)
            finished = {slot: work for slot, work in ready.items() if slot not in unfinished}
            if finished:
                self._occupy(list(finished))
            for work in finished.values():
                yield work.number, _joined(work.blocks, self._wanted(work))

    def _wanted(self, work: _Work) -> int:
        return self.requests[work.number].num_blocks or self.grammar.num_blocks

    def _begin(self, number: int) -> _Work:
        """The clip of a request, of which there is what is given; of too much for a window the last half of one."""
        given, whole = self.requests[number].given, self.grammar.num_blocks
        if given is None or not self.grammar.endless:
            return _Work(number, beginning=given)
        count = len(given.lengths)
        later = count >= whole
        return _Work(number, [given], count, _last(given, max(1, whole // 2)) if later else given, later)

    def _add(self, work: _Work, window: ClipTokens) -> None:
        """What a window has written, behind what the clip had before; its last half begins the next one."""
        whole, new = self.grammar.num_blocks, window
        if self.grammar.endless and work.beginning is not None:
            new = _last(window, whole - len(work.beginning.lengths))
        work.blocks.append(new)
        work.count += len(new.lengths)
        work.windows += 1
        work.beginning, work.begins_later = _last(window, max(1, whole // 2)), True

    def _step(self) -> None:
        """One token for every slot. Writes into the tensors that are there, so that it can be recorded."""
        grammar, options = self.grammar, self.options
        noise = self.noise.gather(1, self.decoder.positions[: len(self.tokens), None])[:, 0]  # (S,)
        if self.guided:  # the unconditional half has the null class in its cache, and the same tokens behind it
            conditional, unconditional = self.decoder.launch(self._both(self.tokens)).chunk(2)  # (S, V) each
            scale = options.guidance_at(grammar.progress(self.state))  # (S, 1)
            logits = unconditional + scale * (conditional - unconditional)  # (S, V)
        else:
            logits = self.decoder.launch(self.tokens)  # (S, V)
        scores = self.length_scores(self.state, grammar.levels_on(self.device))  # (S, L)
        logits[:, grammar.first_length : grammar.first_class] += scores
        logits = logits.masked_fill(~grammar.allowed(self.state), -torch.inf)
        self.tokens.copy_(draw(token_probabilities(logits, options), noise))  # (S,)
        after = grammar.advance(self.state, self.tokens)
        for each, value in zip(self._fields(), self._fields(after)):
            each.copy_(value)
        self.written.scatter_(1, self.decoder.positions[: len(self.tokens), None], self.tokens[:, None])

    def _both(self, tokens: Tensor) -> Tensor:
        """Tokens due (S,) for both halves (2·S,): where a clip's class token is due, the null class for the other."""
        is_class = (tokens >= self.grammar.first_class) & (tokens < self.grammar.null_class)
        return torch.cat([tokens, torch.where(is_class, self.grammar.null_class, tokens)])

    def _occupy(self, slots: list[int]) -> None:
        """Gives these slots to the next requests; where there are none, slots stay empty, or are dropped once half of
        all are."""
        for slot in slots:
            self.occupants[slot] = self._begin(self.next_request) if self.next_request < len(self.requests) else None
            self.next_request += self.occupants[slot] is not None
        self._start({slot: work for slot in slots if (work := self.occupants[slot])})
        busy = [slot for slot, work in enumerate(self.occupants) if work]
        if busy and 2 * len(busy) <= len(self.occupants):
            self._keep(busy)

    def _start(self, works: dict[int, _Work]) -> None:
        """Begins the next window of these clips, by slot."""
        if not works:
            return
        slots, requests = list(works), [self.requests[work.number] for work in works.values()]
        given, later = ([getattr(w, name) for w in works.values()] for name in ("beginning", "begins_later"))
        prompts = [self.grammar.prompt(r.label, known, late) for r, known, late in zip(requests, given, later)]
        self.decoder.prefill(slots, prompts)
        if self.guided:
            unconditional = [self.grammar.prompt(-1, known, late) for known, late in zip(given, later)]
            self.decoder.prefill([slot + len(self.occupants) for slot in slots], unconditional)
        longest = self.written.shape[1]
        ended = [F.pad(prompt, (0, longest - len(prompt)), value=self.grammar.end) for prompt in prompts]
        seeds = [r.seed + work.windows * SEEDS_BETWEEN_WINDOWS for r, work in zip(requests, works.values())]
        fresh = (
            torch.stack(ended),
            torch.stack([clip_noise(seed, longest) for seed in seeds]),
            torch.stack([prompt[-1] for prompt in prompts]),
            *LengthScores.of([request.constraints for request in requests], self.grammar),
            *torch.tensor([self.grammar.state_after(blocks) for blocks in given]).T,
        )
        where, fresh = send((torch.tensor(slots), fresh), self.device)
        tables = (self.written, self.noise, self.tokens, *self.length_scores, *self._fields())
        for table, values in zip(tables, fresh, strict=True):
            table[where] = values

    def _keep(self, slots: list[int]) -> None:
        rows = slots + ([slot + len(self.occupants) for slot in slots] if self.guided else [])
        self.decoder.keep(rows)
        self.occupants = [self.occupants[slot] for slot in slots]
        chosen = send(torch.tensor(slots), self.device)
        self.state = GrammarState(*(each[chosen] for each in self._fields()))
        self.length_scores = LengthScores(*(table[chosen] for table in self.length_scores))
        self.tokens, self.written, self.noise = self.tokens[chosen], self.written[chosen], self.noise[chosen]
        self.step.forget()

    def _fields(self, state: GrammarState | None = None) -> tuple[Tensor, ...]:
        state = state or self.state
        return state.begun, state.remaining, state.length, state.total

    def _unpacked(self, sequence: Tensor) -> ClipTokens:
        ends = (sequence == self.grammar.end).nonzero()  # what follows the last block is the end, at least once
        return self.grammar.unpack(sequence[: int(ends[0])])


def _last(blocks: ClipTokens, count: int) -> ClipTokens:
    """The last blocks, at most so many."""
    lengths = blocks.lengths[max(0, len(blocks.lengths) - count) :]
    return ClipTokens(blocks.codes[len(blocks.codes) - int(lengths.sum()) :], lengths)


def _joined(parts: Sequence[ClipTokens], most: int | None = None) -> ClipTokens:
    """Blocks one behind another, the first so many."""
    codes, lengths = torch.cat([part.codes for part in parts]), torch.cat([part.lengths for part in parts])[:most]
    return ClipTokens(codes[: int(lengths.sum())], lengths)


def token_probabilities(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Logits (S, V), -inf where a token is forbidden → float32 probabilities (S, V) after temperature, top-k, top-p and
    min-p, in this order. The likeliest token always stays."""
    logits = logits.float()
    if options.temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
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
    its own."""
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)  # (S, V)
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp_max(probabilities.shape[-1] - 1)


def clip_noise(seed: int, length: int) -> Tensor:
    """The uniform numbers of one clip, from its own seed: float64 (length,)."""
    return torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
