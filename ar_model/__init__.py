"""The generator as a library: sequence grammar, transformer, loss, sampler."""

import torchvision_ops  # noqa: F401, I001  (before anything that imports torchvision)

from ar_model.grammar import GrammarState, SequenceGrammar
from ar_model.loss import GeneratorLoss, LengthShares, drop_classes, length_shares, next_token_loss
from ar_model.sampler import SampledTokens, SamplingOptions, sample
from ar_model.sizes import SIZES, Size, shape_of, with_shape
from ar_model.transformer import VideoGenerator

__all__ = [
    "SIZES",
    "GeneratorLoss",
    "GrammarState",
    "LengthShares",
    "SampledTokens",
    "SamplingOptions",
    "SequenceGrammar",
    "Size",
    "VideoGenerator",
    "drop_classes",
    "length_shares",
    "next_token_loss",
    "sample",
    "shape_of",
    "with_shape",
]
