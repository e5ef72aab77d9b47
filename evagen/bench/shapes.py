"""Made clips of moving shapes, and a tiny tokenizer trained on them until more tokens give better pictures."""

import torch
from torch import Tensor
from tqdm.auto import tqdm

from evagen.eval import PerceptualDistance
from evagen.tokenizer import DeadCodeRestart, LossWeights, VideoTokenizer, tokenizer_loss
from evagen.training.optimizers import make_optimizers, make_scheduler
from evagen.training.settings import OptimizerConfig

LEVELS = [4, 8, 16, 32, 64]
FRAMES, SIZE = 16, 64
STEPS, BATCH, RESTART_AFTER, RESTART_UNTIL = 150, 8, 20, 0.8
WEIGHTS = LossWeights(l1=1.0, l2=3.0, perceptual=0.1, commitment=0.1)


def moving_shapes(num_clips: int, seed: int) -> Tensor:
    """Clips of squares and discs over a shaded ground: (B, 3, 16, 64, 64) in [-1, 1]. A third of the clips stand
    still, a third moves, in a third all starts to move halfway, so that clips and blocks deserve unlike lengths."""
    random = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")  # (H, W) each
    video = torch.empty(num_clips, 3, FRAMES, SIZE, SIZE)
    for clip in video:
        corners = torch.rand(2, 3, 1, 1, 1, generator=random)
        clip[:] = corners[0] + (corners[1] - corners[0]) * (x / SIZE)
        begins_to_move = (0, FRAMES // 2, FRAMES)[int(torch.randint(3, (), generator=random))]
        moved = (torch.arange(FRAMES) - begins_to_move).clamp_min(0)[:, None]  # (F, 1)
        for _ in range(int(torch.randint(1, 6, (), generator=random))):
            begin, speed = torch.rand(2, generator=random) * SIZE, torch.randn(2, generator=random) * 2
            radius, colour = 4 + 6 * torch.rand((), generator=random), torch.rand(3, 1, generator=random)
            power = 2 if torch.rand((), generator=random) < 0.5 else 8  # a disc, or nearly a square
            centre = ((begin + speed * moved) % SIZE)[:, :, None, None]  # (F, 2, 1, 1)
            distance = (y - centre[:, 0]).abs() ** power + (x - centre[:, 1]).abs() ** power  # (F, H, W)
            clip[:, distance < radius**power] = colour
    return video * 2 - 1


def train_tiny_tokenizer(
    perceptual: PerceptualDistance, steps: int = STEPS, memory_blocks: int | None = None
) -> VideoTokenizer:
    """The quickstart's tokenizer, with five levels, trained as the quickstart trains it; in eval mode."""
    torch.manual_seed(0)
    model = VideoTokenizer(
        levels=LEVELS, num_frames=FRAMES, resolution=SIZE, encoder_width=128, encoder_depth=3, encoder_heads=4,
        decoder_width=128, decoder_depth=4, decoder_heads=4, codebook_size=512, code_width=8,
        memory_blocks=memory_blocks,
    )  # fmt: skip
    config = OptimizerConfig(
        matrices="muon", steps=steps, batch_size=BATCH, learning_rate=0.005, muon_learning_rate=0.02, warmup_steps=20
    )
    optimizers = make_optimizers(model, config)
    schedulers = [make_scheduler(each, config) for each in optimizers]
    dead_codes = DeadCodeRestart(model.quantizer, RESTART_AFTER)
    for step in tqdm(range(steps), desc="training", unit="step"):
        random = torch.Generator().manual_seed(step)
        video = moving_shapes(BATCH, seed=step + 1)  # B C F H W
        output = model(video, model.assignments.random(BATCH, random))
        frames = torch.randperm(BATCH * FRAMES, generator=random)[: 2 * BATCH]
        loss, _ = tokenizer_loss(output, video, WEIGHTS, perceptual, frames)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        for each in (*optimizers, *schedulers):
            each.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        if step < RESTART_UNTIL * steps:
            drawn = torch.randint(len(output.encoded), (model.config.codebook_size,), generator=random)
            dead_codes.step(output.tokens.codes, output.encoded, drawn)
    return model.eval()
