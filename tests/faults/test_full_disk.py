"""Commands on a disk that is really full: words, status 2, and nothing half-written. The disk is a piece of memory that
only the command's own process sees."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_curation import made_up_record, routing, same, weights, write_inputs
from tiny_models import tiny_router, tiny_tokenizer

from evagen.commands import train_router
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

TRAINING = """
import shutil, sys
from pathlib import Path
from evagen.cli import main

disk = Path(sys.argv[1])
sys.argv[1:] = ["train-router", "router.yaml", f"run.out={disk / 'run'}"]
filler = disk / "filler"
filler.write_bytes(bytes(4 * 2**20 - int(Path("room").read_text())))
for attempt in ("full", "roomy"):
    print("$", attempt, file=sys.stderr)
    try:
        main()
    except SystemExit as ended:
        print("status", ended.code, file=sys.stderr)
    left = sorted(each.relative_to(disk / "run").as_posix() for each in (disk / "run").rglob("*"))
    print("left", *left, file=sys.stderr)
    filler.unlink(missing_ok=True)
shutil.copytree(disk / "run", "gone on")
"""


def with_a_small_disk(folder: Path, code: str, megabytes: int = 1) -> subprocess.CompletedProcess:
    """Python code with a disk of so many megabytes at `disk`, its argument."""
    (folder / "disk").mkdir()
    mount = f"mount -t tmpfs -o size={megabytes}m tmpfs '{folder / 'disk'}' && exec \"$@\""
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


def test_a_training_says_that_the_disk_is_full_and_goes_on_when_there_is_room(folder):
    write_inputs(folder)
    config = routing(made_up_record(folder), folder / "straight")
    train_router.main(config)
    (folder / "router.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    checkpoint = sum(each.stat().st_size for each in (folder / "straight" / "checkpoints").rglob("*"))
    (folder / "room").write_text(str(checkpoint * 3 // 4))  # two are kept
    done = with_a_small_disk(folder, TRAINING, megabytes=4)
    runs = dict(run.split("\n", 1) for run in done.stderr.split("$ ")[1:])
    assert set(runs) == {"full", "roomy"}, done.stderr
    assert "no room is left on the disk" in runs["full"], done.stderr
    assert "status 2" in runs["full"], done.stderr
    assert "Traceback" not in runs["full"], done.stderr
    assert "step_00000002/state.json" in runs["full"].rpartition("left")[2], done.stderr
    assert done.returncode == 0, done.stderr
    assert same(weights(folder / "gone on"), weights(folder / "straight"))
