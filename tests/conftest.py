"""Runs before any test module is imported."""

import functools
import os
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import forkserver

import hypothesis
import pytest

os.environ["EVAGEN_CACHE"] = tempfile.mkdtemp(prefix="evagen-tests-")  # nothing of these in the user's own cache
os.environ["OMP_NUM_THREADS"] = "1"  # a thread that waits spins, and tests start processes

hypothesis.settings.register_profile("no clock", deadline=None)  # machines differ, and so do hours
hypothesis.settings.load_profile("no clock")

LONG = (
    "test_every_key.py", "test_pretended_gpu.py", "test_pages.py", "test_gpu_benchmark.py",
    "test_fixed_against_adaptive.py", "test_cli.py", "test_house.py", "test_benchmark_runner.py", "test_road.py",
    "test_quickstart_videos.py", "test_curation.py", "test_tokenizer_training.py", "test_page.py", "test_report.py",
)  # fmt: skip
"""Files that take half a minute and more."""


def pytest_collection_modifyitems(items: list) -> None:
    """These come first: left to the end, they would keep one process at work while the others wait."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    if "warm" in sys.modules:  # some of them want it: before a scan of files starts a server that has imported less
        forkserver.ensure_running()


@pytest.fixture(scope="module")
def narrow_patches() -> Iterator[None]:
    """Where a config asks for the patch discriminator, whose usual widths would take most of a tiny training."""
    from evagen.tokenizer.discriminators import PatchDiscriminator3D

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PatchDiscriminator3D.__init__, "__defaults__", ((8, 8, 8, 8),))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_offline_network() -> Iterator[None]:
    """Hundreds of commands would load it anew; they only look at it."""
    from evagen.eval import detectors, perceptual
    from evagen.eval.offline_network import load_offline_network

    kept = functools.cache(load_offline_network)
    with pytest.MonkeyPatch.context() as patch:
        for module in (detectors, perceptual):
            patch.setattr(module, "load_offline_network", kept)
        yield
