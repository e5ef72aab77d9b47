"""A short soak: trainings of every stage, killed at random moments, end as if nothing had been."""

import sys
from pathlib import Path

import warm


def test_killed_trainings_end_as_undisturbed_ones():
    command = [sys.executable, str(Path(__file__).with_name("soak.py")), "1"]
    done = warm.run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= 3
    assert "0 differences" in done.stdout
