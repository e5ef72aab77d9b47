"""Real processes of one program, as `accelerate launch` starts them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

SECONDS = 240
"""After which processes that wait for each other are taken to do so for ever."""
ON_CPUS = ("--multi_gpu",)
SHIPPED = Path(__file__).parents[1] / "configs" / "accelerate"


def launch(*program: str, options: tuple[str, ...] = ON_CPUS) -> None:
    """Two processes, with options of `accelerate launch`; fails with what they said where one fails or they hang."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *options]
    command += ["--num_processes", "2", "--main_process_port", "0", *program]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        _, said = running.communicate(timeout=SECONDS)
    finally:
        if running.poll() is None:  # the two as well, who would go on without the one that started them
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 0, said


def shipped(name: str) -> tuple[str, ...]:
    """Options for one of the shipped files."""
    return ("--config_file", str(SHIPPED / f"{name}.yaml"))
