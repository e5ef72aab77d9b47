"""Videos that several of these tests read."""

import pytest
from video_fixtures import write_class_folders


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Nine videos of 20 frames in three classes."""
    root = tmp_path_factory.mktemp("folder")
    write_class_folders(root, {"ants": 5, "bees": 1, "cats": 3})
    return root
