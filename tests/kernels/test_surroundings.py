"""Whatever a program is started in, it says what it has to say."""

import errno
import os
import platform
import subprocess
import sys

import pytest

from evagen.kernels.surroundings import in_words

SAYS = """
import sys
from evagen.kernels.surroundings import prepare_surroundings, whole_output
prepare_surroundings()
with whole_output():
    {}
"""


def says(lines: str, *arguments: str, stdout=subprocess.PIPE, shell: str = "", **known) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", SAYS.format(lines), *arguments]
    if shell:
        command = ["sh", "-c", f'"$@" {shell}', "sh", *command]
    environment = os.environ | {"PYTHONUNBUFFERED": ""} | known
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env=environment)


@pytest.mark.parametrize(
    "known", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_letters_that_a_terminal_does_not_know_are_question_marks(known):
    done = says(r"print('2 \xd7 3 \u2014 \udcff \ud800.')", **known)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"2 ? 3 ? \xff ?.\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_reads_is_no_words(unbuffered):
    read, write = os.pipe()
    os.close(read)
    done = says("print('x' * 10)", stdout=write, PYTHONUNBUFFERED=unbuffered)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_output_may_be_closed():
    assert says("print('x', file=sys.stderr)", shell=">&- 2>&-").returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_told():
    with open("/dev/full", "wb") as full:
        done = says("print('x')", stdout=full)
    assert b"No space left on device: 'standard output'" in done.stderr
    assert done.returncode == 1


def test_the_home_folder_is_filled_in_where_shells_leave_it():
    done = says("print(sys.argv[1:])", "~/a b", "--out=~/c", "--name=~x", "a~/", "~", HOME="/home/me")
    assert done.stdout.decode().strip() == str(["/home/me/a b", "--out=/home/me/c", "--name=~x", "a~/", "/home/me"])


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can become a user without a name")
def test_a_user_without_a_name_and_a_home_gets_a_folder(tmp_path):
    tmp_path.chmod(0o777)
    lines = "import os; print(os.environ['HOME'], os.environ['USER'])"
    started = SAYS.format(lines).replace(
        "prepare_surroundings()\n", "import os; os.setuid(54321); prepare_surroundings()\n"
    )
    known = {"TMPDIR": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    for folder in tmp_path.parents[:3]:
        folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", started], capture_output=True, env=known, text=True)
    assert done.stdout.split() == [str(tmp_path / "evagen-54321"), "54321"], done.stderr
    assert "HOME would name another" in done.stderr
    assert (tmp_path / "evagen-54321").stat().st_mode & 0o777 == 0o700


def test_what_the_system_refuses_has_words(tmp_path):
    full = in_words(OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "not" / "there.mp4")))
    assert full is not None
    assert full.startswith(f"no space is left for {tmp_path}/not/there.mp4 on the disk at /")
    assert "make room, and give the same command again" in full
    assert "no space is left for what was to be written" in str(in_words(OSError(errno.EDQUOT, "quota")))
    assert in_words(PermissionError(errno.EACCES, "Permission denied", "/x")) == (
        "/x: this user may not read or write it: choose another place, or change its permissions"
    )
    assert in_words(OSError(errno.EIO, "Input/output error", b"/x")) == "/x: Input/output error"
    assert in_words(OSError("of a library")) is None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory of another C library")
def test_a_program_keeps_what_it_frees_for_what_it_asks_for_next():
    def pages_asked_for(first_line: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", f"{first_line}\n{TWELVE_TURNS}"], text=True))

    kept = pages_asked_for("from evagen.kernels.surroundings import keep_freed_memory; keep_freed_memory()")
    assert 10 * kept < pages_asked_for("")


TWELVE_TURNS = """
import resource

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for turn in range(12):
    if turn == 2:  # by then glibc knows such sizes
        before = pages()
    large = [b"x" * (16 << 20) for _ in range(3)]
    del large
print(pages() - before)
"""
