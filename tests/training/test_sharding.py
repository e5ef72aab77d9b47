"""FSDP in half precision: two processes compute what one does under autocast."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_corpus import LEVELS
from two_processes import launch, shipped

from evagen.ar_model import VideoGenerator

SHARDED = """
import sys
from pathlib import Path
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from evagen.ar_model import VideoGenerator
from evagen.config import Section
from evagen.run import part_processes, start_accelerator
from evagen.training.sharding import prepare

# Accelerate offers FSDP on GPUs only: these processes pass for such, and go on with gloo on CPUs.
PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
out = Path(sys.argv[1])
accelerator = start_accelerator(Section(), out / "run", mixed_precision="bf16")
model = VideoGenerator.from_pretrained(out / "model")
assert accelerator.is_fsdp2
model, _ = prepare(accelerator, model, torch.optim.AdamW(model.parameters()))
tokens = load_file(out / "tokens.safetensors")["tokens"]
logits = model(tokens, [len(tokens)])
if accelerator.is_main_process:
    save_file({"logits": logits.detach().contiguous()}, out / "logits.safetensors")
accelerator.wait_for_everyone()
part_processes()
"""


@pytest.fixture
def model(tmp_path) -> VideoGenerator:
    torch.manual_seed(0)
    model = VideoGenerator(64, LEVELS, 4, ["a"], 64, 4, 4)
    with torch.no_grad():  # weights as training leaves them: none a number that half precision has
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
    model.save_pretrained(tmp_path / "model")
    return model.eval()


def test_logits_are_no_further_from_exact_ones_than_under_autocast(model, tmp_path):
    tokens = torch.randint(64, (48,), generator=torch.Generator().manual_seed(1))
    save_file({"tokens": tokens}, tmp_path / "tokens.safetensors")
    (tmp_path / "both.py").write_text(SHARDED)
    launch(str(tmp_path / "both.py"), str(tmp_path), options=shipped("fsdp"))
    sharded = load_file(tmp_path / "logits.safetensors")["logits"].float()
    with torch.no_grad():
        exact = model(tokens, [len(tokens)])
        with torch.autocast("cpu", torch.bfloat16):
            cast = model(tokens, [len(tokens)]).float()
    error, allowed = ((each - exact).square().mean().sqrt().item() for each in (sharded, cast))
    assert 0 < error <= 1.01 * allowed
