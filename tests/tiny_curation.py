"""Configs of curation, tokenization and the router's training on a few tiny clips, shared by tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_router, tiny_tokenizer
from video_fixtures import write_class_folders

from evagen.commands import curate, tokenize, train_router
from evagen.config import check_config
from evagen.tokenizer import Router


def write_inputs(root: Path) -> None:
    """Videos of 13 clips, a tokenizer and a router with random weights."""
    write_class_folders(root / "videos", {"ants": 5, "bees": 4, "cats": 4}, num_frames=10)
    tiny_tokenizer().save_pretrained(root / "tokenizer")
    tiny_router().save_pretrained(root / "router")


def curation(root: Path, out: Path, **changes) -> curate.Curation:
    return check_config(curate.Curation, {**inputs(root, out), "distance_frames": 1, **changes}, "test")


def tokenization(root: Path, out: Path, **changes) -> tokenize.Tokenization:
    values = {**inputs(root, out), "router": str(root / "router"), **changes}
    return check_config(tokenize.Tokenization, values, "test")


def inputs(root: Path, out: Path) -> dict:
    data = {"root": str(root / "videos"), "layout": "folder", "frames": 8, "size": 32}
    run = {"out": str(out)}
    return {"run": run, "data": data, "tokenizer": str(root / "tokenizer"), "batch_size": 2}


def curated_with(gain: Callable[[torch.Tensor], torch.Tensor], root: Path, out: Path) -> Path:
    """A record of made-up distances that fall with the number of tokens where a clip's `gain` is positive."""

    def distances(search, video, past, future):
        tokens = search.tokenizer.assignments.table().sum(1).double()  # A
        perceptual = 1 + gain(video).double()[:, None] / tokens  # B A
        return dict.fromkeys(("perceptual", "mse", "moving_mse"), perceptual)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curate.CandidateSearch, "all_distances", distances)
        return curate.main(curation(root, out))


def routing(record: Path, out: Path, **changes) -> train_router.RouterTraining:
    values = {
        "run": {"out": str(out), "tracker": "none", "log_every": 1, "save_every": 2},
        "record": str(record),
        "model": {"patch": 8, "width": 32, "depth": 1, "num_heads": 2, "drop_rate": 0.5},
        "optimizer": {"steps": 5, "batch_size": 4, "learning_rate": 0.001},
        "held_out": 0.25,
        **changes,
    }
    return check_config(train_router.RouterTraining, values, "test")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Router.from_pretrained(folder).state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def made_up_record(root: Path) -> Path:
    return curated_with(lambda video: 2 + video.mean((1, 2, 3, 4)), root, root / "record")
