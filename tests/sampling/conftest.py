"""Tiny models that sampling is tested with."""

from pathlib import Path

import pytest
import torch
from tiny_models import LEVELS, tiny_router, tiny_tokenizer
from tiny_sampling import CLASSES
from video_fixtures import moving_frames

from evagen.ar_model import VideoGenerator
from evagen.data.video_writer import write_video
from evagen.models.loading import fingerprint


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Folders `tokenizer`, `router`, `generator`, `predictor` (frame prediction) and `videos`."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(root / "tokenizer")
    tiny_router().save_pretrained(root / "router")
    shape = {"width": 32, "depth": 1, "num_heads": 2, "tokenizer_fingerprint": fingerprint(tokenizer)}
    for name, more in (
        ("generator", {"class_names": CLASSES, "class_dropout": 0.1}),
        ("predictor", {"given_frames": 3, "num_given_blocks": 1}),
    ):
        torch.manual_seed(0)
        generator = VideoGenerator(64, LEVELS, 2, **shape, **more)
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        generator.save_pretrained(root / name)
    for i, name in enumerate(["ants", "bees", "wasps"]):
        (root / "videos" / name).mkdir(parents=True)
        write_video(root / "videos" / name / "0.mkv", moving_frames(8, 32, 32, seed=i), 15)
    return root
