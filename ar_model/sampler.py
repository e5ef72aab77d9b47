"""Sampling: from requests to tokens that always decode.

Slots write side by side, each at its own place; a clip that is finished makes room for the next request. What a clip
becomes follows from its request alone, not from what is written beside it (up to the rounding of matrix products
of another size).

A generator without an end writes a video of any length in windows: when its T blocks are written, the slot goes on with
the last half of them as the beginning of the next window. So neither the cache nor a token's time grows.

Legend: S slots, R rows of the decoder (S, or 2·S with guidance), V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from evagen.ar_model.decoding import Decoder
from evagen.ar_model.drawing import Drawing, SamplingOptions, Slots, clip_noise
from evagen.ar_model.grammar import ClipTokens
from evagen.ar_model.lengths import LengthConstraints, LengthScores
from evagen.ar_model.transformer import VideoGenerator
from evagen.kernels.replay import Replayed
from evagen.kernels.transfer import send

STEPS_BETWEEN_LOOKS = 16
"""On an accelerator, how often the host asks which clips are finished; it waits for the device only then."""


@dataclass(frozen=True)
class ClipRequest:
    """One clip to be written. seed: a whole number, of which the low 32 bits count; label: -1 for no class; given: for
    frame prediction the given frames' blocks, for continuation the clip's own first blocks; constraints: on its
    lengths; num_blocks: of the clip, those that are given included, the generator's own number if None, which only one
    without an end can exceed."""

    seed: int
    label: int = -1
    given: ClipTokens | None = None
    constraints: LengthConstraints = field(default_factory=LengthConstraints)
    num_blocks: int | None = None


@dataclass
class _Work:
    """A clip that is being written. number: its request's; blocks: so far, `count` of them; beginning: the first blocks
    of its next window, which are there already; begins_later: whether that window is a later one;
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
    if num_slots < 1:
        raise ValueError(f"num_slots={num_slots}: at least 1 clip is written at a time")
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
        if request.num_blocks is not None and request.num_blocks < 1:
            raise ValueError(f"num_blocks={request.num_blocks}: a clip has at least 1 block")
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
            if options.guidance_schedule != "constant":
                raise ValueError(
                    f"guidance_schedule={options.guidance_schedule} follows the time of clips of {grammar.num_blocks} "
                    f"blocks, as this generator was trained, not of {wanted}: take constant"
                )
    if is_guided(model, options) and model.config["class_dropout"] == 0:
        raise ValueError(
            f"guidance {options.guidance} needs a model that also knows clips without a class; this one was trained "
            "with class_dropout 0: sample with guidance 1, or train it with class_dropout 0.1"
        )


def is_guided(model: VideoGenerator, options: SamplingOptions) -> bool:
    """Whether clips are written twice, with and without their class. Without classes there is no difference."""
    return options.guidance != 1 and bool(model.config["class_names"])


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
        self.grammar, self.device = model.grammar, model.device
        self.guided = is_guided(model, options)
        self.decoder = Decoder(model, num_slots * (2 if self.guided else 1), dtype)
        self.requests, self.next_request = requests, 0
        self.occupants: list[_Work | None] = [None] * num_slots
        self.slots = Slots.empty(num_slots, len(self.decoder.positions), model.grammar, model.device)
        self.draw = Drawing(model.grammar, options, model.device)
        self.steps_between_looks = 1 if model.device.type == "cpu" else STEPS_BETWEEN_LOOKS
        self.step = Replayed(model.device)

    @torch.no_grad()
    def run(self) -> Iterator[tuple[int, ClipTokens]]:
        self._occupy(list(range(len(self.occupants))))
        while any(self.occupants):
            for _ in range(self.steps_between_looks):
                self.step(self._step, self.decoder.keys_read)
                self.decoder.count()
            done = self.grammar.finished(self.slots.state).tolist()
            ready = {slot: work for slot, work in enumerate(self.occupants) if work and done[slot]}
            if not ready:
                continue
            sequences = self.slots.written.cpu()[list(ready)]  # (ready, M)
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
        return _Work(number, [given], count, _last(given, whole // 2) if later else given, later)

    def _add(self, work: _Work, window: ClipTokens) -> None:
        """What a window has written, behind what the clip had before; its last half begins the next one."""
        whole, new = self.grammar.num_blocks, window
        if self.grammar.endless and work.beginning is not None:
            new = _last(window, whole - len(work.beginning.lengths))
        work.blocks.append(new)
        work.count += len(new.lengths)
        work.windows += 1
        work.beginning, work.begins_later = _last(window, whole // 2), True

    def _step(self) -> None:
        """One token for every slot. Writes into the tensors that are there, so that it can be recorded."""
        logits = self.decoder.launch(self.slots.tokens)  # (R, V)
        self.draw(logits, self.decoder.positions, self.slots)

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
        longest = self.slots.written.shape[1]
        ended = [F.pad(prompt, (0, longest - len(prompt)), value=self.grammar.end) for prompt in prompts]
        fresh = (
            torch.stack(ended),
            torch.stack([clip_noise(r.seed, longest, w.windows) for r, w in zip(requests, works.values())]),
            *LengthScores.of([request.constraints for request in requests], self.grammar),
            *torch.tensor([self.grammar.state_after(blocks) for blocks in given]).T,
        )
        rows = slots
        if self.guided:  # the unconditional half has the null class in its cache, and the same tokens behind it
            rows = slots + [slot + len(self.occupants) for slot in slots]
            prompts += [self.grammar.prompt(-1, known, late) for known, late in zip(given, later)]
        self.decoder.prefill(rows, prompts)
        due = torch.stack([prompt[-1] for prompt in prompts])
        where, of_due, due, fresh = send((torch.tensor(slots), torch.tensor(rows), due, fresh), self.device)
        self.slots.tokens[of_due] = due
        for table, values in zip(self.slots.tables(), fresh, strict=True):
            table[where] = values

    def _keep(self, slots: list[int]) -> None:
        rows = slots + ([slot + len(self.occupants) for slot in slots] if self.guided else [])
        self.decoder.keep(rows)
        self.occupants = [self.occupants[slot] for slot in slots]
        chosen = send(torch.tensor(slots), self.device)
        self.slots = self.slots.keep(chosen)
        self.step.forget()

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
