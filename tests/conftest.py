"""Runs before any test module is imported."""

import os
import tempfile

import hypothesis

os.environ["EVAGEN_CACHE"] = tempfile.mkdtemp(prefix="evagen-tests-")  # nothing of these in the user's own cache
os.environ["OMP_NUM_THREADS"] = "1"  # a thread that waits spins, and tests start processes

hypothesis.settings.register_profile("no clock", deadline=None)  # machines differ, and so do hours
hypothesis.settings.load_profile("no clock")
