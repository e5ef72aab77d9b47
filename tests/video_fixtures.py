"""Small real video files for the tests of the data room."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation

from evagen.data.sources import DataConfig
from evagen.data.video_writer import write_video


def moving_frames(num_frames: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Smooth colour waves that wander, each frame different: uint8 F H W C."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    frames = []
    waves = random.uniform(0.05, 0.2, (3, 2))
    for time in range(num_frames):
        phase = [waves[c, 0] * (rows + 2 * time) + waves[c, 1] * (columns + 3 * time) + seed for c in range(3)]
        frames.append(np.stack([127.5 + 120 * np.sin(p) for p in phase], axis=-1))
    return np.stack(frames).round().astype(np.uint8)


def write_uneven_h264(path: Path, frames: np.ndarray, index_in_front: bool = False) -> None:
    """H.264 with B-frames, a key frame every 12 frames and uneven time stamps (0, 47, 94, 120, 167, ... ms)."""
    options = {"movflags": "faststart"} if index_in_front else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=Fraction(25), options={"g": "12", "bf": "3"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, frame in enumerate(frames):
            image = av.VideoFrame.from_ndarray(frame, format="rgb24")
            image.pts, image.time_base = 40 * number + 7 * (number % 3), Fraction(1, 1000)
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))


def write_begun_early(path: Path, frames: np.ndarray, codec: str = "libx264") -> None:
    """A recording that was cut, without encoding anew, at frame 20: frames that are shown before it and need what came
    before the cut are in the file, and no decoder gives them. The times begin with theirs."""
    whole, kind = path.with_suffix(".whole.mkv"), codec.removeprefix("lib")
    options = "keyint=20:min-keyint=20:open-gop=1:bframes=3:b-adapt=0:scenecut=0"
    write_frames(whole, frames, codec, options={f"{kind}-params": f"{options}:log-level=none"})
    with av.open(str(whole)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        kept = packets[keys[1] :]
        first = min(packet.pts for packet in kept)
        for packet in kept:
            packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, stream
            container.mux(packet)
    whole.unlink()


def write_h264(path: Path, frames: np.ndarray, pixel_format: str = "yuv420p", rotation: int = 0) -> None:
    """H.264 at 25 frames a second; odd sizes are possible with `yuv444p`. `rotation` in degrees is left to players."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25), options={"crf": "10"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_frames(
    path: Path,
    frames: Iterable[np.ndarray | av.VideoFrame],
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: Fraction | int = 25,
    options: dict[str, str] | None = None,
    stamps: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    aspect: Fraction | None = None,
) -> None:
    """uint8 `H W 3` or ready frames, at a rate or at `stamps` in ticks of `time_base`. aspect: of a pixel."""
    frames = [
        frame if isinstance(frame, av.VideoFrame) else av.VideoFrame.from_ndarray(frame, format="rgb24")
        for frame in frames
    ]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = frames[0].height, frames[0].width, pixel_format
        if time_base is not None:
            stream.codec_context.time_base = time_base
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for name in ("colorspace", "color_range", "color_trc", "color_primaries"):
            setattr(stream.codec_context, name, getattr(frames[0], name))
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = (stamps[number] if stamps else number), time_base or 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def quadrants(height: int = 64, width: int = 96) -> np.ndarray:
    """Red, green over blue, white: turning and mirroring show. uint8 H W 3."""
    frame = np.zeros((height, width, 3), np.uint8)
    half, middle = height // 2, width // 2
    frame[:half, :middle, 0] = frame[:half, middle:, 1] = frame[half:, :middle, 2] = frame[half:, middle:] = 255
    return frame


def decode_all(path: Path) -> np.ndarray:
    """Every frame, by PyAV alone, with swscale's accurate conversion to RGB."""
    accurate = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    with av.open(str(path)) as container:
        frames = [frame.reformat(format="rgb24", interpolation=accurate) for frame in container.decode(video=0)]
        return np.stack([frame.to_ndarray() for frame in frames])


def write_class_folders(root: Path, classes: dict[str, int], num_frames: int = 20) -> None:
    """`classes` gives the number of videos of each."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            write_video(root / name / f"{number}.avi", moving_frames(num_frames, seed=number), fps=25)


def write_ucf101(root: Path, num_frames: int = 20, height: int = 48, width: int = 64) -> None:
    """Two classes whose order in classInd.txt is not the alphabetic one, three groups, test = group 1."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    class_names = ["YoYo", "Archery"]
    (lists / "classInd.txt").write_text("1 YoYo\n2 Archery\n")
    train, test = [], []
    for label, name in enumerate(class_names, start=1):
        (root / name).mkdir()
        for group in (1, 2, 3):
            video = f"{name}/v_{name}_g{group:02d}_c01.avi"
            write_video(root / video, moving_frames(num_frames, height, width, seed=10 * label + group), fps=25)
            if group == 1:
                test.append(video)
            else:
                train.append(f"{video} {label}")
    (lists / "trainlist01.txt").write_text("\r\n".join(train) + "\r\n")  # as the original lists end lines
    (lists / "testlist01.txt").write_text("\r\n".join(test) + "\r\n")


def write_sound(path: Path) -> None:
    """A second of silence: a media file without a picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        sound.sample_rate, sound.pts = 8000, 0
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))


def config(root: Path, **settings: Any) -> DataConfig:
    """Clips of 4 frames at 32 pixels from a folder, but for the settings."""
    return DataConfig(**{"root": root, "layout": "folder", "frames": 4, "size": 32, **settings})
