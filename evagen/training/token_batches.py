"""Which clips of a token corpus make up each batch: so many clips, or as many as a budget of tokens holds."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from evagen.data.loader import EndlessSampler
from evagen.errors import UserError


class ClipBatches:
    """`next(batches)` is the next batch: for each process the keys of its clips, none of them in two processes.

    The clips come in the order of an `EndlessSampler`, one process filling up after the other, so that a batch is a
    piece of one endless sequence and the place in it is all the state there is. A resumed run goes on there, with any
    number of processes. A key is a row of the corpus plus a multiple of the number of rows.

    Args:
        tokens_per_clip: length of each clip's sequence, in the order of the corpus.
        seed: of the order.
        num_processes: that share each batch.
        batch_size: clips for each process, or None;
        tokens_per_batch: or the most tokens for each process, filled with whole clips until the next would exceed it.

    Raises UserError for a budget that the longest clip exceeds.
    """

    def __init__(
        self,
        tokens_per_clip: np.ndarray,
        seed: int,
        num_processes: int,
        batch_size: int | None,
        tokens_per_batch: int | None,
    ):
        longest = int(tokens_per_clip.max())
        if tokens_per_batch is not None and tokens_per_batch < longest:
            raise UserError(
                f"optimizer.tokens_per_batch is {tokens_per_batch}, but the longest clip of the corpus alone takes "
                f"{longest} tokens; give at least that"
            )
        self.tokens_per_clip, self.seed, self.num_processes = tokens_per_clip, seed, num_processes
        self.batch_size, self.tokens_per_batch = batch_size, tokens_per_batch
        self.load_state_dict({"position": 0})

    def __next__(self) -> list[list[int]]:
        shares = [self._share() for _ in range(self.num_processes)]
        self._position += sum(map(len, shares))
        return shares

    def tokens_of(self, key: int) -> int:
        """The length of a clip's sequence."""
        return int(self.tokens_per_clip[key % len(self.tokens_per_clip)])

    def state_dict(self) -> dict[str, Any]:
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._position: int = state["position"]
        self._keys: Iterator[int] = iter(EndlessSampler(len(self.tokens_per_clip), self.seed, self._position))
        self._next_key = next(self._keys)

    def _share(self) -> list[int]:
        """The keys of one process, those that come next."""
        if self.tokens_per_batch is None:
            return [self._take() for _ in range(self.batch_size)]
        share, tokens = [], 0
        while tokens + self.tokens_of(self._next_key) <= self.tokens_per_batch:
            tokens += self.tokens_of(self._next_key)
            share.append(self._take())
        return share

    def _take(self) -> int:
        key, self._next_key = self._next_key, next(self._keys)
        return key


class WeightedBatch(NamedTuple):
    """What one process has of a batch. keys: of its clips; num_targets: tokens that are predicted in them; weight: of
    its loss, a mean over these tokens; clips_each: how many clips a process has, on average."""

    keys: list[int]
    num_targets: int
    weight: float
    clips_each: float


def weighted_batches(
    batches: ClipBatches, targets: np.ndarray, accumulation: int, process: int
) -> Iterator[WeightedBatch]:
    """The batches of a process, without an end. The gradients of processes and of the `accumulation` batches of a step
    are averaged; weighted by what each predicts, they are those of one large batch. So the batches of a step are drawn
    together, where it begins. targets: tokens that are predicted in each clip, in the order of the corpus."""
    while True:
        step = [next(batches) for _ in range(accumulation)]
        numbers = [[sum(int(targets[key % len(targets)]) for key in share) for share in shares] for shares in step]
        total = sum(map(sum, numbers))
        for shares, of_each in zip(step, numbers):
            weight = of_each[process] * len(shares) * accumulation / total
            yield WeightedBatch(shares[process], of_each[process], weight, sum(map(len, shares)) / len(shares))


def class_dropout_numbers(keys: Sequence[int], seed: int) -> list[float]:
    """A number in [0, 1) for each key that depends on nothing but the seed."""
    return [np.random.default_rng([seed, key, 1]).random() for key in keys]
