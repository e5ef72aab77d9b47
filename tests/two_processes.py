"""Two processes of one program, as `accelerate launch` starts them."""

import os
import subprocess
import sys
from pathlib import Path

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from warm import SECONDS, run_ranks

ON_CPUS = ("--multi_gpu",)
SHIPPED = Path(__file__).parents[1] / "configs" / "accelerate"


def launch(*program: str, options: tuple[str, ...] = ON_CPUS) -> None:
    """With options of `accelerate launch`, whose environment they get; fails with what they said where one
    fails or they hang."""
    typed = [*options, "--num_processes", "2", "--main_process_port", "0", *program]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(typed))
    ranks = run_ranks(2, program, prepare_multi_gpu_env(arguments))
    assert [status for status, _ in ranks] == [0, 0], "\n".join(words for _, words in ranks)


def launch_anew(*program: str, options: tuple[str, ...] = ON_CPUS) -> None:
    """The same by `accelerate launch` itself, which takes twenty seconds more."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *options]
    command += ["--num_processes", "2", "--main_process_port", "0", *program]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=SECONDS)
    assert done.returncode == 0, done.stderr


def shipped(name: str) -> tuple[str, ...]:
    """Options for one of the shipped files."""
    return ("--config_file", str(SHIPPED / f"{name}.yaml"))
