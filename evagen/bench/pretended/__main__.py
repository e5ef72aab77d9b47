"""Commands of evagen on the pretended GPU, and what they met there.

python -m evagen.bench.pretended JOBS.json RESULTS.json

JOBS.json: a list of jobs, each a name and the arguments of a command, [["proxy", "train-tokenizer", "my.yaml"], …].
They run one after the other. RESULTS.json: for each name the error, empty if there was none, the meetings of host and
device, [kind, place, times] each, and the launches.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

from evagen.bench.pretended import guard


def run_jobs(jobs: list[list[str]]) -> dict[str, dict[str, Any]]:
    """What each of the named commands did."""
    guard.load()
    from accelerate.state import AcceleratorState

    from evagen.bench.pretended.device import PretendedGPU

    results = {}
    with PretendedGPU() as gpu:
        for name, *arguments in jobs:
            gpu.reset()
            error, sys.argv = "", ["evagen", *arguments]
            try:
                runpy.run_module("evagen", run_name="__main__")
            except SystemExit as ended:
                error = f"exit status {ended.code}" if ended.code else ""
            except BaseException:
                error = traceback.format_exc()
                print(error, file=sys.stderr)
            AcceleratorState._reset_state(reset_partial_state=True)
            meetings = [[kind, place, times] for (kind, place), times in gpu.meetings.most_common()]
            results[name] = {"error": error, "launches": gpu.launches, "meetings": meetings}
    return results


if __name__ == "__main__":
    jobs, to = (Path(argument) for argument in sys.argv[1:3])
    to.write_text(json.dumps(run_jobs(json.loads(jobs.read_bytes())), indent=1), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # autograd's thread for the device that there is not would not end
