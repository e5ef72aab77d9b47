"""Which videos the page takes, and why not the others, in words."""

from dataclasses import dataclass
from pathlib import Path

from evagen.data.video_reader import VideoError, VideoHeader, read_header
from evagen.errors import UserError

MOST_FRAMES_A_SECOND = 120
"""Of what a user may upload: a bound on frames where a file tells any rate."""
MOST_PIXELS = 4096 * 4096
"""Of a frame: one is decoded at full size."""

PROMISE_KEPT = 0.95
"""Share of the promised frames with which a file passes for whole: some promise a duration and no number."""


@dataclass(frozen=True)
class Limits:
    """Of uploads. max_seconds: of video; max_megabytes: of the file, of 2^20 bytes each."""

    max_seconds: float = 60.0
    max_megabytes: float = 50.0

    @property
    def max_bytes(self) -> int:
        return int(self.max_megabytes * 2**20)

    def __str__(self) -> str:
        return f"at most {self.max_seconds:g} seconds and {self.max_megabytes:g} MB"


def check_upload(path: Path, limits: Limits) -> VideoHeader:
    """What a file says of its video. Raises UserError for a file that is too large, is no video, has no picture or no
    frame, was cut off, or is too long. Nothing is decoded."""
    name, megabytes = path.name, path.stat().st_size / 2**20
    if megabytes > limits.max_megabytes:
        raise UserError(
            f"{name} has {megabytes:.1f} MB; this page takes {limits}. Make it shorter or smaller and try again."
        )
    try:
        header = read_header(path)
    except VideoError as error:
        raise UserError(explain(error, name)) from error
    if header.frames == 0:
        raise UserError(f"{name} holds not a single frame. Export it again and try once more.")
    if header.frames < PROMISE_KEPT * header.promised_frames - 1:
        raise UserError(
            f"{name} is cut off: it promises {header.promised_frames} frames, and only {header.frames} are there. The "
            "file was probably not copied to its end; copy it again."
        )
    if header.width * header.height > MOST_PIXELS:
        raise UserError(
            f"{name} has frames of {header.width}x{header.height} pixels, more than this page opens. Give a smaller "
            "one, of 4096x4096 at most."
        )
    if header.seconds > limits.max_seconds or header.frames > limits.max_seconds * MOST_FRAMES_A_SECOND:
        raise UserError(
            f"{name} is too long: {header.seconds:.1f} seconds, {header.frames} frames; this page takes {limits}. Cut "
            "a part out of it and try again."
        )
    return header


def explain(error: VideoError, name: str) -> str:
    """Why a file cannot be used, for somebody who knows nothing of the server it lies on."""
    if "no video stream" in error.reason:
        return (
            f"{name} has no picture, only sound or nothing at all. Give a video file, such as .mp4, .mkv, .avi or .gif."
        )
    if "times the other" in error.reason:
        return f"{name} {error.reason}."
    if "damaged" in error.reason:
        return f"{name} is damaged: {error.reason}. Copy or export it again."
    return (
        f"{name} cannot be read as a video: it is something else, or was cut off, or is damaged. Give a whole video "
        "file, such as .mp4, .webm, .mkv, .avi or .gif."
    )
