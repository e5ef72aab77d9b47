"""The generator as a library: sequence grammar, transformer, loss, sampler."""

from evagen.ar_model.drawing import SamplingOptions
from evagen.ar_model.grammar import ClipTokens, GrammarState, SequenceGrammar
from evagen.ar_model.lengths import LengthConstraints
from evagen.ar_model.loss import GeneratorLoss, LengthShares, drop_classes, length_shares, next_token_loss
from evagen.ar_model.sampler import ClipRequest, is_guided, sample, sample_in_order
from evagen.ar_model.sizes import SIZES, Size, shape_of, with_shape
from evagen.ar_model.transformer import VideoGenerator

__all__ = [
    "SIZES",
    "ClipRequest",
    "ClipTokens",
    "GeneratorLoss",
    "GrammarState",
    "LengthConstraints",
    "LengthShares",
    "SamplingOptions",
    "SequenceGrammar",
    "Size",
    "VideoGenerator",
    "drop_classes",
    "is_guided",
    "length_shares",
    "next_token_loss",
    "sample",
    "sample_in_order",
    "shape_of",
    "with_shape",
]
