"""Whatever a command is given, it ends in words."""

import subprocess
import sys
from pathlib import Path

FUZZER = Path(__file__).parents[1] / "fuzz_arguments.py"


def test_every_command_ends_in_words_with_wrong_arguments():
    """In a process of its own, which asks no hub."""
    done = subprocess.run([sys.executable, str(FUZZER), "0", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
