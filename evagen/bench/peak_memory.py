"""Peak memory of a piece of work."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_mb(work: Callable[[], object]) -> float:
    """The most that torch's allocations on the CPU add up to during the work, beyond what there was before, in MB."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    held = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 1e6
