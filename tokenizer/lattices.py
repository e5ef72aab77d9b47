"""Quantisers whose codes stand on a fixed lattice: nothing is learnt, and no code can die.

Both have `VectorQuantizer`'s methods. `codebook` is None; the loss terms that move a codebook do not exist.

Legend: N vectors, K codebook size, c code width, L levels of a dimension, g bits of a group.
"""

import functools
import itertools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evagen.tokenizer.quantizer import Quantized

FEWEST_LEVELS = 3
"""Levels that a dimension of `FiniteScalarQuantizer` has at least: of two, one would lie at the far end of the tanh."""

MOST_DIMENSIONS = 32
"""Of `FiniteScalarQuantizer`: more would be more codes than a number can tell apart."""

BITS_TOGETHER = 9
"""Bits of `BinarySphericalQuantizer` whose joint distribution is looked at: 512 numbers for each vector."""


class FiniteScalarQuantizer(nn.Module):
    """Each dimension by itself is squashed and rounded to a few levels (FSQ, arXiv 2309.15505, §3 and appendix A).

    It has no losses: the paper drops codebook, commitment and entropy terms alike. The levels are the most even ones
    whose product is K. For the sizes of the paper's table 1 these are its levels, such as 8·5·5·5 for 1,000.

    Args:
        codebook_size: K, a product of c whole numbers that are at least 3; the paper advises at least 5.
        code_width: c, few: 4 to 6 for 1,000 to 64,000 codes.

    Raises ValueError for a K that is no such product.
    """

    codebook = None  # nothing learnt
    levels: Tensor
    steps: Tensor

    def __init__(self, codebook_size: int, code_width: int):
        super().__init__()
        if not 1 <= code_width <= MOST_DIMENSIONS:
            raise ValueError(f"fsq has 1 to {MOST_DIMENSIONS} dimensions; got code_width={code_width}")
        levels = even_levels(codebook_size, code_width)
        if levels is None:
            raise ValueError(_fsq_sizes(codebook_size, code_width))
        self.codebook_size = codebook_size
        steps = [math.prod(levels[:i]) for i in range(code_width)]  # what one level more adds to the code
        self.register_buffer("levels", torch.tensor(levels), persistent=False)  # int64, so no conversion rounds them
        self.register_buffer("steps", torch.tensor(steps), persistent=False)

    def lookup(self, codes: Tensor) -> Tensor:
        """int64 (N,) → vectors in [-1, 1] (N, c)."""
        half = self.levels // 2  # (c,)
        return (codes[:, None] // self.steps % self.levels - half) / half  # (N, c)

    def forward(self, x: Tensor, with_losses: bool) -> Quantized:
        """x (N, c), any scale; computed in fp32 whatever the precision around it."""
        with torch.autocast(x.device.type, enabled=False):
            half = self.levels // 2  # (c,)
            bounded = self._bounded(x.float())  # (N, c)
            numbers = bounded.round().long() + half  # (N, c)
            numbers = torch.minimum(numbers, self.levels - 1).clamp_min(0)  # a code, whatever a broken input rounds to
            codes = (numbers * self.steps).sum(-1)  # (N,)
            nearest, bounded = self.lookup(codes), bounded / half  # (N, c) each
            if not with_losses:
                return Quantized(nearest, codes, bounded, {})
            return Quantized(bounded + (nearest - bounded).detach(), codes, bounded, {})

    def _bounded(self, x: Tensor) -> Tensor:
        """Squashes (N, c) so that rounding gives L whole numbers about 0, and 0 stays 0."""
        reach = (self.levels - 1) * (1 - 1e-3) / 2  # (c,)
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)  # (c,)
        return torch.tanh(x + torch.atanh(offset / reach)) * reach - offset  # (N, c)


class BinarySphericalQuantizer(nn.Module):
    """A unit vector goes to the nearest corner of the cube in the sphere (BSQ, arXiv 2406.07548, §4): the signs of its
    dimensions are the bits of its code. No table of codes is gone through, so K may be large.

    Its one loss is the entropy term. The mean's entropy is that of groups of `BITS_TOGETHER` bits, added up, since
    that of all bits together would take K numbers for each vector (as the paper does it).

    Args:
        codebook_size: K = 2**c.
        code_width: c, one bit each.
        entropy_temperature: as for `VectorQuantizer`.

    Raises ValueError for a K that is not 2**c.
    """

    codebook = None  # nothing learnt

    def __init__(self, codebook_size: int, code_width: int, entropy_temperature: float = 0.1):
        super().__init__()
        if codebook_size != 2**code_width:
            raise ValueError(_bsq_sizes(codebook_size, code_width))
        self.codebook_size, self.code_width = codebook_size, code_width
        self.entropy_temperature = entropy_temperature

    def lookup(self, codes: Tensor) -> Tensor:
        """int64 (N,) → unit vectors (N, c)."""
        return (2.0 * _bits(codes, self.code_width) - 1) / math.sqrt(self.code_width)  # (N, c)

    def forward(self, x: Tensor, with_losses: bool) -> Quantized:
        """x (N, c), any scale; computed in fp32 whatever the precision around it."""
        with torch.autocast(x.device.type, enabled=False):
            x = F.normalize(x.float(), dim=-1)  # (N, c)
            places = 2 ** torch.arange(self.code_width, device=x.device)  # (c,)
            codes = ((x > 0) * places).sum(-1)  # (N,)
            nearest = self.lookup(codes)  # (N, c)
            if not with_losses:
                return Quantized(nearest, codes, x, {})
            return Quantized(x + (nearest - x).detach(), codes, x, {"entropy": self._entropy_loss(x)})

    def _entropy_loss(self, x: Tensor) -> Tensor:
        """E[H(p)] - H(E[p]) in nats. A softmax over all corners is a product of one sigmoid for each bit."""
        logits = 4 * x / (math.sqrt(self.code_width) * self.entropy_temperature)  # -|x - e|² / τ of 1 less 0: (N, c)
        log_one, log_zero = F.logsigmoid(logits), F.logsigmoid(-logits)  # (N, c) each
        entropy_of_each = -(log_one.exp() * log_one + log_zero.exp() * log_zero).sum(-1).mean()
        entropy_of_mean = x.new_zeros(())
        for one, zero in zip(log_one.split(BITS_TOGETHER, -1), log_zero.split(BITS_TOGETHER, -1)):  # (N, g) each
            bits = _bits(torch.arange(2 ** one.shape[1], device=x.device), one.shape[1]).float()  # (2**g, g)
            mean_p = (one @ bits.T + zero @ (1 - bits).T).exp().mean(0)  # (2**g,)
            entropy_of_mean = entropy_of_mean - (mean_p * mean_p.clamp_min(1e-9).log()).sum()
        return entropy_of_each - entropy_of_mean


def _bits(codes: Tensor, width: int) -> Tensor:
    """int64 (N,) → its lowest bits, lowest first, (N, width)."""
    return codes[:, None] >> torch.arange(width, device=codes.device) & 1


def even_levels(codebook_size: int, code_width: int) -> tuple[int, ...] | None:
    """`code_width` whole numbers of at least 3 with this product, falling, as even as can be: of the smallest sum, and
    of those with the smallest first. None where there are none."""
    found = _factorisations(codebook_size, code_width, codebook_size)
    return min(found, key=lambda levels: (sum(levels), levels), default=None)


def _factorisations(product: int, count: int, most: int) -> Iterator[tuple[int, ...]]:
    """All falling rows of `count` factors between FEWEST_LEVELS and `most`."""
    if count == 0:
        if product == 1:
            yield ()
        return
    for first in reversed(_divisors(product)):
        if first**count < product or first < FEWEST_LEVELS:
            return
        if first <= min(most, product // FEWEST_LEVELS ** (count - 1)):
            yield from ((first, *rest) for rest in _factorisations(product // first, count - 1, first))


@functools.cache
def _divisors(number: int) -> list[int]:
    """Rising."""
    low = [each for each in range(1, math.isqrt(max(number, 0)) + 1) if number % each == 0]
    return sorted({*low, *(number // each for each in low)})


def _fsq_sizes(codebook_size: int, code_width: int) -> str:
    """What is wrong with a size that fsq cannot have, and which sizes it can have."""
    smallest = FEWEST_LEVELS**code_width
    near = [next(size for size in itertools.count(max(codebook_size, smallest)) if even_levels(size, code_width))]
    below = (size for size in range(codebook_size, smallest - 1, -1) if even_levels(size, code_width))
    near = [*itertools.islice(below, 1), *near]
    most = int(math.log(max(codebook_size, 1), FEWEST_LEVELS)) + 1
    widths = [str(width) for width in range(1, most + 1) if even_levels(codebook_size, width)]
    return (
        f"fsq makes its codes of code_width levels of at least {FEWEST_LEVELS} each, and {codebook_size} is no product "
        f"of {code_width} such numbers. Possible with code_width={code_width}: codebook_size="
        f"{' or '.join(map(str, near))}. "
        f"Possible with codebook_size={codebook_size}: code_width={' or '.join(widths) or 'none'}"
    )


def _bsq_sizes(codebook_size: int, code_width: int) -> str:
    """What is wrong with a size that bsq cannot have, and which sizes it can have."""
    width = max(codebook_size, 1).bit_length() - 1
    near = [width] if 2**width == codebook_size else [width, width + 1]
    fits = "".join(f" or codebook_size={2**each} with code_width={each}" for each in near if each)
    return (
        f"bsq has a code for each corner of a cube, codebook_size = 2**code_width, and {codebook_size} is not "
        f"2**{code_width}. Possible: codebook_size={2**code_width} with code_width={code_width}{fits}"
    )
