"""The page's sentences: comparisons read off the numbers, better and worse alike."""

import copy

import pytest
from tiny_summary import SUMMARY, quality

from evagen.report import findings


@pytest.fixture
def summary() -> dict:
    return copy.deepcopy(SUMMARY)


def test_equal_quality_is_read_off_the_drawn_line():
    uniform = [quality(16, 20.0, 0.4, 0.1), quality(64, 22.0, 0.3, 0.5), quality(256, 23.0, 0.1, None)]
    # Half way between two points on a logarithmic axis lies their geometric mean.
    assert findings.uniform_tokens_for(uniform, "psnr", 21.0) == pytest.approx(32)
    assert findings.uniform_tokens_for(uniform[::-1], "perceptual", 0.2) == pytest.approx(128)
    assert findings.uniform_tokens_for(uniform, "psnr", 22.0) == pytest.approx(64)
    assert findings.uniform_tokens_for(uniform, "psnr", 23.5) is None
    assert findings.uniform_tokens_for(uniform, "motion", 0.3) == pytest.approx(32)
    assert findings.uniform_tokens_for(uniform, "motion", 0.6) is None
    assert findings.uniform_tokens_for(uniform, "motion", None) is None


def test_headline_says_better_and_worse_alike(summary):
    summary["reconstruction"]["uniform"] = [quality(16, 20.0, 0.4, 0.1), quality(64, 24.0, 0.2, 0.3)]
    summary["reconstruction"]["adaptive"] |= quality(24, 22.0, 0.3, 0.2)
    said = findings.describe(summary)
    for place in ("headline", "psnr", "motion"):
        assert "25\u202f% fewer with adaptive lengths" in said[place]
    assert "for the same motion explained" in said["motion"]
    summary["reconstruction"]["adaptive"]["tokens_per_clip"] = 40
    assert "25\u202f% more with adaptive lengths" in findings.describe(summary)["headline"]
    summary["generation"]["frechet"]["value"] = 150.0
    assert "has not brought" in findings.describe(summary)["frechet"]
    summary["generation"]["frechet"] = {"value": 200.0, "untrained": 100.0, "real_vs_real": 150.0}
    assert "No comparison can be drawn" in findings.describe(summary)["frechet"]
    summary["generation"]["invalid_sequences"] = 2
    assert "wrote 2 invalid token sequences" in findings.describe(summary)["headline"]


def test_final_tokenizer_and_proxy_are_compared_in_every_measure(summary):
    assert findings.describe(summary)["final"] == (
        "At the same lengths, the final tokenizer is better than the proxy in PSNR (23.97 dB, proxy 23.41 dB) and "
        "perceptual distance (0.2502, proxy 0.2641). It is worse than the proxy in motion explained (0.34, proxy 0.39)."
    )
    final = summary["reconstruction"]["final"]
    final |= {"psnr": 23.4101, "perceptual": 0.3, "motion": 0.5}
    assert findings.describe(summary)["final"] == (
        "At the same lengths, the final tokenizer is better than the proxy in motion explained (0.50, proxy 0.39). It "
        "is worse than the proxy in perceptual distance (0.3000, proxy 0.2641). It is equal to the proxy in PSNR "
        "(23.41 dB)."
    )
    final |= {"psnr": 23.0, "motion": -0.2}
    assert findings.describe(summary)["final"] == (
        "At the same lengths, the final tokenizer is worse than the proxy in PSNR (23.00 dB, proxy 23.41 dB), "
        "perceptual distance (0.3000, proxy 0.2641) and motion explained (−0.20, proxy 0.39)."
    )


def test_share_of_motion_is_said_beside_a_still_picture(summary):
    said = findings.describe(summary)["explained"]
    assert said == (
        "With the router’s lengths, 79.3 tokens per clip, the final tokenizer explains 34\u202f% of the motion in the "
        "held-out clips; with the longest lengths, 256 tokens, it explains 60\u202f%. A perfect copy gets 100\u202f%, "
        "a still picture of the background 0; below 0 is worse than a still picture."
    )
    summary["reconstruction"]["final"]["motion"] = -0.07
    assert "explains none (−0.07) of the motion" in findings.describe(summary)["explained"]


def test_movement_of_generated_clips_is_compared_with_that_of_real_ones(summary):
    motion, share = (summary["generation"][name] for name in ("motion", "moving_share"))

    def said(change: float, places: float) -> str:
        motion["ratio"], share["ratio"] = change, places
        return findings.describe(summary)["movement"]

    assert said(0.5, 0.25) == (
        "Generated clips move less than real ones. They change 50\u202f% as much from frame to frame, and the moving "
        "part of the picture is 25\u202f% as large."
    )
    assert said(1.5, 1.2).startswith("Generated clips move more than real ones.")
    assert said(0.96, 1.04).startswith("Generated clips move about as much as real ones.")
    assert said(1.3, 0.6).startswith(
        "Generated clips move more than real ones from frame to frame, and less than real ones in how much of the "
        "picture moves. They change 130\u202f%"
    )


def test_where_nothing_moves_the_sentences_say_so(summary):
    reconstruction, generation = summary["reconstruction"], summary["generation"]
    for measured in (*reconstruction["uniform"], *(reconstruction[n] for n in ("adaptive", "final", "final_longest"))):
        measured["motion"] = None
    for name in ("motion", "moving_share"):
        generation[name] |= {"real": 0.0, "ratio": None}
    said = findings.describe(summary)
    assert said["motion"].startswith("Nothing moves")
    assert said["explained"].startswith("Nothing moves")
    assert said["movement"].startswith("Nothing moves in the real clips")
    assert "PSNR" in said["final"]
    assert "motion" not in said["final"]
    assert findings.format_motion(None) == "–"
