"""What several tests of commands share."""

from pathlib import Path

import pytest
from tiny_road import run_every_stage


@pytest.fixture(scope="session")
def road(tmp_path_factory) -> Path:
    """A run folder in which every stage has been run."""
    root = tmp_path_factory.mktemp("road")
    run_every_stage(root)
    return root
