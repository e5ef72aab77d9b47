"""The tokenizer's whole training objective: the terms of `tokenizer.losses`, plus the adversarial and the alignment
term, with the networks they need, from configs.

    objective = Objective(config, model, accelerator)
    loss, terms = objective.for_tokenizer(output, video, frames, step, last_layer)   # one scalar to minimise
    …                                                                                # backward, optimiser step
    terms = objective.after_update(output, video)                                    # the discriminator's turn
"""

from typing import Literal

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn

from evagen.config import Section, section_of
from evagen.errors import UserError
from evagen.models.networks import PerceptualNetwork
from evagen.tokenizer import LossWeights, TokenizerOutput, VideoTokenizer, tokenizer_loss
from evagen.tokenizer.adversarial import LeCAM, adaptive_weight, discriminator_hinge, generator_hinge, warmup_factor
from evagen.tokenizer.alignment import VJEPA2_L, AlignmentLoss, VideoTeacher, load_vjepa2
from evagen.tokenizer.discriminators import VIDEOMAE_B, PatchDiscriminator3D, VideoMAEDiscriminator, load_videomae


class PerceptualConfig(PerceptualNetwork):
    """The network that compares frames, and which it compares."""

    frames: int = Field(4, ge=1)
    """Frames of each clip, drawn at random, that are compared."""


class AdversarialConfig(Section):
    """A discriminator that learns to tell reconstructions from clips."""

    discriminator: Literal["none", "patch", "videomae"] = "none"
    """`patch`: 3D PatchGAN (stages 1 and 4). `videomae`: trained heads on a frozen VideoMAE-B (stage 4)."""
    videomae: str = VIDEOMAE_B
    """Hub id or folder."""
    weight: float = Field(0.1, ge=0)
    adaptive: bool = False
    """Multiply the weight with VQGAN's ratio of gradients at the decoder's last layer."""
    start_step: int = Field(0, ge=0)
    """The term counts from this step on, …"""
    ramp_steps: int = Field(1000, ge=0)
    """… in this many equal rises."""
    lecam: float = Field(0.0, ge=0)
    """Weight of the LeCAM regulariser in the discriminator's loss."""
    learning_rate: float = Field(1e-4, gt=0)
    """Of the discriminator's AdamW."""


class AlignmentConfig(Section):
    """Decoder features drawn to those of a frozen video network."""

    weight: float = Field(0.0, ge=0)
    """λ, 0.7 in the paper; 0 leaves the term out."""
    teacher: str = VJEPA2_L
    """Hub id or folder of V-JEPA 2."""
    learning_rate: float = Field(1e-4, gt=0)
    """Of the AdamW that trains the projection onto the teacher's features."""
    layer: int = Field(6, ge=1)
    """After how many decoder layers the feature is taken."""


class ObjectiveConfig(section_of(LossWeights)):  # type: ignore[misc]
    """The weights of the plain terms, and the networks."""

    compare: PerceptualConfig = PerceptualConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    alignment: AlignmentConfig = AlignmentConfig()


class Objective:
    """Holds the networks of the objective on the accelerator's device, and trains those that learn: the projection of
    the alignment term, and the discriminator on its own loss.

    Raises UserError where a network is not within reach or a layer does not exist."""

    def __init__(self, config: ObjectiveConfig, model: VideoTokenizer, accelerator: Accelerator):
        self.config, self.accelerator = config, accelerator
        self.weights = LossWeights(**{name: getattr(config, name) for name in LossWeights.__dataclass_fields__})
        alignment, adversarial, device = config.alignment, config.adversarial, accelerator.device
        if alignment.weight and alignment.layer > model.config.decoder_depth:
            raise UserError(
                f"loss.alignment.layer is {alignment.layer}, but the decoder has {model.config.decoder_depth} layers"
            )
        self.teacher = self.alignment = self.discriminator = None
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        learns = alignment.weight or adversarial.discriminator != "none"
        if learns and accelerator.mixed_precision == "fp16":
            raise UserError(
                "run.mixed_precision=fp16 scales the gradients of one optimiser only, and loss.adversarial and "
                "loss.alignment bring further ones; use bf16"
            )
        self.lecam = LeCAM().to(device)
        try:
            self.perceptual = config.compare.load().to(device)
            if alignment.weight:
                self.teacher = VideoTeacher(load_vjepa2(alignment.teacher)).to(device)
                projection = AlignmentLoss(model.config.decoder_width, self.teacher.width)
                self.alignment = self._train("alignment", projection, alignment.learning_rate, (0.9, 0.95))
            if adversarial.discriminator == "patch":
                discriminator: nn.Module = PatchDiscriminator3D()
            elif adversarial.discriminator == "videomae":
                discriminator = VideoMAEDiscriminator(load_videomae(adversarial.videomae))
        except (FileNotFoundError, ImportError) as error:
            raise UserError(str(error)) from error
        if adversarial.discriminator != "none":
            self.discriminator = self._train("discriminator", discriminator, adversarial.learning_rate, (0.5, 0.9))

    def _train(self, name: str, module: nn.Module, learning_rate: float, betas: tuple[float, float]) -> nn.Module:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=learning_rate, betas=betas)
        prepared, self.optimizers[name] = self.accelerator.prepare(module, optimizer)
        return prepared

    def for_tokenizer(
        self, output: TokenizerOutput, video: Tensor, frames: Tensor, step: int, last_layer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The tokenizer's loss and its unweighted terms. frames: numbers of the frames the perceptual distance
        compares; last_layer: weight of the decoder's last layer."""
        loss, terms = tokenizer_loss(output, video, self.weights, self.perceptual, frames)
        if self.alignment is not None and self.teacher is not None:
            terms["alignment"] = self.alignment(
                output.decoder_features[self.config.alignment.layer - 1], self.teacher(video)
            )
            loss = loss + self.config.alignment.weight * terms["alignment"]
        adversarial = self.config.adversarial
        factor = warmup_factor(step, adversarial.start_step, adversarial.ramp_steps)
        if self.discriminator is not None and factor:
            self.discriminator.requires_grad_(False)  # its turn comes in `after_update`
            terms["adversarial"] = generator_hinge(self.discriminator(output.reconstruction))
            weight = adversarial.weight * factor
            if adversarial.adaptive:
                weight = weight * adaptive_weight(loss, terms["adversarial"], last_layer)
            loss = loss + weight * terms["adversarial"]
        return loss, terms

    def after_update(self, output: TokenizerOutput, video: Tensor) -> dict[str, Tensor]:
        """To be called after each batch of the tokenizer: moves the projection, and trains the discriminator on the
        same clips; returns the discriminator's terms. It learns from the first step on, so that the adversarial term
        starts with one that knows something."""
        if self.alignment is not None:
            self.optimizers["alignment"].step()
            self.optimizers["alignment"].zero_grad()
        if self.discriminator is None:
            return {}
        self.discriminator.requires_grad_(True)
        real, fake = self.discriminator(video), self.discriminator(output.reconstruction.detach())
        terms = {"discriminator": discriminator_hinge(real, fake)}
        loss = terms["discriminator"]
        if self.config.adversarial.lecam:
            means = torch.stack([real.detach().mean(), fake.detach().mean()])
            self.lecam.update(*self.accelerator.reduce(means, "mean"))
            terms["lecam"] = self.lecam(real, fake)
            loss = loss + self.config.adversarial.lecam * terms["lecam"]
        self.accelerator.backward(loss)
        self.optimizers["discriminator"].step()
        self.optimizers["discriminator"].zero_grad()
        return terms
