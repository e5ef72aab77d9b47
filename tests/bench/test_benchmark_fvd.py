"""`evagen bench fvd`: its processes measure the same distance alone and together."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import warm

from evagen.bench import fvd
from evagen.bench.fvd import BATCH, NUM_FEATURES, made_up_features, measure
from evagen.eval import GaussianStatistics, frechet_distance_between

CLIPS = 500


class Started:
    """In the place of `subprocess.Popen`."""

    def __init__(self, command: list[str], **_: object):
        self.ending = ThreadPoolExecutor(1).submit(warm.run, command)

    def communicate(self) -> tuple[str, str]:
        done = self.ending.result()
        self.returncode = done.returncode
        return done.stdout, done.stderr


def test_one_and_two_processes_measure_what_all_features_at_once_give(monkeypatch):
    monkeypatch.setattr(fvd, "subprocess", SimpleNamespace(Popen=Started, PIPE=None))
    sides = [
        torch.cat([made_up_features(batch, real) for batch in range(CLIPS // BATCH)]) for real in (True, False)
    ]  # (N, D) each
    assert sides[0].shape == (CLIPS, NUM_FEATURES)
    expected = frechet_distance_between(*(GaussianStatistics.of(side) for side in sides)).item()
    for processes in (1, 2):
        figures = measure(CLIPS, processes)
        assert figures["distance"] == pytest.approx(expected, rel=1e-9)
        assert figures["peak_rss_mb"] >= figures["rss_mb_before"]
