"""The adversarial term: its losses, how much the term weighs and from when on, and LeCAM.

Logits are high where a discriminator takes a place for real; they may have any shape.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def discriminator_hinge(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """What the discriminator minimises (arXiv 1705.02894, halved as in VQGAN): 0 once real logits are ≥ 1 and
    fake ones ≤ -1."""
    return (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()) / 2


def generator_hinge(fake_logits: Tensor) -> Tensor:
    """What the tokenizer minimises: to look real, without bound."""
    return -fake_logits.mean()


def discriminator_non_saturating(
    real_logits: Tensor, fake_logits: Tensor, doubts: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Cross-entropy of the labels real and fake (GAN, arXiv 1406.2661, eq. 1), the two sides added as in LARP.

    Args:
        real_logits, fake_logits: any shapes.
        doubts: how far the label of each real and each fake logit is from 1 and from 0, as `label_doubt` draws them;
            none if None.
    """
    real, fake = F.softplus(-real_logits), F.softplus(fake_logits)  # -log σ(x), -log(1 - σ(x))
    if doubts:
        real, fake = real + doubts[0] * real_logits, fake - doubts[1] * fake_logits
    return real.mean() + fake.mean()


def generator_non_saturating(fake_logits: Tensor) -> Tensor:
    """What the tokenizer minimises: -log of the probability that it passes for real (arXiv 1406.2661, §3)."""
    return F.softplus(-fake_logits).mean()


def label_doubt(logits: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """LARP's smoothing of labels (`noise` = 0.15 there): for each logit |normal number| · noise, at most 2 · noise.
    Drawn with `generator`; of the shape of `logits`, on the CPU."""
    drawn = torch.randn(logits.shape, generator=generator).abs() * noise
    return drawn.clamp(max=2 * noise)


def warmup_factor(step: int, start_step: int, ramp_steps: int = 0) -> float:
    """Factor of the adversarial term: 0 before `start_step`, then in `ramp_steps` equal rises to 1.

    A discriminator that has just begun is wrong often and loudly; the ramp keeps the loss from jumping."""
    if step < start_step:
        return 0.0
    return min(1.0, (step - start_step + 1) / max(1, ramp_steps))


def adaptive_weight(
    reconstruction_loss: Tensor, generator_loss: Tensor, last_layer: Tensor, largest: float = 1e4
) -> Tensor:
    """VQGAN's λ (arXiv 2012.09841, eq. 7): |∇ reconstruction| / (|∇ generator| + δ), which makes both losses pull
    alike at the decoder's last layer.

    Args:
        reconstruction_loss, generator_loss: scalars whose graphs hold `last_layer`; the graphs are kept.
        last_layer: weight of the decoder's last layer.
        largest: bound of the weight.

    Returns a scalar in [0, largest] without a graph. Each process has its own."""
    reconstruction, generator = (
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float().norm()
        for loss in (reconstruction_loss, generator_loss)
    )
    return (reconstruction / (generator + 1e-6)).clamp(max=largest).detach()


class LeCAM(nn.Module):
    """Regulariser of a discriminator that sees little data (arXiv 2104.03310): real logits are drawn to the moving
    average of fake ones, and the reverse, which keeps a sure discriminator from growing surer.

    The averages are buffers, so that they move and are saved as a module's. They begin as the mean of all
    updates, until that is slower than `decay` is.
    """

    real_average: Tensor
    fake_average: Tensor
    num_updates: Tensor

    def __init__(self, decay: float = 0.99):
        super().__init__()
        self.decay = decay
        for name in ("real_average", "fake_average", "num_updates"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def update(self, real_mean: Tensor, fake_mean: Tensor) -> None:
        """Takes in the mean real and fake logit of a step, scalars; over all processes, where there are several."""
        self.num_updates += 1
        share = self.num_updates.reciprocal().clamp(min=1 - self.decay)
        self.real_average.lerp_(real_mean.to(self.real_average), share)
        self.fake_average.lerp_(fake_mean.to(self.fake_average), share)

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The penalty, for the discriminator's loss, against the averages up to the last update."""
        return (real_logits - self.fake_average).square().mean() + (fake_logits - self.real_average).square().mean()
