"""Rates are frames over the time that they take, and only frames that can be decoded count."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from video_fixtures import decode_all, moving_frames, write_begun_early, write_frames

from evagen.data.frame_times import count_frames, exact_frame_rate, frame_rate
from evagen.data.video_file import VideoError
from evagen.data.video_reader import iterate_frames, read_frames
from evagen.data.video_writer import write_video

MILLISECOND = Fraction(1, 1000)


def uneven_stamps(number: int) -> list[int]:
    """In milliseconds, about 15 a second."""
    return np.cumsum(np.random.default_rng(0).integers(15, 120, number)).tolist()


def without_default_duration(data: bytes) -> bytes:
    """WebM as browsers record it: the element that tells a rate is made a void of the same length."""
    place = data.index(bytes.fromhex("23e383"))
    size = data[place + 3] & 0x7F
    return data[:place] + bytes([0xEC, 0x80 | (size + 2)]) + bytes(size + 2) + data[place + 4 + size :]


@pytest.mark.parametrize("recorder", ["browser", "camera"])
def test_uneven_webm_has_its_mean_rate(tmp_path, recorder):
    stamps = uneven_stamps(60)
    path = tmp_path / "a.webm"
    write_frames(path, moving_frames(60), "libvpx", rate=30, stamps=stamps, time_base=MILLISECOND)
    if recorder == "browser":
        path.write_bytes(without_default_duration(path.read_bytes()))
    seconds = count_frames(path) / frame_rate(path)
    assert seconds == pytest.approx((stamps[-1] - stamps[0]) / 1000, abs=0.1)


def test_an_even_rate_is_kept_exactly_though_times_are_rounded(tmp_path):
    for rate in (Fraction(30000, 1001), Fraction(24000, 1001), Fraction(1, 10), Fraction(60)):
        write_frames(tmp_path / "a.mkv", moving_frames(20), rate=rate)
        assert frame_rate(tmp_path / "a.mkv") == pytest.approx(float(rate), rel=1e-3)
    write_frames(tmp_path / "a.mp4", moving_frames(20), rate=Fraction(30000, 1001))
    assert exact_frame_rate(tmp_path / "a.mp4") == Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("milliseconds", "seconds"),
    [(0, 1.2), (40, 0.48), ([20, 40, 300] * 4, 1.44)],  # players show 0 as 100
)
def test_a_gif_takes_the_time_that_it_says(tmp_path, milliseconds, seconds):
    first, *others = [Image.fromarray(frame) for frame in moving_frames(12)]
    path = tmp_path / "a.gif"
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)
    assert count_frames(path) / frame_rate(path) == pytest.approx(seconds)


@pytest.mark.parametrize("rate", [30, 24000 / 1001, 12.5, 50])
def test_a_gif_is_written_with_its_duration_kept(tmp_path, rate):
    write_video(tmp_path / "a.gif", moving_frames(30), rate)
    assert count_frames(tmp_path / "a.gif") / frame_rate(tmp_path / "a.gif") == pytest.approx(30 / rate, abs=0.011)


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
@pytest.mark.parametrize("rate", [26.38412, 29.97003, 1000 / 68.7931, 0.1, 59.94])
def test_any_mean_rate_can_be_written(tmp_path, suffix, rate):
    path = tmp_path / f"a{suffix}"
    write_video(path, moving_frames(8), rate)
    assert frame_rate(path) == pytest.approx(rate, rel=2e-3)


def begun_late(tmp_path, suffix: str, codec: str, packet_bytes: int):
    """A recording whose first third is missing: it begins inside a group of pictures."""
    whole = tmp_path / f"whole.{suffix}"
    write_frames(whole, moving_frames(100), codec, options={"g": "50", "bf": "2"})
    data = whole.read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(data[len(data) // 3 // packet_bytes * packet_bytes :])
    return path


@pytest.mark.parametrize(
    ("suffix", "codec", "packet_bytes"),
    [("ts", "libx264", 188), ("mpg", "mpeg2video", 2048), ("ts", "mpeg2video", 188)],
)
def test_frames_before_the_first_key_frame_do_not_count(tmp_path, suffix, codec, packet_bytes):
    path = begun_late(tmp_path, suffix, codec, packet_bytes)
    everything = decode_all(path)
    assert 45 <= len(everything) <= 60
    assert count_frames(path) == len(everything) == len(list(iterate_frames(path)))
    for start in (0, 3, len(everything) - 4):
        assert np.array_equal(read_frames(path, start, 4), everything[start : start + 4])
    with pytest.raises(VideoError, match=f"it has {len(everything)} frames"):
        read_frames(path, len(everything) - 3, 4)


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "libx264"), ("mov", "libx265"), ("mp4", "libx265"), ("mkv", "libx264")]
)
def test_frames_shown_before_the_first_key_frame_do_not_count(tmp_path, suffix, codec):
    path = tmp_path / f"a.{suffix}"
    write_begun_early(path, moving_frames(60), codec)
    everything = decode_all(path)
    assert len(everything) == 40
    assert count_frames(path) == 40
    assert frame_rate(path) == pytest.approx(25)
    for start in (0, 9, 25, 36):
        assert np.array_equal(read_frames(path, start, 4), everything[start : start + 4])


def test_a_recording_that_begins_late_is_found_by_seeking_too(tmp_path, monkeypatch):
    monkeypatch.setattr("evagen.data.video_reader._SEEK_WITHOUT_INDEX", 8)
    path = begun_late(tmp_path, "ts", "libx264", 188)
    everything = decode_all(path)
    for start in (9, 20, 40):
        assert np.array_equal(read_frames(path, start, 4), everything[start : start + 4])


def test_packets_that_stand_for_no_frame_do_not_count(tmp_path):
    """AVI of MPEG-4, where some encoders leave a packet of a few bytes for a frame that was dropped."""
    write_video(tmp_path / "whole.avi", moving_frames(30), 25)
    # A picture that is not coded: start code, P, no seconds, marker, 10 of 25 ticks, marker, "not coded", stuffing.
    dropped = bytes.fromhex("000001b6554f")
    path = tmp_path / "a.avi"
    with av.open(str(tmp_path / "whole.avi")) as whole, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(whole.streams.video[0])
        for number, stored in enumerate(packet for packet in whole.demux(video=0) if packet.size):
            packet = av.Packet(dropped if number == 10 else bytes(stored))
            packet.stream, packet.time_base, packet.is_keyframe = stream, stored.time_base, stored.is_keyframe
            packet.pts, packet.dts, packet.duration = stored.pts, stored.dts, stored.duration
            container.mux(packet)
    everything = decode_all(path)
    assert len(everything) == 29
    assert count_frames(path) == 29
    assert np.array_equal(read_frames(path, 20, 9), everything[20:])


@pytest.mark.parametrize("early", [0, 1])  # milliseconds before the next frame
def test_pictures_that_vp8_keeps_to_itself_do_not_count(tmp_path, early):
    """Which encoders in two passes put in, some with a time of their own. The first comes after some seconds."""
    write_frames(tmp_path / "whole.webm", moving_frames(90), "libvpx", options={"g": "30"})
    path = tmp_path / "a.webm"
    with av.open(str(tmp_path / "whole.webm")) as whole, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(whole.streams.video[0])
        for number, packet in enumerate(packet for packet in whole.demux(video=0) if packet.size):
            packet.stream = stream
            if number % 25 == 10:
                hidden = av.Packet(bytes([bytes(packet)[0] & ~0x10]) + bytes(packet)[1:])
                hidden.stream, hidden.time_base = stream, packet.time_base
                hidden.pts = hidden.dts = packet.pts - early
                container.mux(hidden)
            container.mux(packet)
    everything = decode_all(path)
    assert len(everything) == count_frames(path) == 90
    assert frame_rate(path) == 25
    for start in (30, 60, 86):
        assert np.array_equal(read_frames(path, start, 4), everything[start : start + 4])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.gif"])
def test_one_frame(tmp_path, name):
    write_video(tmp_path / name, moving_frames(1), 25)
    assert count_frames(tmp_path / name) == 1
    assert frame_rate(tmp_path / name) > 0
    assert read_frames(tmp_path / name).shape == (1, 48, 64, 3)


def test_a_rate_that_no_video_has_is_refused(tmp_path):
    stamps = [0, 10**8]
    write_frames(tmp_path / "a.mkv", moving_frames(2), rate=25, stamps=stamps, time_base=MILLISECOND)
    with pytest.raises(VideoError, match="which is no rate of a video"):
        frame_rate(tmp_path / "a.mkv")
