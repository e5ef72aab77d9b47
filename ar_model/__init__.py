"""The generator as a library: sequence grammar, transformer, loss, sampler."""

import torchvision_ops  # noqa: F401, I001  (before anything that imports torchvision)

from ar_model.grammar import GrammarState, SequenceGrammar
from ar_model.loss import GeneratorLoss, drop_classes, next_token_loss
from ar_model.sampler import SampledTokens, SamplingOptions, sample
from ar_model.transformer import VideoGenerator

__all__ = [
    "GeneratorLoss",
    "GrammarState",
    "SampledTokens",
    "SamplingOptions",
    "SequenceGrammar",
    "VideoGenerator",
    "drop_classes",
    "next_token_loss",
    "sample",
]
