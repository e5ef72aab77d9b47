"""A command of evagen on the pretended GPU, and what it met there.

python -m evagen.bench.pretended MEETINGS.json train-tokenizer my_config.yaml run.mixed_precision=bf16
"""

import json
import os
import sys
import traceback
from pathlib import Path

from evagen.bench.pretended import guard


def main(to: Path, arguments: list[str]) -> int:
    """Runs the command; writes its meetings of host and device and its launches; returns its exit status."""
    guard.load()
    from evagen.bench.pretended.device import PretendedGPU
    from evagen.cli import main as evagen

    status = 0
    with PretendedGPU() as gpu:
        try:
            sys.argv = ["evagen", *arguments]
            evagen()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
            status = 1
    meetings = [{"kind": kind, "place": place, "times": times} for (kind, place), times in gpu.meetings.most_common()]
    to.write_text(json.dumps({"launches": gpu.launches, "meetings": meetings}, indent=1))
    return status


if __name__ == "__main__":
    status = main(Path(sys.argv[1]), sys.argv[2:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # autograd's thread for the device that there is not would not end
