"""How long the stages of a run took and how much memory it needed, kept across interruptions."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from evagen.kernels.files import read_json, write_whole

FIGURES = ("seconds", "peak_rss_mb")
"""That are kept of a stage."""
UNFINISHED = "unfinished"
"""Kept of a stage that was stopped: its next start adds to its time."""


class StageClock:
    """Times named stages and keeps the figures in `stages.json`, so that a stage that an earlier run
    finished keeps its time when it is found done, and one that was stopped takes its time over all starts.

    with StageClock(out, num_stages=9) as clock:
        clock.run("data", lambda: …)    # stage 1 of 9: data
    clock.stages                # {"data": {"seconds": …}, …} in running order
    """

    def __init__(self, out: Path, num_stages: int):
        self.num_stages, self._number = num_stages, 0
        self._path = out / "stages.json"
        noted = _read_stages(self._path)
        self.peak_rss_mb = max((stage["peak_rss_mb"] for stage in noted.values()), default=0.0)
        self._stopped_stages = {name: stage for name, stage in noted.items() if stage.pop(UNFINISHED, False)}
        self.stages = {name: stage for name, stage in noted.items() if name not in self._stopped_stages}
        self._stage_peak = 0.0
        self._stopped = threading.Event()

    def __enter__(self) -> "StageClock":
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stopped.set()
        self._watcher.join()

    @property
    def total_seconds(self) -> float:
        return sum(stage["seconds"] for stage in self.stages.values())

    def run(self, name: str, stage: Callable[[], Any], *, done: bool = False) -> Any:
        """Runs a stage. With `done`, one whose results are there already, its earlier time is kept. What a stage took
        that ends in an exception, as it does when it is stopped, counts too."""
        self._number += 1
        print(f"stage {self._number} of {self.num_stages}: {name}")
        self._stage_peak, started = _tree_rss_mb(), time.monotonic()
        try:
            result = stage()
        except BaseException:
            self._stopped_stages[name] = self._figures(name, started)
            self._write()
            raise
        if not (done and name in self.stages):
            self.stages[name] = self._figures(name, started)
            self._stopped_stages.pop(name, None)
            self.peak_rss_mb = max(self.peak_rss_mb, self._stage_peak)
            self._write()
        return result

    def _figures(self, name: str, started: float) -> dict[str, float]:
        """Of a stage that has just ended, with what earlier starts of it took."""
        before = self._stopped_stages.get(name, {"seconds": 0.0, "peak_rss_mb": 0.0})
        seconds, peak = time.monotonic() - started + before["seconds"], max(self._stage_peak, before["peak_rss_mb"])
        return {"seconds": round(seconds, 2), "peak_rss_mb": round(peak, 1)}

    def _write(self) -> None:
        stopped = {name: stage | {UNFINISHED: True} for name, stage in self._stopped_stages.items()}
        write_whole(self._path, json.dumps(self.stages | stopped, indent=1))

    def _watch(self) -> None:
        while not self._stopped.wait(0.25):
            self._stage_peak = max(self._stage_peak, _tree_rss_mb())


def _read_stages(path: Path) -> dict[str, dict[str, float]]:
    """What earlier runs noted. A file that is damaged counts as none: figures are no reason to refuse a run."""
    try:
        stages = read_json(path)
        return {
            stage: {name: float(of_one[name]) for name in FIGURES} | {UNFINISHED: bool(of_one.get(UNFINISHED))}
            for stage, of_one in stages.items()
        }
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _tree_rss_mb() -> float:
    """Resident memory of this process and its children, in MB."""
    process = psutil.Process()
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:  # a child that ended meanwhile
            continue
    return total / 1e6
