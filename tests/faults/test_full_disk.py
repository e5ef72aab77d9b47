"""Commands on a disk that is really full: words, status 2, and nothing half-written. The disk is a megabyte of memory
that only the command's own process sees."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import tiny_router, tiny_tokenizer

from evagen.data.video_writer import write_video

COMMANDS = """
import sys
from contextlib import suppress
from pathlib import Path
from evagen.cli import main

disk = Path(sys.argv[1])
tokenizer = ["--tokenizer", "pipeline/tokenizer", "--router", "pipeline/router"]
(disk / "filler").write_bytes(bytes(2**20 - 12 * 4096))
for arguments in (
    ["encode", "noise.mkv", str(disk / "tokens.safetensors"), *tokenizer, "--no-score"],
    ["decode", "tokens.safetensors", str(disk / "video.mkv"), "--tokenizer", "pipeline/tokenizer"],
):
    kept = disk / "kept"
    kept.unlink(missing_ok=True)
    if arguments[0] == "encode":  # its tokens are small
        with suppress(OSError), kept.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    sys.argv[1:] = arguments
    print("$", arguments[0], file=sys.stderr)
    try:
        main()
    except SystemExit as ended:
        print("status", ended.code, file=sys.stderr)
    left = {each for each in disk.rglob("*") if each.is_file()} - {disk / "filler", kept}
    print("left", *(each.relative_to(disk).as_posix() for each in left), file=sys.stderr)
"""


def with_a_small_disk(folder: Path, code: str) -> subprocess.CompletedProcess:
    """Python code with a disk of a megabyte at `disk`, its argument."""
    (folder / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs '{folder / 'disk'}' && exec \"$@\""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    return subprocess.run(
        [*command, sys.executable, "-c", code, str(folder / "disk")], cwd=folder, capture_output=True, text=True
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    try:
        found = with_a_small_disk(tmp_path, "import sys; print(open(f'{sys.argv[1]}/x', 'wb').write(bytes(99)))")
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if found.stdout.strip() != "99":
        pytest.skip(f"no disk can be mounted here: {found.stderr}")
    (tmp_path / "disk").rmdir()
    tiny_tokenizer(encoder_width=128, decoder_width=128).save_pretrained(tmp_path / "pipeline" / "tokenizer")
    tiny_router().save_pretrained(tmp_path / "pipeline" / "router")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 64, 3), np.uint8)
    write_video(tmp_path / "noise.mkv", noise, 8)
    return tmp_path


def test_a_full_disk_is_told_and_nothing_half_written_stays(folder):
    from evagen.commands.encode import main

    main(folder / "noise.mkv", folder / "tokens.safetensors", str(folder / "pipeline" / "tokenizer"),
         str(folder / "pipeline" / "router"))  # fmt: skip
    done = with_a_small_disk(folder, COMMANDS)
    runs = dict(run.split("\n", 1) for run in done.stderr.split("$ ")[1:])
    assert set(runs) == {"encode", "decode"}, done.stderr
    for command, said in runs.items():
        assert "error: no space is left for" in said, (command, said)
        assert f"on the disk at {folder / 'disk'}. Nothing half-written stays" in said, (command, said)
        assert "status 2" in said, (command, said)
        assert "Traceback" not in said, (command, said)
        assert not said.rpartition("left")[2].split(), (command, said)
