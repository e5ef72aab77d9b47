"""Damaged and hostile videos: a VideoError is all that comes of them, and no other file is opened."""

import os
import pickle

import av
import numpy as np
import pytest
from av.stream import Disposition
from fuzz_videos import fuzz
from video_fixtures import config, moving_frames, quadrants, write_frames, write_sound

from evagen.data import video_file, video_reader
from evagen.data.clips import ClipDataset, SkippedClip
from evagen.data.frame_times import count_frames
from evagen.data.video_file import VideoError, opened, shown_frames
from evagen.data.video_reader import iterate_frames, read_frames
from evagen.data.video_writer import write_video


def test_mutated_files_are_read_or_refused(tmp_path):
    outcomes = fuzz(90, 0, tmp_path)
    assert set(outcomes) == {"read", "refused"}, outcomes
    assert min(outcomes.values()) > 10


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf8", b"\xff", 0, 1, "?"), AttributeError("decode"), EOFError(),
                                   MemoryError(), ValueError("size"), av.error.InvalidDataError(1, "bad")])  # fmt: skip
def test_whatever_is_raised_while_a_file_is_open_is_its_fault(tmp_path, monkeypatch, error):
    write_video(tmp_path / "a.avi", moving_frames(8, 32, 32), 25)
    dataset = ClipDataset(config(tmp_path))

    def broken(*_):
        raise error

    monkeypatch.setattr(video_file, "ShownFrame", broken)
    clip = dataset[0]
    assert isinstance(clip, SkippedClip)
    assert "cannot be read as a video" in clip.reason
    for read in (read_frames, lambda path: list(iterate_frames(path))):
        with pytest.raises(VideoError, match=r"cannot be read as a video \(.+\)"):
            read(tmp_path / "a.avi")


def test_an_error_passes_from_one_process_to_another():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "is damaged")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "is damaged", "a.mp4: is damaged")


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.ts"])
@pytest.mark.parametrize("text", [PLAYLIST, "ffconcat version 1.0\nfile {}\n", "v=0\nm=video 5000 RTP/AVP 96\nc={}\n"])
@pytest.mark.parametrize("target", ["whole.ts", "file:whole.ts", "http://127.0.0.1:9/whole.ts"])
def test_lists_of_other_files_and_addresses_are_refused(tmp_path, name, text, target):
    write_frames(tmp_path / "whole.ts", moving_frames(4))
    (tmp_path / name).write_text(text.format(target))
    with pytest.raises(VideoError, match="cannot be read as a video"):
        count_frames(tmp_path / name)


def test_names_are_names_and_never_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("plain.mp4", moving_frames(4), 25)
    data = (tmp_path / "plain.mp4").read_bytes()
    for name in (
        "10:30:00.mp4",
        "-dash.mp4",
        "concat:plain.mp4|plain.mp4",
        "pipe:0",
        "%03d.mp4",
        b"not utf-8 \xca.mp4",
    ):
        with open(name, "wb") as file:
            file.write(data)
        assert count_frames(os.fsdecode(name)) == 4
    for address in ("http://127.0.0.1:9/a.mp4", "concat:plain.mp4", "file:plain.mp4", "/dev/zero"):
        with pytest.raises(VideoError, match=r"No such file|is not a file"):
            count_frames(address)
    with pytest.raises(VideoError, match="is a folder, and a video file is needed"):
        count_frames(".")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="is not a file"):
        count_frames(tmp_path / "a.mp4")


def test_frames_larger_than_the_limit_are_refused(tmp_path, monkeypatch):
    """By the header, and where frames grow on the way, by the decoder."""
    monkeypatch.setattr(video_file, "MAX_PIXELS", 64 * 64)
    write_video(tmp_path / "large.mp4", moving_frames(3, 128, 128), 25)
    with pytest.raises(VideoError, match=r"cannot be read as a video|has frames of 128x128, more than 4096 pixels"):
        read_frames(tmp_path / "large.mp4")
    write_frames(tmp_path / "part0.mpg", moving_frames(3, 64, 64), "mpeg2video")
    write_frames(tmp_path / "part1.mpg", moving_frames(3, 128, 128), "mpeg2video")
    (tmp_path / "grows.mpg").write_bytes((tmp_path / "part0.mpg").read_bytes() + (tmp_path / "part1.mpg").read_bytes())
    with pytest.raises(VideoError):
        read_frames(tmp_path / "grows.mpg", 0, 5)


def test_more_frames_than_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("evagen.data.frame_times.MAX_FRAMES", 10)
    for name in ("a.avi", "a.mkv"):
        write_video(tmp_path / name, moving_frames(12), 25)
        with pytest.raises(VideoError, match="more than 10"):
            count_frames(tmp_path / name)


def test_a_decoder_that_gives_nothing_is_given_up(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", moving_frames(30), 25)
    with opened(tmp_path / "a.mp4") as (container, stream), pytest.raises(VideoError, match="gives no frame in -1 sec"):
        list(shown_frames(tmp_path / "a.mp4", container, stream, seconds=-1))
    monkeypatch.setattr(video_reader, "SECONDS_WITHOUT_FRAME", -1)
    with pytest.raises(VideoError, match="frame 5 is not reached"):
        read_frames(tmp_path / "a.mp4", 5, 1)


# Which stream


def write_streams(path, *pictures: tuple[np.ndarray, int], codec: str = "libx264", sound: bool = False) -> None:
    """Streams of 10 equal frames each; a picture with a disposition of its own is one frame of MJPEG."""
    with av.open(str(path), "w") as container:
        streams = []
        for picture, disposition in pictures:
            stream = container.add_stream("mjpeg" if disposition else codec, rate=25)
            stream.height, stream.width = picture.shape[:2]
            stream.pix_fmt = "yuvj420p" if disposition else "yuv420p"
            if disposition:
                stream.disposition = Disposition(disposition)
            streams.append(stream)
        voice = container.add_stream("aac", rate=8000) if sound else None
        for stream, (picture, disposition) in zip(streams, pictures):
            for number in range(1 if disposition else 10):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        if voice is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 8000, 0
            container.mux(voice.encode(silence))
            container.mux(voice.encode(None))


COVER = int(Disposition.attached_pic)


def test_a_cover_is_not_the_video(tmp_path):
    write_streams(tmp_path / "a.mp4", (quadrants(), COVER), (moving_frames(1)[0], 0))
    assert count_frames(tmp_path / "a.mp4") == 10
    assert read_frames(tmp_path / "a.mp4").shape == (10, 48, 64, 3)
    write_streams(tmp_path / "song.mp4", (quadrants(), COVER), sound=True)
    with pytest.raises(VideoError, match="holds no video stream, only a cover"):
        count_frames(tmp_path / "song.mp4")


def test_sound_alone_and_no_frame_at_all(tmp_path):
    write_sound(tmp_path / "a.wav")
    with pytest.raises(VideoError):
        count_frames(tmp_path / "a.wav")
    with av.open(str(tmp_path / "none.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        container.start_encoding()
    assert count_frames(tmp_path / "none.avi") == 0
    with pytest.raises(VideoError, match="it has 0 frames"):
        read_frames(tmp_path / "none.avi")
    with pytest.raises(VideoError, match="holds no frame"):
        list(iterate_frames(tmp_path / "none.avi"))


def test_of_several_streams_the_one_that_players_show(tmp_path):
    write_streams(tmp_path / "a.mkv", (moving_frames(1, 32, 32)[0], 0), (moving_frames(1, 48, 64)[0], 0))
    with av.open(str(tmp_path / "a.mkv")) as container:
        best = container.streams.best("video")
    assert read_frames(tmp_path / "a.mkv").shape[1:3] == (best.height, best.width)
