"""The training loader against other ways of getting the same clips: imageio, decord and torchcodec, where installed.

All of them make the same clips of the same files on one core, taking turns: 16 consecutive frames at a random start,
short side 128, cropped in the centre, float32 in [-1, 1], in batches. A rival counts with its fastest way: it resizes
itself where it can, or torch does, in float (`fit_square`) or on bytes, which is off by up to a level. imageio decodes
with its pyav plugin. Time is the processor's, so that other programs on the machine count little.

The files are like UCF-101's: XviD in AVI, 320x240, 25 frames a second, 186 frames, 500 kbit/s; half have a key frame
every 12 frames, half at the start only, since encoders differ in that.
"""

import contextlib
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import av
import imageio.v3 as iio
import numpy as np
import torch
from av.video.stream import VideoStream
from torch import Tensor

from evagen.data.clips import ClipDataset
from evagen.data.loader import collate_clips, train_loader
from evagen.data.sources import DataConfig
from evagen.data.square_clips import fit_square, resized_shape
from evagen.kernels.levels import levels_to_floats

HEIGHT, WIDTH, FRAMES_PER_SECOND, FRAMES_PER_FILE, BITS_PER_SECOND = 240, 320, 25, 186, 500_000
FILES, CLIP_FRAMES, SIZE, BATCH_SIZE = 16, 16, 128, 8
BATCHES, TURNS = 4, 4

Read = Callable[[str, int], Tensor]
"""Path and first frame to a clip, float32 `C F H W` in [-1, 1]."""

Frames = TypeVar("Frames", np.ndarray, Tensor)


class Reader(NamedTuple):
    """One library's ways to a clip. resizing: by itself, None if it cannot; decoding: to uint8 `F H W C` of the
    video's size, the rest of the work left out."""

    resizing: Read | None
    decoding: Callable[[str, int], np.ndarray]

    def ways(self, name: str) -> dict[str, Read]:
        """All ways to a clip, by what the table calls them."""
        ways: dict[str, Read] = {
            f"{name}, resized in float": lambda path, start: fit_square(self.decoding(path, start), SIZE),
            f"{name}, resized as bytes": lambda path, start: _fit_bytes(self.decoding(path, start)),
        }
        return ways if self.resizing is None else {f"{name}, its own resizing": self.resizing, **ways}


def run() -> dict:
    """Keys: clips_per_second (of the training loader), rivals (the same of the libraries that are installed, by
    name), rivals_absent (names), speedup (over the fastest rival), mean_difference (of the rivals' pixels from the
    loader's, in levels of 255, the largest of all), rows (a line for each way, and what decoding alone takes)."""
    rivals, absent = _rivals()
    with tempfile.TemporaryDirectory() as folder, _one_core():
        for number in range(FILES):
            path = Path(folder) / f"{number}.avi"
            write_ucf_like(path, FRAMES_PER_FILE, seed=number, key_frames_every=12 if number % 2 else 300)
        data = {"root": folder, "layout": "folder", "frames": CLIP_FRAMES, "size": SIZE}
        dataset = ClipDataset(DataConfig.model_validate(data))
        batches = [(batch.paths, batch.starts) for batch in islice(train_loader(dataset, BATCH_SIZE, seed=0), BATCHES)]
        ways = _ways(dataset, rivals, batches)
        seconds = dict.fromkeys(ways, 0.0)
        for turn in range(TURNS + 1):  # the first warms up
            for name, way in ways.items():
                start = _processor_seconds()
                way()
                seconds[name] += (_processor_seconds() - start) * (turn > 0)
        difference = _largest_difference(rivals, dataset)
    speed = {name: TURNS * BATCHES * BATCH_SIZE / took for name, took in seconds.items()}
    best = {name: max(speed[way] for way in reader.ways(name)) for name, reader in rivals.items()}
    return {
        "clips_per_second": speed["evagen"],
        "rivals": best,
        "rivals_absent": absent,
        "speedup": speed["evagen"] / max(best.values()),
        "mean_difference": difference,
        "rows": [{"way": name, "clips_per_second": figure} for name, figure in speed.items()],
    }


def write_ucf_like(path: Path, num_frames: int, seed: int, key_frames_every: int) -> None:
    """A textured background that pans, a patch that moves over it, and the noise of a camera."""
    random = np.random.default_rng(seed)
    scene, patch = _texture(random, 2 * HEIGHT, 2 * WIDTH), _texture(random, 80, 80)
    noise = random.integers(-4, 5, (8, HEIGHT, WIDTH, 3), dtype=np.int16)
    turns = random.uniform(6, 40, 4)
    with av.open(str(path), "w", format="avi") as container:
        stream = cast(VideoStream, container.add_stream("mpeg4", rate=Fraction(FRAMES_PER_SECOND)))
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.thread_count, stream.codec_context.codec_tag = 1, "XVID"
        stream.codec_context.gop_size, stream.codec_context.bit_rate = key_frames_every, BITS_PER_SECOND
        for number in range(num_frames):
            top, left, y, x = (np.sin(number / turns) * [HEIGHT / 3, WIDTH / 3, 70, 100]).astype(int)
            top, left = top + HEIGHT // 2, left + WIDTH // 2
            frame = scene[top : top + HEIGHT, left : left + WIDTH].copy()
            frame[80 + y : 160 + y, 120 + x : 200 + x] = patch
            frame = (frame + noise[number % len(noise)]).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _texture(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth noise of several sizes, int16 `H W C` from 0 to 255."""
    texture = torch.zeros(1, 3, height, width)
    for cell in (4, 16, 64):
        coarse = torch.from_numpy(random.normal(size=(1, 3, height // cell + 1, width // cell + 1))).float()
        texture += cell**0.5 * torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    texture = texture / texture.std() * 50 + 128
    return texture[0].permute(1, 2, 0).clamp(0, 255).to(torch.int16).numpy()


def _ways(
    dataset: ClipDataset, rivals: dict[str, Reader], batches: Sequence[tuple[list[str], list[int]]]
) -> dict[str, Callable[[], object]]:
    """What is timed, by name: each makes all the batches once."""

    def loader() -> None:
        for _ in islice(train_loader(dataset, BATCH_SIZE, seed=0), BATCHES):
            pass

    def batched(read: Read) -> Callable[[], object]:
        return lambda: [torch.stack([read(*clip) for clip in zip(*batch)]) for batch in batches]

    def decoded(decode: Callable[[str, int], np.ndarray]) -> Callable[[], object]:
        return lambda: [decode(*clip) for batch in batches for clip in zip(*batch)]

    ways: dict[str, Callable[[], object]] = {"evagen": loader}
    for name, reader in rivals.items():
        for way, read in reader.ways(name).items():
            ways[way] = batched(read)
        ways[f"{name}, decoding alone"] = decoded(reader.decoding)
    return ways


def _largest_difference(rivals: dict[str, Reader], dataset: ClipDataset) -> float:
    clips = collate_clips([dataset[index] for index in range(min(4, len(dataset)))])
    return max(
        (read(path, start) - clip).abs().mean().item() * 127.5
        for clip, path, start in zip(clips.video, clips.paths, clips.starts)
        for name, reader in rivals.items()
        for read in reader.ways(name).values()
    )


def _processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    so_far = os.times()
    return time.process_time() + so_far.children_user + so_far.children_system


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """This process, its threads and children on one core: the last of those it may use."""
    threads, pins = torch.get_num_threads(), hasattr(os, "sched_setaffinity")  # macOS cannot pin
    cores = os.sched_getaffinity(0) if pins else set()
    if pins:
        os.sched_setaffinity(0, {max(cores)})
    torch.set_num_threads(1)
    gc.freeze()  # imageio collects garbage whenever it closes a file, which takes longer the more a program has loaded
    try:
        yield
    finally:
        gc.unfreeze()
        if pins:
            os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def _rivals() -> tuple[dict[str, Reader], list[str]]:
    """Those that are installed and work, and the names of the others."""
    makers = {"imageio": _imageio, "decord": _decord, "torchcodec": _torchcodec}
    found, absent = {}, []
    for name, make in makers.items():
        try:
            found[name] = make()
        except (ImportError, OSError, RuntimeError):  # torchcodec raises the last two for want of FFmpeg or CUDA
            absent.append(name)
    return found, absent


RESIZED = resized_shape(HEIGHT, WIDTH, SIZE)
"""Height and width before the crop."""


def _fit_bytes(frames: np.ndarray) -> Tensor:
    """Like `fit_square`, with torch's resizing of bytes."""
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)  # F C H W
    resized = torch.nn.functional.interpolate(video, RESIZED, mode="bilinear", antialias=True)  # F C h w
    return _in_range(_cropped(resized.permute(0, 2, 3, 1)))  # C F S S


def _in_range(frames: np.ndarray | Tensor) -> Tensor:
    """uint8 `F H W C` to float32 `C F H W` in [-1, 1]."""
    return levels_to_floats(torch.as_tensor(frames).permute(3, 0, 1, 2)).contiguous()


def _cropped(frames: Frames) -> Frames:
    left = round((frames.shape[2] - SIZE) / 2)
    return frames[:, :, left : left + SIZE]


def _imageio() -> Reader:
    def read(path: str, start: int) -> np.ndarray:
        with iio.imopen(path, "r", plugin="pyav") as file:
            return np.stack([file.read(index=start + i, constant_framerate=True) for i in range(CLIP_FRAMES)])

    return Reader(None, read)


def _decord() -> Reader:
    import decord

    def read(path: str, start: int, **size: int) -> np.ndarray:
        video = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1, **size)
        return video.get_batch(range(start, start + CLIP_FRAMES)).asnumpy()

    return Reader(lambda path, start: _in_range(_cropped(read(path, start, height=RESIZED[0], width=RESIZED[1]))), read)


def _torchcodec() -> Reader:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import CenterCrop, Resize

    def read(path: str, start: int, transforms: Sequence[object] = ()) -> Tensor:
        decoder = VideoDecoder(path, dimension_order="NHWC", seek_mode="approximate", transforms=list(transforms))
        return decoder.get_frames_in_range(start, start + CLIP_FRAMES).data

    resizing = [Resize(RESIZED), CenterCrop((SIZE, SIZE))]
    return Reader(lambda path, start: _in_range(read(path, start, resizing)), lambda *clip: read(*clip).numpy())
