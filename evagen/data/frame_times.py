"""When the frames of a video file are shown, how many there are, and at which rate: without decoding all of them.

Only frames that can be decoded count. A recording that begins in the middle of a group of pictures loses all until the
first key frame, and some decoders a few after it; the first frame that comes out is number 0 for everybody.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

import av
from av.video.stream import VideoStream

from evagen.data.video_file import MAX_FRAMES, VideoError, VideoPath, holding_file, opened, shown_frames

_LOOKED_AT = 4
"""Frames at the beginning that are decoded to see which packets give frames."""

_LEADING_PACKETS = 24
"""Packets at the beginning among which frames stand that are shown before the first one: more than are reordered."""

_EMPTY_BYTES = 8
"""MPEG-4 has packets of up to so many bytes that give no frame: dropped ones, and those that an earlier packet held."""

_VP8_SHOWN = 0x10
"""In the first byte of VP8's packets. The others are pictures that later ones refer to and nobody sees."""

SLOWEST, FASTEST = Fraction(1, 3600), Fraction(1000)
"""Frames a second that a file may claim: the least and the most."""


@dataclass(frozen=True)
class FrameTimes:
    """In the stream's ticks. stamps: of all frames in the order of showing; end: when the last one was shown."""

    stamps: tuple[int, ...]
    end: int


def count_frames(path: VideoPath) -> int:
    """The number of frames that can be decoded: from the container's index where that is complete, from the packets'
    time stamps where these tell, otherwise by decoding. Raises VideoError when the file cannot be opened as a video,
    or has more than `MAX_FRAMES`."""
    with opened(path) as (container, stream):
        count = indexed_frames(container, stream)
        if count is not None and _begins_early(container, stream):
            count = None
    if count is None:
        with opened(path) as (container, stream):
            times = frame_times(path, container, stream)
        count = len(times.stamps) if times else None
    if count is None:
        with opened(path) as (container, stream):
            count = sum(1 for _ in _up_to_limit(path, shown_frames(path, container, stream)))
    if count > MAX_FRAMES:
        raise VideoError(path, f"has {count} frames, more than {MAX_FRAMES}; cut it into shorter ones")
    return count


def frame_rate(path: VideoPath) -> float:
    """Frames a second: `exact_frame_rate` as a number to write down. Raises VideoError for a file that is no video."""
    return float(exact_frame_rate(path))


def exact_frame_rate(path: VideoPath) -> Fraction:
    """Frames a second: what the file says where its frames come at this rate, otherwise the number of frames over the
    time that they take. Raises VideoError when the file does not tell, or tells nonsense."""
    with opened(path) as (container, stream):
        said = stream.average_rate or stream.guessed_rate
        rate = Fraction(said) if said else None
        if not _says_mean(container, stream):
            rate = _measured_rate(frame_times(path, container, stream), stream.time_base, rate)
    if not rate:
        raise VideoError(path, "does not tell its frame rate")
    if not SLOWEST <= rate <= FASTEST:
        raise VideoError(path, f"shows {float(rate):.4g} frames a second, which is no rate of a video")
    return rate


def indexed_frames(container: av.container.InputContainer, stream: VideoStream) -> int | None:
    """The frame count in the header, if the index has as many entries, each gives a frame, and the file reaches to the
    end of the last one (headers of truncated files still claim all frames)."""
    entries = stream.index_entries
    if not stream.frames or len(entries) != stream.frames or not entries[0].is_keyframe:
        return None
    end = 0
    for entry in entries:
        if entry.is_discard or entry.size <= _no_frame_bytes(stream):
            return None
        end = max(end, entry.pos + entry.size)
    return stream.frames if end <= container.size else None


def _begins_early(container: av.container.InputContainer, stream: VideoStream) -> bool:
    """Whether frames are shown before that of the first packet. Where a recording was cut they need ones from before
    the cut, and no decoder gives them. Reads some packets."""
    if not stream.codec_context.has_b_frames:
        return False
    packets = islice(container.demux(stream), _LEADING_PACKETS)
    stamps = [packet.pts for packet in packets if packet.pts is not None]
    return bool(stamps) and min(stamps) < stamps[0]


def _no_frame_bytes(stream: VideoStream) -> int:
    return _EMPTY_BYTES if stream.codec_context.name == "mpeg4" else 0


_TIMES: dict[tuple[str, int], FrameTimes | None] = {}
"""Results of `frame_times` for the files read last, by name and time of change. Many threads count files at once."""
_LOCK = threading.Lock()


def frame_times(path: VideoPath, container: av.container.InputContainer, stream: VideoStream) -> FrameTimes | None:
    """Times of all frames that can be decoded; None when the packets do not tell them. Leaves the container anywhere.
    Raises VideoError."""
    key = str(path), os.stat(holding_file(path)).st_mtime_ns
    with _LOCK:
        if key in _TIMES:
            return _TIMES[key]
    times = _indexed_times(container, stream) or _packet_times(path, container, stream)
    with _LOCK:
        while len(_TIMES) >= 512:
            del _TIMES[next(iter(_TIMES))]
        _TIMES[key] = times
    return times


def _indexed_times(container: av.container.InputContainer, stream: VideoStream) -> FrameTimes | None:
    """What the packets of an AVI file would tell, where its index tells it already: AVI stores frames in the order of
    decoding, which without B-frames is that of showing, and no other times."""
    if container.format.name != "avi" or stream.codec_context.has_b_frames or not indexed_frames(container, stream):
        return None
    return _times([entry.timestamp for entry in stream.index_entries], 0)


def _packet_times(path: VideoPath, container: av.container.InputContainer, stream: VideoStream) -> FrameTimes | None:
    """Of the packets of frames that can be decoded."""
    packets = (packet for packet in container.demux(stream) if _is_shown(packet, stream))
    stamps: list[int | None] = []
    end = 0
    for packet in _up_to_limit(path, packets):
        if packet.size <= _no_frame_bytes(stream):
            return None
        stamps.append(packet.pts)
        if packet.pts is not None and packet.duration:
            end = max(end, packet.pts + packet.duration)
    times = _times(stamps, end)
    if times is None:
        return None
    # AVI holds no times of showing: FFmpeg works them out for some codecs, for others it gives the order of decoding.
    in_order = tuple(stamps) == times.stamps
    if in_order and container.format.name == "avi" and stream.codec_context.has_b_frames:
        return None
    if stamps[0] == times.stamps[0] and indexed_frames(container, stream) is not None:
        return times
    return _from_first_shown(path, times)


def _is_shown(packet: av.Packet, stream: VideoStream) -> bool:
    if not packet.size or packet.is_discard:
        return False
    return stream.codec_context.name != "vp8" or bool(memoryview(packet)[0] & _VP8_SHOWN)


def _from_first_shown(path: VideoPath, times: FrameTimes) -> FrameTimes | None:
    """Without the frames before the first that can be decoded; None where packets and frames do not go together."""
    with contextlib.suppress(VideoError), opened(path) as (again, same_stream):
        first = [shown.frame.pts for shown in islice(shown_frames(path, again, same_stream), _LOOKED_AT)]
        if not first or first[0] not in times.stamps:
            return None
        found = times.stamps[times.stamps.index(first[0]) :]
        return FrameTimes(found, times.end) if list(found[: len(first)]) == first else None
    return times  # the beginning is damaged, what comes later may be whole


def _times(stamps: list[int | None], end: int) -> FrameTimes | None:
    """None where stamps are missing or not distinct."""
    known = sorted({stamp for stamp in stamps if stamp is not None})
    return FrameTimes(tuple(known), max(end, known[-1])) if known and len(known) == len(stamps) else None


def _says_mean(container: av.container.InputContainer, stream: VideoStream) -> bool:
    """Whether the rate in the header is the number of frames over the time they take: MP4 and AVI with an index."""
    return container.format.name.startswith(("mov", "avi")) and indexed_frames(container, stream) is not None


def _measured_rate(times: FrameTimes | None, tick: Fraction | None, said: Fraction | None) -> Fraction | None:
    """The rate that is said, unless the frames are off it by half a frame by the last one."""
    if times is None or tick is None or len(times.stamps) < 2:
        return said
    steps = len(times.stamps) - 1
    seconds = (times.stamps[-1] - times.stamps[0]) * Fraction(tick)
    if said and abs(seconds * said - steps) < Fraction(1, 2):
        return said
    last = (times.end - times.stamps[-1]) * Fraction(tick) or seconds / steps
    return (steps + 1) / (seconds + last)


def _up_to_limit(path: VideoPath, things: Iterator) -> Iterator:
    """Raises VideoError where there are more than a file may have."""
    for number, thing in enumerate(things):
        if number >= MAX_FRAMES:
            raise VideoError(path, f"has more than {MAX_FRAMES} frames; cut it into shorter ones")
        yield thing
