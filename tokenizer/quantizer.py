"""Vector quantisation with learnt, L2-normalised codes, and what keeps them in use.

Legend: N vectors, K codebook size, c code width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Quantized:
    """What a quantiser gives. vectors: (N, c) codes (straight-through in training); codes: int64 (N,); inputs: (N, c),
    what was quantised, as it was compared with the codes (at unit length, where these have it); losses: scalar tensors,
    those of `codebook`, `commitment`, `entropy` that the quantiser has, empty when not asked for."""

    vectors: Tensor
    codes: Tensor
    inputs: Tensor
    losses: dict[str, Tensor]


class VectorQuantizer(nn.Module):
    """Nearest-code quantiser on the unit sphere (ViT-VQGAN, arXiv 2110.04627, §3.2; used by EVATok).

    Args:
        codebook_size: K.
        code_width: c, low so that the codebook stays in use.
        entropy_temperature: softness of the assignment that the entropy term sees; distances on the
            sphere lie in [0, 4]. EVATok gives the term's weight and not this; LARP's code has 0.01, at weight 0.
            Random vectors of width 16 are spread over 70 of 8,192 codes at 0.1 and over 1.1 at 0.01 (perplexities),
            where the term has hardly a gradient.
        stochastic_temperature: if given, training passes draw each code from a softmax of the cosine similarities
            divided by it (stochastic VQ of LARP, arXiv 2410.21264, whose temperature is 0.03). Evaluation, and every
            pass without losses, takes the nearest code.

    Raises ValueError for temperatures that are not positive.
    """

    def __init__(
        self,
        codebook_size: int,
        code_width: int,
        entropy_temperature: float = 0.1,
        stochastic_temperature: float | None = None,
    ):
        super().__init__()
        if entropy_temperature <= 0 or (stochastic_temperature is not None and stochastic_temperature <= 0):
            raise ValueError(
                f"temperatures must be positive; got entropy_temperature={entropy_temperature} and "
                f"stochastic_temperature={stochastic_temperature}"
            )
        self.entropy_temperature = entropy_temperature
        self.stochastic_temperature = stochastic_temperature
        self.codebook = nn.Parameter(torch.empty(codebook_size, code_width))

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.codebook.shape[0]

    def lookup(self, codes: Tensor) -> Tensor:
        """int64 (N,) → unit vectors (N, c)."""
        return F.normalize(self.codebook.float(), dim=-1)[codes]

    def forward(self, x: Tensor, with_losses: bool) -> Quantized:
        """x (N, c), any scale; computed in fp32 whatever the precision around it."""
        with torch.autocast(x.device.type, enabled=False):
            x = F.normalize(x.float(), dim=-1)  # (N, c)
            codebook = F.normalize(self.codebook.float(), dim=-1)  # (K, c)
            similarity = x @ codebook.T  # (N, K)
            if self.stochastic_temperature and self.training and with_losses:
                codes = _drawn((similarity.detach() / self.stochastic_temperature).softmax(-1))  # (N,)
            else:
                codes = similarity.argmax(-1)  # (N,)
            nearest = F.embedding(codes, codebook)  # (N, c); for rows so short indexing has a slow gradient on CUDA
            if not with_losses:
                return Quantized(nearest, codes, x, {})
            losses = {
                "codebook": (nearest - x.detach()).square().sum(-1).mean(),
                "commitment": (nearest.detach() - x).square().sum(-1).mean(),
                "entropy": self._entropy_loss(similarity),
            }
            return Quantized(x + (nearest - x).detach(), codes, x, losses)

    def _entropy_loss(self, similarity: Tensor) -> Tensor:
        """E[H(p)] - H(E[p]) in nats: small when each vector is sure of its code and all codes are used
        (MAGVIT-v2, arXiv 2310.05737, §3.1)."""
        logits = 2 * similarity / self.entropy_temperature  # -|x - e|² / τ up to a constant: (N, K)
        log_p = logits.log_softmax(-1)
        p = log_p.exp()
        mean_p = p.mean(0)  # (K,)
        entropy_of_each = -(p * log_p).sum(-1).mean()
        entropy_of_mean = -(mean_p * mean_p.clamp_min(1e-9).log()).sum()
        return entropy_of_each - entropy_of_mean


def _drawn(weights: Tensor) -> Tensor:
    """A code for each row of probabilities (N, K), (N,): the first of K that race. `multinomial` draws the same, but
    refuses what is no probability: a training whose weights broke would end there, before it could say so."""
    return (weights / torch.empty_like(weights).exponential_()).argmax(-1)


class DeadCodeRestart:
    """Dead-code restart (Jukebox, arXiv 2005.00341, §3.1): codes that have not been chosen for a while get a new place,
    that of a vector just encoded, so that the codebook stays in use.

    Args:
        quantizer: whose codes to watch.
        patience: steps without use after which a code is moved.

    Raises ValueError for a quantizer whose codes are fixed, and for a patience of no step.
    """

    def __init__(self, quantizer: VectorQuantizer, patience: int):
        if quantizer.codebook is None:
            raise ValueError(f"the codes of a {type(quantizer).__name__} are fixed: none of them is to be moved")
        if patience < 1:
            raise ValueError(f"patience={patience}: with less than 1 step every code would move at each")
        self.quantizer = quantizer
        self.patience = patience
        self.steps_unused = torch.zeros(quantizer.codebook_size, dtype=torch.int64)

    def state_dict(self) -> dict[str, Tensor]:
        """For checkpoints: how long each code has not been used."""
        return {"steps_unused": self.steps_unused}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """What `state_dict` gave."""
        self.steps_unused = state["steps_unused"]

    @torch.no_grad()
    def step(
        self,
        quantized_codes: Tensor,
        inputs: Tensor,
        drawn: Tensor,
        sum_over_processes: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Counts a step's codes (N,) and moves the codes that are due to inputs (N, c), code k to number drawn[k],
        int64 (K,); returns which, bool (K,). All on one device, and nothing waits for it. After a training pass:

            drawn = torch.randint(len(output.encoded), (quantizer.codebook_size,))
            restart.step(output.tokens.codes, output.encoded, drawn)

        Processes that train one codebook together give what sums a tensor over them, int64 (K,). Then a code is dead
        only where none of them uses it, and all find the same codes due. Each moves them to inputs of its own:
        afterwards one process' codebook is to be given to all."""
        codebook = self.quantizer.codebook
        counts = count_codes(quantized_codes, len(self.steps_unused))
        if sum_over_processes:
            counts = sum_over_processes(counts)
        unused = torch.where(counts > 0, 0, self.steps_unused.to(counts.device) + 1)
        due = unused >= self.patience
        codebook.copy_(torch.where(due[:, None], inputs[drawn].to(codebook), codebook))
        self.steps_unused = unused.masked_fill(due, 0)
        return due


def count_codes(codes: Tensor, codebook_size: int) -> Tensor:
    """How often each code occurs: int64 (N,) → int64 (K,) on the same device, which is not waited for."""
    codes = codes.detach()
    return codes.new_zeros(codebook_size).scatter_add_(0, codes, torch.ones_like(codes))


class CodebookUsage:
    """Counts how often each code was chosen over a window, for logging."""

    def __init__(self, codebook_size: int):
        self.counts = torch.zeros(codebook_size, dtype=torch.int64)

    @staticmethod
    def of(counts: Tensor) -> "CodebookUsage":
        """From counts int64 (K,), of several processes for instance."""
        usage = CodebookUsage(len(counts))
        usage.counts = counts.cpu()
        return usage

    def update(self, codes: Tensor) -> None:
        """Further codes (N,); counts stay on their device until they are asked for."""
        self.counts = self.counts.to(codes.device) + count_codes(codes, len(self.counts))

    def used_fraction(self) -> float:
        """Share of codes chosen at least once, in [0, 1]."""
        return (self.counts > 0).float().mean().item()

    def perplexity(self) -> float:
        """e to the power of the entropy of the codes' distribution, between 1 and K."""
        p = self.counts.double() / self.counts.sum().clamp_min(1)
        return torch.special.entr(p).sum().exp().item()

    def reset(self) -> None:
        """Begins a new window."""
        self.counts.zero_()
