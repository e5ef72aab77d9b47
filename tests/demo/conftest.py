"""Tiny models as the pipelines that the page takes."""

from pathlib import Path

import pytest
import torch
from tiny_models import LEVELS, tiny_block_router, tiny_router, tiny_tokenizer

from evagen.ar_model import VideoGenerator
from evagen.demo.models import DemoModels, load_demo_models
from evagen.models.loading import fingerprint
from evagen.sampling.pipeline import VideoPipeline


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory) -> Path:
    """`clips`, with a generator of two classes; `memory`, which has none."""
    root, tokenizer = tmp_path_factory.mktemp("pipelines"), tiny_tokenizer()
    torch.manual_seed(0)
    generator = VideoGenerator(
        codebook_size=64, levels=LEVELS, num_blocks=2, width=32, depth=1, num_heads=2,
        tokenizer_fingerprint=fingerprint(tokenizer), class_names=["Boxing", "Skiing"],
    )  # fmt: skip
    VideoPipeline(tokenizer, generator, tiny_router()).save_pretrained(root / "clips")
    VideoPipeline(tiny_tokenizer(memory_blocks=2), None, tiny_block_router()).save_pretrained(root / "memory")
    return root


@pytest.fixture(scope="session")
def models(pipelines) -> dict[str, DemoModels]:
    return {name: load_demo_models(str(pipelines / name), "cpu") for name in ("clips", "memory")}
