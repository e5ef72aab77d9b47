"""Sampling: from requests to tokens that always decode.

Slots write side by side, each at its own place; a clip that is finished makes room for the next request. What a clip
becomes follows from its request alone, not from what is written beside it (up to the rounding of matrix products
of another size).

A generator without an end writes a video of any length in windows: when its T blocks are written, the slot goes on with
the last half of them as the beginning of the next window. So neither the cache nor a token's time grows.

Legend: S slots, R rows of the decoder (S, or 2·S with guidance), V vocabulary.
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from evagen.ar_model.decoding import Decoder
from evagen.ar_model.drawing import Drawing, SamplingOptions, Slots, SlotTables, clip_noise
from evagen.ar_model.grammar import ClipTokens, GrammarState, SequenceGrammar
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

    def __post_init__(self) -> None:
        for name in ["seed", "label"] + ["num_blocks"] * (self.num_blocks is not None):
            try:
                object.__setattr__(self, name, operator.index(getattr(self, name)))
            except TypeError as error:
                raise ValueError(f"{name} is a whole number, got {getattr(self, name)!r}") from error
        if self.given is not None:  # perhaps just encoded on a GPU
            object.__setattr__(self, "given", ClipTokens(self.given.codes.cpu(), self.given.lengths.cpu()))


class _Clip:
    """A clip that is being written, window by window: each but the first begins with the last half of the one before,
    and a clip with an end is a single window.

    Attributes: number, request: which clip; beginning, begins_later: of its next window the blocks that are there
    already, and whether it is a later one; windows: how many are written."""

    def __init__(self, number: int, request: ClipRequest, grammar: SequenceGrammar):
        self.number, self.request, self.windows = number, request, 0
        self.beginning, self.begins_later = request.given, False
        self._grammar = grammar
        self._parts: list[ClipTokens] = []
        if grammar.endless and request.given is not None:
            self._parts.append(request.given)
            if len(request.given.lengths) >= grammar.num_blocks:
                self._begin_after(request.given)

    def prompt(self, label: int) -> Tensor:
        """Of the next window."""
        return self._grammar.prompt(label, self.beginning, self.begins_later)

    def add(self, window: ClipTokens) -> None:
        """The next window, which is written: what of it was not there already."""
        known = len(self.beginning.lengths) if self._parts and self.beginning else 0
        self._parts.append(_last(window, self._grammar.num_blocks - known))
        self.windows += 1
        self._begin_after(window)

    def _begin_after(self, blocks: ClipTokens) -> None:
        self.beginning, self.begins_later = _last(blocks, self._grammar.num_blocks // 2), True

    @property
    def _wanted(self) -> int:
        return self.request.num_blocks or self._grammar.num_blocks

    @property
    def is_finished(self) -> bool:
        return sum(len(part.lengths) for part in self._parts) >= self._wanted

    def tokens(self) -> ClipTokens:
        """All that is written, up to the blocks that were asked for."""
        return _joined(self._parts, self._wanted)


def sample(
    model: VideoGenerator,
    requests: Sequence[ClipRequest],
    options: SamplingOptions | None = None,
    num_slots: int = 64,
    dtype: torch.dtype | None = None,
) -> Iterator[tuple[int, ClipTokens]]:
    """Writes a clip for each request; yields its number and its tokens, on the CPU, as clips get finished. Continued
    clips come with the blocks that they were given. dtype: of the matrix products, the model's if None, whatever
    autocast is around. Dropout is off in either mode of the model.

    Raises ValueError for requests or options that the model cannot follow, before anything is written.
    """
    options = options or SamplingOptions()
    if num_slots < 1:
        raise ValueError(f"num_slots={num_slots}: at least 1 clip is written at a time")
    _check(model, requests, options)
    if not requests:
        return iter(())
    return ContinuousBatch(model, requests, options, min(num_slots, len(requests)), dtype).run()


def sample_in_order(
    model: VideoGenerator,
    requests: Sequence[ClipRequest],
    options: SamplingOptions | None = None,
    num_slots: int = 64,
    dtype: torch.dtype | None = None,
) -> list[ClipTokens]:
    """The clips of `sample`, whose arguments these are, in the order of their requests."""
    clips = dict(sample(model, requests, options, num_slots, dtype))
    return [clips[number] for number in range(len(requests))]


def _check(model: VideoGenerator, requests: Sequence[ClipRequest], options: SamplingOptions) -> None:
    for request in requests:
        _check_request(request, model.grammar, options)
    if is_guided(model, options) and model.config["class_dropout"] == 0:
        raise ValueError(
            f"guidance {options.guidance} needs a model that also knows clips without a class; this one was trained "
            "with class_dropout 0: sample with guidance 1, or train it with class_dropout 0.1"
        )


def _check_request(request: ClipRequest, grammar: SequenceGrammar, options: SamplingOptions) -> None:
    given, is_own = request.given, not grammar.num_given_blocks  # those of frame prediction are not the clip's own
    prompted = given
    if given and grammar.endless:
        grammar.block_tokens(given)  # which looks at all of them; a window begins with the last
        prompted = _last(given, grammar.num_blocks - 1)
    grammar.prompt(request.label, prompted)
    request.constraints.check(grammar, prompted.lengths.tolist() if prompted and is_own else [])
    if request.num_blocks is not None and request.num_blocks < 1:
        raise ValueError(f"num_blocks={request.num_blocks}: a clip has at least 1 block")
    wanted, num_given = request.num_blocks or grammar.num_blocks, len(given.lengths) if given and is_own else 0
    if wanted <= num_given:
        raise ValueError(f"of a clip of {wanted} blocks {num_given} are given: ask for more blocks, or give fewer")
    if wanted == grammar.num_blocks:
        return
    if not grammar.endless:
        raise ValueError(
            f"this generator writes clips of {grammar.num_blocks} blocks, not {wanted}; for videos of any length train "
            "one with blocks=… on the tokens of a tokenizer with a memory"
        )
    if request.constraints.forced is not None or request.constraints.max_tokens is not None:
        raise ValueError(
            f"forced lengths and max_tokens are for clips of {grammar.num_blocks} blocks, as this generator was "
            "trained; bound a longer or shorter video by max_length or bias"
        )
    if options.guidance_schedule != "constant":
        raise ValueError(
            f"guidance_schedule={options.guidance_schedule} follows the time of clips of {grammar.num_blocks} blocks, "
            f"as this generator was trained, not of {wanted}: take constant"
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
        self.waiting = (_Clip(number, request, model.grammar) for number, request in enumerate(requests))
        self.occupants: list[_Clip | None] = [None] * num_slots
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
            ready = {slot: clip for slot, clip in enumerate(self.occupants) if clip and done[slot]}
            if not ready:
                continue
            sequences = self.slots.tables.written.cpu()[list(ready)]  # (ready, M)
            for clip, sequence in zip(ready.values(), sequences):
                clip.add(self._unpacked(sequence))
            self._start({slot: clip for slot, clip in ready.items() if not clip.is_finished})
            finished = {slot: clip for slot, clip in ready.items() if clip.is_finished}
            if finished:
                self._occupy(list(finished))
            for clip in finished.values():
                yield clip.number, clip.tokens()

    def _step(self) -> None:
        """One token for every slot. Writes into the tensors that are there, so that it can be recorded."""
        logits = self.decoder.launch(self.slots.tokens)  # (R, V)
        self.draw(logits, self.decoder.positions, self.slots)

    def _occupy(self, slots: list[int]) -> None:
        """Gives these slots to the next requests; where there are none, slots stay empty, or are dropped once half of
        all are."""
        for slot in slots:
            self.occupants[slot] = next(self.waiting, None)
        self._start({slot: clip for slot in slots if (clip := self.occupants[slot])})
        busy = [slot for slot, clip in enumerate(self.occupants) if clip]
        if busy and 2 * len(busy) <= len(self.occupants):
            self._keep(busy)

    def _start(self, clips: dict[int, _Clip]) -> None:
        """Begins the next window of these clips, by slot."""
        if not clips:
            return
        slots, longest = list(clips), self.slots.tables.written.shape[1]
        prompts = [clip.prompt(clip.request.label) for clip in clips.values()]
        ended = [F.pad(prompt, (0, longest - len(prompt)), value=self.grammar.end) for prompt in prompts]
        states = [self.grammar.state_after(clip.beginning) for clip in clips.values()]
        fresh = SlotTables(
            written=torch.stack(ended),
            noise=torch.stack([clip_noise(clip.request.seed, longest, clip.windows) for clip in clips.values()]),
            **LengthScores.of([clip.request.constraints for clip in clips.values()], self.grammar)._asdict(),
            **vars(GrammarState(*torch.tensor(states).T)),
        )
        rows = slots
        if self.guided:  # the unconditional half has the null class in its cache, and the same tokens behind it
            rows = slots + [slot + len(self.occupants) for slot in slots]
            prompts += [clip.prompt(-1) for clip in clips.values()]
        self.decoder.prefill(rows, prompts)
        due = torch.stack([prompt[-1] for prompt in prompts])
        where, of_due, due, sent = send((torch.tensor(slots), torch.tensor(rows), due, tuple(fresh)), self.device)
        self.slots.tokens[of_due] = due
        for table, values in zip(self.slots.tables, sent, strict=True):
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
        try:
            return self.grammar.unpack(sequence[: int(ends[0])])
        except ValueError as error:  # the grammar holds, but where logits are NaN
            raise ValueError(
                f"in {self.decoder.dtype} the generator's numbers become infinite: compute in bf16 or fp32, by "
                "run.precision of a config or dtype in Python"
            ) from error


def _last(blocks: ClipTokens, count: int) -> ClipTokens:
    """The last blocks, at most so many."""
    lengths = blocks.lengths[max(0, len(blocks.lengths) - count) :]
    return ClipTokens(blocks.codes[len(blocks.codes) - int(lengths.sum()) :], lengths)


def _joined(parts: Sequence[ClipTokens], most: int | None = None) -> ClipTokens:
    """Blocks one behind another, the first so many."""
    codes, lengths = torch.cat([part.codes for part in parts]), torch.cat([part.lengths for part in parts])[:most]
    return ClipTokens(codes[: int(lengths.sum())], lengths)
