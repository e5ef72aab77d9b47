"""The models that come with the package: there, small, described, and better than trivial answers."""

import re

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from evagen import VideoPipeline
from evagen.data.arcade import build_arcade
from evagen.data.clips import ClipDataset
from evagen.data.loader import collate_clips
from evagen.data.sources import DataConfig
from evagen.eval import motion_explained, moving_errors
from evagen.kernels.sources import box
from evagen.scoring.pairs import as_squares

MOST_BYTES = 12e6


@pytest.mark.parametrize("name", box())
def test_it_is_small_and_its_card_tells_what_it_was_trained_on_and_cannot_do(name):
    weights = list(box()[name].rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in weights) <= MOST_BYTES
    card = (box()[name] / "README.md").read_text()
    assert all(words in card for words in ("license:", "## How it was trained", "## Scores", "cannot do"))
    assert not re.search(r"(^|\s)/(tmp|home|root|work)/", card)


@pytest.fixture(scope="module")
def arcade() -> VideoPipeline:
    return VideoPipeline.from_pretrained("evagen/arcade")


def test_games_it_knows_come_back_from_their_tokens(arcade, tmp_path):
    """Play-throughs from a seed that training never had, at the router's lengths."""
    build_arcade(tmp_path / "new", ["frostbite", "skiing"], clips_per_game=4, size=64, seed=77, workers=1)
    data = DataConfig(root=tmp_path / "new", layout="ucf101", split="all", frames=16, size=64, clip="first")
    video = collate_clips(list(ClipDataset(data))).video  # B C F H W in [-1, 1]
    lengths = arcade.router.assign(video, preference=1.2)
    assert lengths.sum(1).double().mean() < 256  # half of the longest
    with torch.no_grad():
        made = arcade.tokenizer.decode(arcade.tokenizer.encode(video, lengths))
    ours, trivial = (peak_signal_noise_ratio(each, video, data_range=(-1, 1)) for each in (made, as_squares(video)))
    assert ours > trivial + 5
    assert motion_explained(*moving_errors(made, video)) > 0.5


def test_every_class_gives_clips_that_differ_from_other_classes(arcade):
    classes = arcade.generator.config.class_names
    assert {"Boxing", "Frogger"} <= set(classes)  # which the documentation names
    frames = arcade(classes, seed=0, top_p=0.9, guidance_scale=1.5).frames  # B F H W C
    assert frames.shape == (len(classes), 16, 64, 64, 3)
    pictures = torch.from_numpy(frames).mean(1).flatten(1)
    nearest = torch.cdist(pictures, pictures).fill_diagonal_(torch.inf).min(1).values
    assert nearest.min() > 1
