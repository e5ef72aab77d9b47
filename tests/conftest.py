"""Runs before any test module is imported."""

import os
import tempfile

import hypothesis

os.environ["EVAGEN_CACHE"] = tempfile.mkdtemp(prefix="evagen-tests-")  # nothing of these in the user's own cache
os.environ["OMP_NUM_THREADS"] = "1"  # a thread that waits spins, and tests start processes

hypothesis.settings.register_profile("no clock", deadline=None)  # machines differ, and so do hours
hypothesis.settings.load_profile("no clock")

LONG = (
    "test_pretended_gpu.py", "test_soak.py", "test_quickstart_videos.py", "test_benchmarks.py",
    "test_fixed_against_adaptive.py", "test_dead_codes.py", "test_house.py", "test_curation.py",
    "test_generator_training.py", "test_tokenizer_training.py", "test_gpu_benchmark.py", "test_several_processes.py",
)  # fmt: skip
"""Files that take half a minute and more."""


def pytest_collection_modifyitems(items: list) -> None:
    """These come first: left to the end, they would keep one process at work while the others wait."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
