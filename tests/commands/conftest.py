"""What several tests of commands share."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_road import run_every_stage

from evagen.eval import detectors, perceptual
from evagen.eval.offline_network import load_offline_network


@pytest.fixture(scope="session", autouse=True)
def one_offline_network() -> Iterator[None]:
    """Hundreds of commands would load it anew; they only look at it."""
    with pytest.MonkeyPatch.context() as patch:
        kept = functools.cache(load_offline_network)
        for module in (detectors, perceptual):
            patch.setattr(module, "load_offline_network", kept)
        yield


@pytest.fixture(scope="session")
def road(tmp_path_factory) -> Path:
    """A run folder in which every stage has been run."""
    root = tmp_path_factory.mktemp("road")
    run_every_stage(root)
    return root
