"""Rate control: the lengths of a video that goes by, never above a rate, and little below it.

Legend: r tokens a block that the rate allows, n blocks of the window.
"""

import math
from collections import deque
from collections.abc import Sequence

from evagen.tokenizer.reward import PREFERENCE_RANGE

USED = 0.96
"""Share of a window's tokens that are used even where the router would not."""
GAIN = 0.1
"""How far the drive moves for a block that is a mean block's tokens off the rate."""
MOST_DRIVE = 3.0
"""The drive goes no further than this from the middle, so that it comes back soon."""
BIAS = 4.0
"""Log-odds for each doubling of a length, for a unit of drive beyond the range of preferences."""


class RateControl:
    """Bounds and steers the lengths of one video's blocks, one after another, in one reading.

        control = RateControl(levels, tokens_per_second=120, window_seconds=4, blocks_per_second=3.75)
        while …:
            allowed = control.allowed()   # which levels; preference and bias say which way to lean among them
            control.add(length)

    No run of n blocks, which fill the window, ever has more than n·r tokens, nor has the whole from the first window's
    end on. Tokens that a window left unused are lost, since no later one may have more for them; so while less than 96%
    of all has been used, levels are ruled out with which the window could not be filled up to that. Within these bounds
    the drive, an integral of what was left or overspent, moves the router's preference, and beyond its range its
    log-odds.

    Args:
        levels: the lengths that a block can have, rising.
        tokens_per_second: the rate.
        window_seconds: over which it holds; rounded down to whole blocks (`window_blocks` of them).
        blocks_per_second: of the video.
        preferences: that the router was trained for, low and high.

    Raises ValueError for a window shorter than a block, and for a rate that the shortest lengths exceed."""

    def __init__(
        self,
        levels: Sequence[int],
        tokens_per_second: float,
        window_seconds: float,
        blocks_per_second: float,
        preferences: tuple[float, float] = PREFERENCE_RANGE,
    ):
        self._preferences = preferences
        self.levels, self.shortest, self.longest = tuple(levels), levels[0], levels[-1]
        self.per_block = max(tokens_per_second / blocks_per_second, self.shortest)  # r
        self.window_blocks = int(window_seconds * blocks_per_second + 1e-9)  # n
        if self.window_blocks < 1:
            raise ValueError(
                f"a window of {window_seconds:g} seconds is shorter than a block, which takes "
                f"{_rounded_up(1 / blocks_per_second, 3)} seconds of this video"
            )
        least = self.shortest * blocks_per_second
        if not tokens_per_second >= least * (1 - 1e-9):  # which may have been computed in another order
            raise ValueError(
                f"{tokens_per_second:g} tokens a second cannot be kept: the shortest lengths, {self.shortest} a block, "
                f"take {_rounded_up(least, 2)} a second of this video"
            )
        self._window: deque[int] = deque(maxlen=self.window_blocks - 1)  # lengths of the blocks before
        self._blocks = self._tokens = 0
        self._drive = 0.0

    def most(self) -> int:
        """How many tokens the next block may have; at least the shortest length."""
        to_come = max(0, self.window_blocks - 1 - self._blocks)  # in the first window, which these too must fit into
        most = int(self.window_blocks * self.per_block + 1e-9) - sum(self._window) - to_come * self.shortest
        if self._blocks >= self.window_blocks:
            most = min(most, int((self._blocks + 1) * self.per_block + 1e-9) - self._tokens)
        return most

    def least(self) -> int:
        """How many tokens it should have, if `most` allows: with fewer the window could not be used up any more. As
        long as enough of the whole has been used, there is no such bound, or each window would repeat the one
        before."""
        if self._blocks >= self.window_blocks and self._tokens >= USED * self._blocks * self.per_block:
            return 0
        to_come = max(0, self.window_blocks - 1 - self._blocks)
        return math.ceil(USED * self.window_blocks * self.per_block - sum(self._window) - to_come * self.longest)

    def allowed(self) -> list[int]:
        """Which of the levels the next block may have; at least one."""
        within = [level for level in self.levels if level <= self.most()]
        return [level for level in within if level >= self.least()] or within[-1:]

    @property
    def preference(self) -> float:
        """w_q for the next block."""
        low, high = self._preferences
        return min(max((low + high) / 2 + self._drive, low), high)

    @property
    def bias(self) -> float:
        """Added to a level's log-odds for each doubling of its length; 0 within the range of preferences."""
        return BIAS * (sum(self._preferences) / 2 + self._drive - self.preference)

    def add(self, length: int) -> None:
        """The length that the next block was given."""
        self._window.append(length)
        self._blocks, self._tokens = self._blocks + 1, self._tokens + length
        drive = self._drive + GAIN * (1 - length / self.per_block)
        self._drive = min(max(drive, -MOST_DRIVE), MOST_DRIVE)


def _rounded_up(number: float, digits: int) -> str:
    """A least value in words, to be given as it is said."""
    return f"{math.ceil(number * 10**digits) / 10**digits:.{digits}f}".rstrip("0").rstrip(".")
