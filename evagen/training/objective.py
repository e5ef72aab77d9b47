"""The tokenizer's whole training objective: the terms of `tokenizer.losses`, plus the adversarial and the alignment
term, with the networks they need, from configs.

    objective = Objective(config, model, optimizer, accelerator)
    loss, terms = objective.for_tokenizer(output, video, frames, step, last_layer)   # one scalar to minimise
    …                                                                                # backward, optimiser step
    terms = objective.after_update(output, video, step, random)                      # the discriminator's turn
"""

from collections.abc import Sequence
from typing import Literal

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from evagen.config import Place, Section, section_of
from evagen.errors import UserError
from evagen.kernels.transfer import send
from evagen.models.networks import PerceptualNetwork
from evagen.tokenizer import LossWeights, TokenizerOutput, VideoTokenizer, tokenizer_loss
from evagen.tokenizer.adversarial import (
    LeCAM,
    adaptive_weight,
    discriminator_hinge,
    discriminator_non_saturating,
    generator_hinge,
    generator_non_saturating,
    label_doubt,
    warmup_factor,
)
from evagen.tokenizer.alignment import VJEPA2_L, AlignmentLoss, TeacherAlignmentLoss, VideoTeacher, load_vjepa2
from evagen.tokenizer.discriminators import (
    VIDEOMAE_B,
    PatchDiscriminator3D,
    TransformerDiscriminator,
    VideoMAEDiscriminator,
    load_videomae,
)
from evagen.training.optimizers import adamw, make_scheduler
from evagen.training.settings import OptimizerConfig
from evagen.training.sharding import prepare, whole

TransformerConfig = section_of(TransformerDiscriminator)


class PerceptualConfig(PerceptualNetwork):
    """The network that compares frames, and which it compares."""

    frames: int = Field(4, ge=1)
    """Frames of each clip, drawn at random, that are compared."""


class AdversarialConfig(Section):
    """A discriminator that learns to tell reconstructions from clips."""

    discriminator: Literal["none", "patch", "transformer", "videomae"] = "none"
    """`patch`: PatchGAN of 3D convolutions. `transformer`: LARP's (stage 1 in the paper). `videomae`: trained heads on
    a frozen VideoMAE-B (stage 4)."""
    transformer: TransformerConfig = TransformerConfig()  # type: ignore[valid-type]
    """Sizes of the transformer, and what it gives logits for."""
    videomae: Place = VIDEOMAE_B
    """Hub id or folder."""
    form: Literal["hinge", "non_saturating"] = "hinge"
    """Of the losses of both sides: VQGAN's hinge, or cross-entropy (LARP)."""
    label_noise: float = Field(0.0, ge=0, lt=0.5)
    """Of the discriminator's labels in the non-saturating form (`label_doubt`): 0.15 in LARP."""
    weight: float = Field(0.1, ge=0)
    """0.3 in LARP."""
    adaptive: bool = False
    """Multiply the weight with VQGAN's ratio of gradients at the decoder's last layer."""
    start_step: int = Field(0, ge=0)
    """The term counts from this step on, …"""
    ramp_steps: int = Field(1000, ge=0)
    """… in this many equal rises."""
    lecam: float = Field(0.0, ge=0)
    """Weight of the LeCAM regulariser in the discriminator's loss."""
    every: int = Field(1, ge=1)
    """The discriminator learns at every so many-th step of the tokenizer: 5 in LARP."""
    learning_rate: float = Field(1e-4, gt=0)
    """Highest of the discriminator's AdamW, whose schedule is the tokenizer's: 3e-5 in LARP's published run."""
    weight_decay: float = Field(0.01, ge=0)
    """Of the discriminator's AdamW: 0 in LARP, which takes Adam. Its betas, 0.5 and 0.9, are LARP's."""


class AlignmentConfig(Section):
    """Decoder features drawn to those of a frozen video network."""

    weight: float = Field(0.0, ge=0)
    """λ, 0.7 in the paper; 0 leaves the term out."""
    projection: Literal["decoder", "teacher"] = "decoder"
    """Which features are projected to the other's shape. `decoder`: linearly, the teacher's grid averaged or
    interpolated to the decoder's. `teacher`: by an MLP and a depatchify, as published (eq. 1)."""
    teacher: Place = VJEPA2_L
    """Hub id or folder of V-JEPA 2."""
    learning_rate: float = Field(1e-4, gt=0)
    """Highest of the AdamW that trains the projection, whose schedule is the tokenizer's."""
    layer: int = Field(6, ge=1)
    """After how many decoder layers the feature is taken."""


class ObjectiveConfig(section_of(LossWeights)):  # type: ignore[misc]
    """The weights of the plain terms, and the networks."""

    entropy_temperature: float = Field(0.1, gt=0)
    """Softness of the assignment to codes that the entropy term sees; 0.01 in LARP, which gives the term no weight."""
    compare: PerceptualConfig = PerceptualConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    alignment: AlignmentConfig = AlignmentConfig()


FORMS = {
    "hinge": (discriminator_hinge, generator_hinge),
    "non_saturating": (discriminator_non_saturating, generator_non_saturating),
}
"""What the discriminator and what the tokenizer minimises."""


class Objective:
    """Holds the networks of the objective on the accelerator's device, and trains those that learn: the projection of
    the alignment term, and the discriminator on its own loss. Their learning rates go as the tokenizer's does;
    `schedulers` belongs to the loop's state, as `lecam` does. pieces: further numbers of frames that clips have.

    Raises UserError where a network is not within reach, a layer does not exist, or settings do not go together."""

    def __init__(
        self,
        config: ObjectiveConfig,
        model: VideoTokenizer,
        optimizer: OptimizerConfig,
        accelerator: Accelerator,
        pieces: Sequence[int] = (),
    ):
        self.config, self.accelerator, self.optimizer_config = config, accelerator, optimizer
        check_settings(config, model, accelerator.mixed_precision)
        self.weights = LossWeights(**{name: getattr(config, name) for name in LossWeights.__dataclass_fields__})
        model.quantizer.entropy_temperature = config.entropy_temperature
        alignment, adversarial, device = config.alignment, config.adversarial, accelerator.device
        self.teacher = self.alignment = self.discriminator = None
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.schedulers: list[LambdaLR] = []
        self.lecam = LeCAM().to(device)
        self.discriminator_loss, self.generator_loss = FORMS[adversarial.form]
        try:
            self.perceptual = config.compare.load().to(device)
            self.perceptual.is_exact = False
            if alignment.weight:
                self.teacher = VideoTeacher(load_vjepa2(alignment.teacher)).to(device)
                projection = make_projection(alignment, model, self.teacher, pieces)
                self.alignment = self._train("alignment", projection, alignment.learning_rate, (0.9, 0.95))
            if adversarial.discriminator != "none":
                self.discriminator = self._train(
                    "discriminator", make_discriminator(adversarial, model, pieces), adversarial.learning_rate,
                    (0.5, 0.9), adversarial.weight_decay,
                )  # fmt: skip
        except (FileNotFoundError, ImportError, ValueError) as error:
            raise UserError(str(error)) from error

    def _train(
        self,
        name: str,
        module: nn.Module,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float = 0.01,
    ) -> nn.Module:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        optimizer = adamw(trained, lr=learning_rate, betas=betas, weight_decay=weight_decay)
        prepared, (self.optimizers[name],) = prepare(self.accelerator, module, optimizer)
        self.schedulers.append(make_scheduler(self.optimizers[name], self.optimizer_config))
        return prepared

    def for_tokenizer(
        self, output: TokenizerOutput, video: Tensor, frames: Tensor, step: int, last_layer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The tokenizer's loss and its unweighted terms. frames: numbers of the frames the perceptual distance
        compares; last_layer: weight of the decoder's last layer."""
        with self.accelerator.autocast():  # for the perceptual distance's network
            loss, terms = tokenizer_loss(output, video, self.weights, self.perceptual, frames)
        if self.alignment is not None and self.teacher is not None:
            with self.accelerator.autocast():
                taught = self.teacher(video)
            terms["alignment"] = self.alignment(output.decoder_features[self.config.alignment.layer - 1], taught)
            loss = loss + self.config.alignment.weight * terms["alignment"]
        adversarial = self.config.adversarial
        factor = warmup_factor(step, adversarial.start_step, adversarial.ramp_steps)
        if self.discriminator is not None and factor:
            self.discriminator.requires_grad_(False)  # its turn comes in `after_update`
            terms["adversarial"] = self.generator_loss(self.discriminator(output.reconstruction))
            weight = adversarial.weight * factor
            if adversarial.adaptive:
                weight = weight * adaptive_weight(loss, terms["adversarial"], last_layer)
            loss = loss + weight * terms["adversarial"]
        return loss, terms

    def after_update(
        self, output: TokenizerOutput, video: Tensor, step: int, random: torch.Generator
    ) -> dict[str, Tensor]:
        """To be called after each batch of the tokenizer, of which `random` are the random numbers: trains the
        projection, and, where it is the discriminator's turn, that on the same clips, and moves both where the batch
        ends its step; returns the discriminator's terms, and the norm of the gradient of what was moved. The
        discriminator learns from the first step on, so that the adversarial term starts with one that knows
        something."""
        terms: dict[str, Tensor] = {}
        if self.alignment is not None:
            terms |= self._move("alignment", self.alignment)
        if self.discriminator is not None and step % self.config.adversarial.every == 0:
            terms |= self._train_discriminator(self.discriminator, output, video, random)
        if self.accelerator.sync_gradients:  # the batch was the last of its step
            for scheduler in self.schedulers:
                scheduler.step()
        return terms

    def _train_discriminator(
        self, discriminator: nn.Module, output: TokenizerOutput, video: Tensor, random: torch.Generator
    ) -> dict[str, Tensor]:
        adversarial = self.config.adversarial
        discriminator.requires_grad_(True)
        real, fake = discriminator(video), discriminator(output.reconstruction.detach())
        if adversarial.label_noise:
            doubts = (
                label_doubt(real, adversarial.label_noise, random),
                label_doubt(fake, adversarial.label_noise, random),
            )
            loss = discriminator_non_saturating(real, fake, send(doubts, video.device))
        else:
            loss = self.discriminator_loss(real, fake)
        terms = {"discriminator": loss}
        if adversarial.lecam:
            means = torch.stack([real.detach().mean(), fake.detach().mean()])
            self.lecam.update(*self.accelerator.reduce(means, "mean"))
            terms["lecam"] = self.lecam(real, fake)
            loss = loss + adversarial.lecam * terms["lecam"]
        self.accelerator.backward(loss)
        return terms | self._move("discriminator", discriminator)

    def _move(self, name: str, module: nn.Module) -> dict[str, Tensor]:
        """Changes weights by their gradients, which add up until a batch ends its step; returns the norm of these, by
        its name in the log."""
        if not self.accelerator.sync_gradients:
            return {}
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        norm = whole(nn.utils.get_total_norm(gradients))
        self.optimizers[name].step()
        self.optimizers[name].zero_grad()
        return {f"{name}_gradient_norm": norm}


def check_settings(config: ObjectiveConfig, model: VideoTokenizer, precision: str) -> None:
    """Raises UserError for settings of the objective that do not go together, or not with the model."""
    alignment, adversarial = config.alignment, config.adversarial
    if alignment.weight and alignment.layer > model.config.decoder_depth:
        raise UserError(
            f"loss.alignment.layer is {alignment.layer}, but the decoder has {model.config.decoder_depth} layers"
        )
    if adversarial.label_noise and adversarial.form == "hinge":
        raise UserError(
            "loss.adversarial.label_noise needs loss.adversarial.form=non_saturating: a hinge has no labels"
        )
    learns = alignment.weight or adversarial.discriminator != "none"
    if learns and precision == "fp16":
        raise UserError(
            "run.mixed_precision=fp16 scales the gradients of one optimiser only, and loss.adversarial and "
            "loss.alignment bring further ones; use bf16"
        )


def make_projection(
    config: AlignmentConfig, model: VideoTokenizer, teacher: VideoTeacher, pieces: Sequence[int] = ()
) -> nn.Module:
    """The alignment term, with the map that is trained with it. Raises ValueError where the grids do not fit, those
    of clips of so many frames as `pieces` has among them."""
    sizes = model.config
    teacher_grid, *_ = [teacher.grid(frames) for frames in (sizes.num_frames, *pieces)]
    if config.projection == "decoder":
        return AlignmentLoss(sizes.decoder_width, teacher.width)
    if set(pieces) - {sizes.num_frames}:
        raise ValueError(
            f"loss.alignment.projection=teacher is made for clips of {sizes.num_frames} frames, and pieces="
            f"{list(pieces)} are others: take projection=decoder"
        )
    rows, columns = model.patch_grid((sizes.resolution, sizes.resolution))
    grid = (sizes.num_frames // sizes.temporal_patch, rows, columns)
    return TeacherAlignmentLoss(sizes.decoder_width, teacher.width, grid, teacher_grid)


def make_discriminator(config: AdversarialConfig, model: VideoTokenizer, pieces: Sequence[int] = ()) -> nn.Module:
    """An untrained discriminator. Raises FileNotFoundError and ValueError as what it is made of does, and ValueError
    for clips that it cannot judge, those of so many frames as `pieces` has among them."""
    if config.discriminator == "videomae":
        return VideoMAEDiscriminator(load_videomae(config.videomae))
    is_patch = config.discriminator == "patch"
    made = PatchDiscriminator3D() if is_patch else TransformerDiscriminator(**config.transformer.model_dump())
    for frames in (model.config.num_frames, *pieces):
        made.check_size(frames, model.config.resolution, model.config.resolution)
    return made
