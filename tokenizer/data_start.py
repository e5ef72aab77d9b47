"""First weights made from clips instead of random numbers: what a short training would spend its first steps on.

A tokenizer of random weights learns for hundreds of steps what linear algebra gives at once: which directions patches
vary in, where codes lie, and what pixels a code stands for. So before the first step

1. patches are embedded by their principal components,
2. codes are made of the principal components of what the encoder then gives,
3. the codebook is the spherical k-means of these,
4. pixels are the ridge regression on what the decoder then gives.

Not in the paper, whose trainings are long enough to find all of it.

Legend: N rows, D width of rows, c code width, K codes, V values of a patch.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from evagen.tokenizer.autoencoder import VideoTokenizer
from evagen.tokenizer.losses import place_weights

WHITENING = 0.0
BRANCHES = 0.1
CONSTANT = 2.0
RIDGE = 1e-3
ROUNDS = 10


@torch.no_grad()
def begin_from_clips(model: VideoTokenizer, video: Tensor, moving_pixels: float, random: torch.Generator) -> None:
    """Sets the weights of a new model. video: (B, C, F, H, W) in [-1, 1]; moving_pixels: weight of what moves, as in
    `LossWeights`; random: draws lengths and first codes."""
    step, patch = model.config.temporal_patch, model.config.spatial_patch
    cut = "b c (t f) (y p) (x q) -> (b t y x) (f p q c)"
    patches = rearrange(video, cut, f=step, p=patch, q=patch)  # (N, V)
    weights = place_weights(video, moving_pixels)
    weights = rearrange(weights, cut, f=step, p=patch, q=patch).mean(1)  # (N,)
    for stack in (model.encoder, model.decoder):
        for layer in stack.layers:
            for branch in (layer.self_attention.to_out, layer.cross_attention.to_out, layer.mlp[-1]):
                branch.weight.mul_(BRANCHES)
    _to_components(model.embed_patches, patches, weights, WHITENING)
    lengths = model.assignments.random(len(video), random)
    rows = _output_of(model.encoder, lambda: model._encode(video, lengths))
    _to_components(model.to_code, rows, None, 0.5)
    if model.quantizer.codebook is not None:
        vectors = F.normalize(model._encode(video, lengths), dim=-1)
        model.quantizer.codebook.copy_(spherical_means(vectors, model.quantizer.codebook_size, random))
    codes = model.quantizer(model._encode(video, lengths), with_losses=False).vectors
    rows = _output_of(model.decoder, lambda: model._decode(codes, lengths, tuple(video.shape[-2:])))
    _regress(model.to_pixels, rows, patches, weights)


def _output_of(stack: nn.Module, run) -> Tensor:
    seen = []
    handle = stack.register_forward_hook(lambda module, given, output: seen.append(output[0]))
    run()
    handle.remove()
    return seen[0]


def _to_components(linear: nn.Linear, rows: Tensor, weights: Tensor | None, whitening: float) -> None:
    rows = rows.double()
    w = torch.ones(len(rows), dtype=rows.dtype) if weights is None else weights.double()
    w = w / w.sum()
    mean = w @ rows
    centred = rows - mean
    values, vectors = torch.linalg.eigh((centred * w[:, None]).T @ centred)
    count = min(linear.out_features - 1, len(values))
    values, vectors = values.flip(0)[:count].clamp(min=1e-9), vectors.flip(1)[:, :count]
    scaled = vectors.T / values[:, None] ** whitening
    scaled = scaled / ((values ** (1 - 2 * whitening)).mean()).sqrt()
    linear.weight.zero_()
    linear.weight[:count] = scaled.to(linear.weight)
    linear.bias.zero_()
    linear.bias[:count] = -(scaled @ mean).to(linear.bias)
    linear.bias[count] = CONSTANT * count**0.5


def _regress(linear: nn.Linear, rows: Tensor, targets: Tensor, weights: Tensor) -> None:
    x = torch.cat([rows, torch.ones(len(rows), 1)], 1).double()
    w = weights.double()[:, None]
    gram = (x * w).T @ x
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    found = torch.linalg.solve(gram, (x * w).T @ targets.double())
    linear.weight.copy_(found[:-1].T)
    linear.bias.copy_(found[-1])


def spherical_means(vectors: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Spherical k-means: unit vectors (N, c) → (K, c)."""
    means = vectors[torch.randint(len(vectors), (count,), generator=random)]
    for _ in range(ROUNDS):
        nearest = (vectors @ means.T).argmax(1)  # (N,)
        sums = torch.zeros_like(means).index_add_(0, nearest, vectors)
        empty = (sums.norm(dim=1) < 1e-6).nonzero().flatten()
        sums[empty] = vectors[torch.randint(len(vectors), (len(empty),), generator=random)]
        means = F.normalize(sums, dim=-1)
    return means
