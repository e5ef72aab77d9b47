"""Scores of reconstructions: several ways with the same clips."""

import torch
from tiny_models import random_clips, tiny_tokenizer

from evagen.eval import PerceptualDistance
from evagen.scoring.reconstruction import score_reconstruction, score_reconstructions


def test_ways_that_are_scored_together_have_the_scores_of_each_alone():
    batches, perceptual = random_clips(3, 0).split(2), PerceptualDistance()
    ways = [
        (tiny_tokenizer(seed), lambda video, n=n: torch.full((len(video), 2), n)) for seed in (0, 1) for n in (2, 8)
    ]
    together = score_reconstructions(ways, batches, perceptual)
    alone = [score_reconstruction(tokenizer, batches, assign, perceptual) for tokenizer, assign in ways]
    assert [scores.as_dict() for scores in together] == [scores.as_dict() for scores in alone]
    assert len({scores.psnr for scores in together}) == len(ways)
