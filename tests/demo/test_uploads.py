"""What the page does not take, and what it says of it."""

from pathlib import Path

import av
import pytest
from video_fixtures import moving_frames, write_sound, write_uneven_h264

from evagen.data.video_writer import write_video
from evagen.demo.rebuild import Wish, rebuild
from evagen.demo.upload import Limits, check_upload
from evagen.errors import UserError


def cut(path: Path, share: float = 0.6) -> None:
    """As a copy that was not finished."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def write_bad(folder: Path, name: str) -> Path:
    path, frames = folder / name, moving_frames(60, 48, 64)
    if name in ("sound.mkv", "sound.wav"):
        write_sound(path)
    elif name == "text.mp4":
        path.write_text("this is no video")
    elif name == "nothing.mp4":
        path.write_bytes(b"")
    elif name == "no_frames.mp4":
        with av.open(str(path), "w") as container:
            container.add_stream("libx264", rate=25)
            container.start_encoding()
    elif name == "index_first.mp4":
        write_uneven_h264(path, frames, index_in_front=True)
        cut(path)
    else:  # cut.mp4, cut.mkv
        write_video(path, frames, 15)
        cut(path)
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sound.mkv", "has no picture"),
        ("sound.wav", "has no picture"),
        ("text.mp4", "cannot be read as a video"),
        ("nothing.mp4", "cannot be read as a video"),
        ("no_frames.mp4", "has no picture|not a single frame"),
        ("index_first.mp4", "is cut off: it promises 60 frames"),
        ("cut.mkv", "is cut off"),
        ("cut.mp4", "cannot be read as a video: .* cut off"),
    ],
)
def test_a_bad_file_is_told_in_words(tmp_path, name, reason):
    path = write_bad(tmp_path, name)
    with pytest.raises(UserError, match=f"^{name} .*({reason})") as told:
        check_upload(path, Limits())
    assert str(tmp_path) not in str(told.value)  # nothing of the server


def test_bounds(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, moving_frames(50, 48, 64), 25)
    megabytes = path.stat().st_size / 2**20
    assert check_upload(path, Limits(2.0, megabytes)).frames == 50
    with pytest.raises(UserError, match=r"a\.mp4 is too long: 2\.0 seconds, 50 frames; this page takes at most 1\.5"):
        check_upload(path, Limits(1.5, 1))
    with pytest.raises(UserError, match=r"a\.mp4 has .* MB; this page takes at most"):
        check_upload(path, Limits(2.0, megabytes * 0.9))


def test_what_shows_only_on_the_way_is_told_too(models, tmp_path):
    path = tmp_path / "hurt.mp4"
    write_uneven_h264(path, moving_frames(60, 48, 64))
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][40]
        position, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[position : position + size] = bytes(size)
    path.write_bytes(bytes(data))
    results = rebuild(models["clips"], path, Wish(), Limits())
    next(results)
    with pytest.raises(UserError, match=r"^hurt\.mp4 (is damaged|cannot be read)"):
        list(results)
