"""The losses of three tiny trainings are those that they were when `golden_losses.json` was written, so that a change
of what is computed shows, in a model, a loss, an optimizer, the order of data or a draw, however well it trains.

After a change that is meant to, and only then: `python tests/training/test_golden_losses.py`. Other processors add in
another order, so the figures agree to three digits in the first steps and to two after them, not to the bit."""

import json
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest
from tiny_corpus import write_corpus
from tiny_curation import made_up_record, routing, write_inputs
from tiny_road import tokenizer_config

from evagen.commands import train_generator, train_router, train_tokenizer
from evagen.config import check_config
from evagen.training.metrics import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
GOLDEN = Path(__file__).with_suffix("").with_name("golden_losses.json")


def losses(root: Path) -> dict[str, list[float]]:
    """By stage, the loss of each step."""
    run = {"tracker": "none", "log_every": 1}
    write_inputs(root)
    data = {"root": str(root / "videos"), "layout": "folder", "frames": 8, "size": 32, "crop": "random", "flip": True}
    loss = {"adversarial": {"discriminator": "patch", "every": 2, "ramp_steps": 2, "lecam": 0.01}}
    tokenizing = tokenizer_config(
        root, root / "tokenizer_run", data=data, loss=loss, run={"out": str(root / "tokenizer_run"), **run}
    )
    train_tokenizer.main(tokenizing)
    train_router.main(routing(made_up_record(root), root / "router_run"))
    values = {
        "run": {"out": root / "generator_run", **run},
        "corpus": write_corpus(root / "corpus", num_clips=30),
        "model": {"width": 32, "depth": 2, "num_heads": 2, "hidden_width": 48},
        "optimizer": {"steps": 6, "batch_size": 4, "learning_rate": 0.01, "matrices": "muon"},
    }
    train_generator.main(check_config(train_generator.GeneratorTraining, values, "test"))
    runs = ("tokenizer_run", "router_run", "generator_run")
    return {each: [line["loss"] for line in read_metrics(root / each)] for each in runs}


def test_losses_are_those_of_old(tmp_path):
    found, golden = losses(tmp_path), json.loads(GOLDEN.read_text())
    assert found.keys() == golden.keys()
    for stage, steps in golden.items():
        assert found[stage][:3] == pytest.approx(steps[:3], rel=1e-3), stage
        assert found[stage] == pytest.approx(steps, rel=2e-2), stage  # by now some codes are others


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(losses(Path(folder)), indent=1) + "\n")
