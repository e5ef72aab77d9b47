"""The long video of the report page: what is measured of it and what a reader can play."""

import base64
import dataclasses
import re

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from tiny_models import tiny_router, tiny_tokenizer
from tiny_summary import SUMMARY

from evagen.eval import psnr
from evagen.kernels.levels import frames_to_video, video_to_frames
from evagen.report.minute import SHOWN_LARGER, measure_minute
from evagen.report.page import ClipPair, GeneratedClip, Report, write_report
from evagen.tokenizer import AdaptiveTokenizer

FRAMES = 44  # five clips of eight, and half a one


@pytest.fixture(scope="module")
def minute():
    video = torch.rand(3, FRAMES, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return video, measure_minute(video, 15.0, ["ants", "bees"], tiny_tokenizer(), tiny_router(), 1.2)


def test_it_is_what_the_tokenizer_makes_of_the_whole_video(minute):
    video, found = minute
    model = AdaptiveTokenizer(tiny_tokenizer(), tiny_router())
    tokens = model.encode(video, preference=1.2)
    decoded = model.decode(tokens)
    assert np.array_equal(found.original, video_to_frames(video))
    assert np.array_equal(found.reconstruction, video_to_frames(decoded))
    assert (found.lengths, found.tokens) == (tokens.tokens.lengths.flatten().tolist(), tokens.num_tokens)
    assert found.psnr == pytest.approx(psnr(decoded[None], video[None]).item())
    assert found.changes[3] == pytest.approx(float((video[:, 3] - video[:, 2]).abs().mean()))
    assert found.figures()["tokens_per_second"] == pytest.approx(tokens.num_tokens / (FRAMES / 15))


def test_a_reader_can_play_both_side_by_side(minute, tmp_path):
    _, found = minute
    clip = np.zeros((4, 16, 16, 3), np.uint8)
    report = Report(
        "A run", SUMMARY, [ClipPair(clip, clip, [1], "ants", 20.0, None)], [GeneratedClip(clip, [1], "ants")], [], {},
        minute=found,
    )  # fmt: skip
    html = write_report(report, tmp_path / "report.html").read_text()
    (film,) = re.findall(r'src="data:video/mp4;base64,([^"]+)"', html)
    (tmp_path / "film.mp4").write_bytes(base64.b64decode(film))
    frames = iio.imread(tmp_path / "film.mp4")
    assert frames.shape == (FRAMES, 32 * SHOWN_LARGER, 64 * SHOWN_LARGER, 3)
    left = frames_to_video(frames[:, ::SHOWN_LARGER, : 32 * SHOWN_LARGER : SHOWN_LARGER])
    assert psnr(left[None], frames_to_video(found.original)[None]) > 15  # of noise, which H.264 blurs
    assert "(ants, bees, one after another)" in html
    assert html.count('src="data:image/png;base64,') == 1  # the graph
    without = write_report(dataclasses.replace(report, minute=None), tmp_path / "without.html").read_text()
    assert "<video" not in without
