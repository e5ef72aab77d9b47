"""How much memory a process has needed."""

import sys

import psutil


def peak_memory() -> int:
    """The most bytes of memory that this process has held at a time."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts in bytes, others in KiB
