"""The generator as a library: sequence grammar, transformer, loss, sampler."""

import torchvision_ops  # noqa: F401, I001  (before anything that imports torchvision)

from ar_model.grammar import ClipTokens, GrammarState, SequenceGrammar
from ar_model.lengths import LengthDials
from ar_model.loss import GeneratorLoss, LengthShares, drop_classes, length_shares, next_token_loss
from ar_model.sampler import ClipRequest, SamplingOptions, sample, sample_in_order
from ar_model.sizes import SIZES, Size, shape_of, with_shape
from ar_model.transformer import VideoGenerator

__all__ = [
    "SIZES",
    "ClipRequest",
    "ClipTokens",
    "GeneratorLoss",
    "GrammarState",
    "LengthDials",
    "LengthShares",
    "SamplingOptions",
    "SequenceGrammar",
    "Size",
    "VideoGenerator",
    "drop_classes",
    "length_shares",
    "next_token_loss",
    "sample",
    "sample_in_order",
    "shape_of",
    "with_shape",
]
