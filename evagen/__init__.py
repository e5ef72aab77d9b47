"""evagen: autoregressive video generation on adaptive-length video tokens."""

import importlib
import logging
import os
import sys

# Threads that wait for each other spin, by default for milliseconds. When another program takes one of few cores,
# the rest spin for one that is not running, and training slows down fifteenfold; spinning less costs nothing
# (docs/log.md). Read once when torch loads its thread library, hence here.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

# A progress bar that is written to a file needs no more than a line every ten seconds. Read once when tqdm loads.
if sys.stderr is None or not sys.stderr.isatty():  # None: closed
    os.environ.setdefault("TQDM_MININTERVAL", "10")

# Where xformers has no kernels for this torch it says so in five lines at every start, through whatever imports it
# first; evagen finds out by itself whether they work (kernels/backends.py).
logging.getLogger("xformers").setLevel(logging.ERROR)


__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    """`from evagen import VideoPipeline`, imported when it is asked for: torch takes seconds, and the command line
    tells a wrong name sooner."""
    if name == "VideoPipeline":
        return importlib.import_module("evagen.sampling.pipeline").VideoPipeline
    raise AttributeError(f"module 'evagen' has no attribute {name!r}")
