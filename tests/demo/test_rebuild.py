"""A video through the models piece by piece: the same as at once, within what was asked, and no more in memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tiny_router
from video_fixtures import moving_frames

from evagen.data.square_clips import iterate_whole
from evagen.data.video_writer import write_video
from evagen.demo import rebuild as module
from evagen.demo.figures import of_rebuilt
from evagen.demo.models import load_demo_models
from evagen.demo.rebuild import Wish, rebuild
from evagen.demo.rebuild_tab import CLIPS, preferences
from evagen.demo.upload import Limits
from evagen.errors import UserError
from evagen.kernels.levels import video_to_frames
from evagen.scoring.pairs import PairScores
from evagen.tokenizer import AdaptiveTokenizer, LiveTokenizer

FRAMES = 75  # two pieces of 32 and one that ends within a clip


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("video") / "waves.mkv"
    write_video(path, moving_frames(FRAMES, 48, 80), 25)
    return path


@pytest.fixture(scope="module")
def box():
    return load_demo_models("evagen/arcade")


@pytest.mark.parametrize("name", ["clips", "memory"])
def test_pieces_are_the_video_at_once(models, video, name):
    these = models[name]
    results = list(rebuild(these, video, Wish(1.4), Limits()))
    assert [result.num_frames for result in results] == [32, 64, FRAMES]
    frames = list(iterate_whole(video, 32))
    kind = LiveTokenizer if these.remembers else AdaptiveTokenizer
    tokens = kind(these.tokenizer, these.router).encode(frames, preference=1.4)
    assert list(results[-1].lengths) == tokens.over_time(2).tolist()
    whole = video_to_frames(kind(these.tokenizer, these.router).decode(tokens)).astype(int)
    pieces = np.concatenate([result.rebuilt for result in results])
    assert np.abs(pieces - whole).max() <= 1
    originals = np.concatenate([result.originals for result in results])
    assert originals.shape == (FRAMES, 32, 53, 3)
    assert np.array_equal(originals, video_to_frames(torch.stack(frames, dim=1)))


@pytest.mark.parametrize("clip", CLIPS)
def test_the_model_that_is_shown_first_knows_every_clip_of_the_page(box, clip):
    """A game that it has not learnt, TimePilot, has 19 dB and half of the motion."""
    *_, result = rebuild(box, CLIPS[clip], Wish(), Limits())
    assert result.psnr > 24
    assert result.motion_explained > 0.7
    assert result.better_squares is None


def test_what_looks_like_nothing_that_a_model_learnt_is_said(box, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "noise.mkv", noise, 25)
    *_, result = rebuild(box, tmp_path / "noise.mkv", Wish(), Limits())
    assert result.better_squares > result.psnr
    assert f"coloured squares comes nearer to it ({result.better_squares:.1f} dB)" in of_rebuilt(result, "noise.mkv")


def test_numbers_are_what_they_say(models, video):
    *_, result = rebuild(models["clips"], video, Wish(), Limits())
    assert result.tokens == sum(result.lengths)
    assert len(result.lengths) == 20  # the last clip of 8 frames is filled up
    assert result.tokens_per_second == pytest.approx(result.tokens * 25 / FRAMES)
    assert result.share_of_longest == pytest.approx(result.tokens / (2 * 8 * 20))  # of two tiles
    bits = result.tokens * 6 + 2 * 20 * np.log2(3)  # a codebook of 64, three levels
    assert result.bits_per_pixel == pytest.approx(bits / (FRAMES * 32 * 53))
    scores = PairScores()
    for piece in rebuild(models["clips"], video, Wish(), Limits()):
        for start in range(0, len(piece.originals), 16):
            scores.add(list(piece.originals[start : start + 16]), list(piece.rebuilt[start : start + 16]))
    assert (result.psnr, result.motion_explained) == (scores.psnr, scores.motion)


@pytest.mark.parametrize("name", ["clips", "memory"])
def test_a_rate_is_kept(models, video, name):
    least, most = models[name].tokens_per_second(25)
    spent = []
    for rate in (2 * least, least + most, 2 * most):  # of two tiles
        *_, result = rebuild(models[name], video, Wish(tokens_per_second=rate), Limits())
        room = 0 if rate > 2 * least else 2 * result.longest / result.seconds  # what filled a last clip up
        assert result.tokens_per_second <= rate + room
        spent.append(result.tokens)
    assert spent[0] == 2 * len(result.lengths) * models[name].levels[0]
    assert spent == sorted(spent)
    assert spent[0] < spent[2]


def test_no_more_than_a_piece_is_in_memory(models, video, monkeypatch):
    read = []

    def counted(*arguments):
        for frame in iterate_whole(*arguments):
            read.append(frame.shape)
            yield frame

    monkeypatch.setattr(module, "iterate_whole", counted)
    for number, result in enumerate(rebuild(models["clips"], video, Wish(), Limits()), start=1):
        assert len(read) == min(number * 32, FRAMES)
        assert len(result.originals) == len(result.rebuilt) <= 32


@pytest.mark.parametrize("name", ["clips", "memory"])
def test_a_rate_below_the_fewest_tokens_gives_the_fewest(models, video, name):
    *_, result = rebuild(models[name], video, Wish(tokens_per_second=1), Limits())
    assert set(result.lengths) == {2 * 2}


def test_a_preference_out_of_range_is_explained(models, video):
    with pytest.raises(UserError, match=r"preferences between"):
        list(rebuild(models["clips"], video, Wish(3.0), Limits()))


def test_a_strip_is_refused(models, tmp_path):
    path = tmp_path / "strip.mkv"
    write_video(path, moving_frames(4, 16, 400), 25)
    with pytest.raises(UserError, match=r"^strip\.mkv has frames of 400x16 pixels, with a side more than 8 times"):
        list(rebuild(models["clips"], path, Wish(), Limits()))


def test_the_slider_reaches_every_preference_that_a_router_knows(models, video):
    eager = replace(models["clips"], router=tiny_router(preference_range=[1.0, 2.0]))
    assert preferences([models["clips"], eager]) == (0.8, 2.0)
    with pytest.raises(UserError, match=r"preferences between 1 .* and 2"):
        next(rebuild(eager, video, Wish(0.8), Limits()))
    assert next(rebuild(eager, video, Wish(2.0), Limits())).tokens > 0
