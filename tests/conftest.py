"""Runs before any test module is imported."""

import os
import tempfile

os.environ["EVAGEN_CACHE"] = tempfile.mkdtemp(prefix="evagen-tests-")  # nothing of these in the user's own cache
