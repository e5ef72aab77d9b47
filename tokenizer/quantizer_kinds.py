"""The quantisers that a tokenizer can have. Plain modules with the same methods:

    forward(x (N, c), with_losses) -> Quantized     lookup(codes (N,)) -> vectors (N, c)     codebook_size
    codebook: the learnt codes (K, c), which dead-code restart moves, or None where they are fixed

| kind  | codes                                               | loss terms                    |
|-------|-----------------------------------------------------|-------------------------------|
| `vq`  | learnt, on the unit sphere; the nearest             | codebook, commitment, entropy |
| `svq` | the same, drawn from a softmax in training passes   | codebook, commitment, entropy |
| `fsq` | fixed: a few levels in each dimension               | none                          |
| `bsq` | fixed: the corners of a cube in the unit sphere     | entropy                       |

Of `vector-quantize-pytorch` nothing is used: it has no BSQ, and its FSQ, a formula of ten lines, keeps what it counts
with in floating-point buffers and leaves autocast off on CUDA alone.
"""

from typing import Literal

from evagen.tokenizer.lattices import BinarySphericalQuantizer, FiniteScalarQuantizer
from evagen.tokenizer.quantizer import VectorQuantizer

QuantizerKind = Literal["vq", "svq", "fsq", "bsq"]

Quantizer = VectorQuantizer | FiniteScalarQuantizer | BinarySphericalQuantizer


def make_quantizer(
    kind: QuantizerKind,
    codebook_size: int,
    code_width: int,
    stochastic_temperature: float = 0.03,
) -> Quantizer:
    """A quantiser, its codebook (if any) not yet filled. Settings of other kinds have no effect on it.

    Raises ValueError for an unknown kind, for sizes that the kind cannot have (saying which it can) and for
    temperatures that are not positive."""
    if kind == "vq":
        return VectorQuantizer(codebook_size, code_width)
    if kind == "svq":
        return VectorQuantizer(codebook_size, code_width, stochastic_temperature=stochastic_temperature)
    if kind == "fsq":
        return FiniteScalarQuantizer(codebook_size, code_width)
    if kind == "bsq":
        return BinarySphericalQuantizer(codebook_size, code_width)
    raise ValueError(f"a quantizer is vq, svq, fsq or bsq; got {kind!r}")
