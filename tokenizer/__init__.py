"""EVATok as a library: adaptive-length video tokenization (arXiv 2603.12267).

A `Router` gives each temporal block of a clip a number of tokens, a `VideoTokenizer` encodes the clip into
just that many and decodes them. `CandidateSearch` and the proxy reward say which lengths are worth it.
"""

from evagen.tokenizer.adaptive import (
    AdaptiveTokenizer,
    TileStreams,
    TokenizedVideo,
    check_decodable,
    check_router_fits,
    decode_in_chunks,
    num_tiles,
)
from evagen.tokenizer.assignments import AssignmentSpace
from evagen.tokenizer.autoencoder import TokenizedClips, TokenizerOutput, VideoTokenizer
from evagen.tokenizer.block_router import BlockRouter
from evagen.tokenizer.brute_force import brute_force_distances
from evagen.tokenizer.lattices import BinarySphericalQuantizer, FiniteScalarQuantizer
from evagen.tokenizer.live import LiveBlock, LiveTokenizer, Rate, check_block_router_fits
from evagen.tokenizer.losses import LossWeights, tokenizer_loss
from evagen.tokenizer.quantizer import CodebookUsage, DeadCodeRestart, Quantized, VectorQuantizer
from evagen.tokenizer.quantizer_kinds import make_quantizer
from evagen.tokenizer.reward import PREFERENCE_RANGE, RewardScale, best_assignment, proxy_reward, reward_percentile
from evagen.tokenizer.router import Router, VideoAssignment
from evagen.tokenizer.search import CandidateSearch
from evagen.tokenizer.stream import TokenizerStream

__all__ = [
    "PREFERENCE_RANGE",
    "AdaptiveTokenizer",
    "AssignmentSpace",
    "BinarySphericalQuantizer",
    "BlockRouter",
    "CandidateSearch",
    "CodebookUsage",
    "DeadCodeRestart",
    "FiniteScalarQuantizer",
    "LiveBlock",
    "LiveTokenizer",
    "LossWeights",
    "Quantized",
    "Rate",
    "RewardScale",
    "Router",
    "TileStreams",
    "TokenizedClips",
    "TokenizedVideo",
    "TokenizerOutput",
    "TokenizerStream",
    "VectorQuantizer",
    "VideoAssignment",
    "VideoTokenizer",
    "best_assignment",
    "brute_force_distances",
    "check_block_router_fits",
    "check_decodable",
    "check_router_fits",
    "decode_in_chunks",
    "make_quantizer",
    "num_tiles",
    "proxy_reward",
    "reward_percentile",
    "tokenizer_loss",
]
