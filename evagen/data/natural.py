"""Natural video: photographs under a moving camera and pieces of real videos, in the UCF-101 folder layout.

    build_natural("data/natural", clips=4000)

A class is what is seen (people, places), a group (`gXX`) is one photograph or video. Whole photographs and videos are
held out for the test list (`natural_sources.py`), where pieces of videos are as they are, without a camera of ours, and
nothing is laid over anything.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from evagen.data.camera import change_light, cut_out, draw_camera, lay_over
from evagen.data.labelled_set import check_manifest, random_of, record_all, write_lists
from evagen.data.natural_sources import SOURCES, Found, Source, find_sources
from evagen.data.video_reader import count_frames, read_frames
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.words import counted

FRAMES_PER_SECOND = 25

_LARGEST_SIDE = 1280  # of photographs: larger ones are made smaller, nothing of them would be seen
_CLIPS_OF_A_PIECE = 8
_WINDOW = 5  # times the frames of a clip, that a piece of a video has
_WINDOWS_TRIED = 4
_STRETCHES_TRIED = 20
_LARGEST_CHANGE = 0.1  # from one frame to the next, of 1: more is taken for a cut
_SMALLEST_CHANGE = 0.004  # less is a picture that stands still


@dataclass(frozen=True)
class NaturalSummary:
    """What `build_natural` made: counts are clips, `sources` those that were cut from, `missing` what to type for each
    package that is not there."""

    out: Path
    class_names: list[str]
    train_clips: int
    test_clips: int
    written: int
    kept: int
    sources: list[Source]
    missing: dict[str, str]


def build_natural(
    out: str | Path,
    clips: int = 4000,
    test_clips: int = 128,
    frames: int = 16,
    size: int = 128,
    seed: int = 0,
    clones: str | Path = "clones",
    workers: int | None = None,
) -> NaturalSummary:
    """Writes `clips` training clips and `test_clips` held-out ones, of `frames` frames of `size` × `size` pixels, into
    `out`. `clones`: the folder with clones of the repositories among the sources. `workers`: processes, `None` for one
    on each core.

    A file depends on (seed, source, clip, frames, size) and, by what is laid over it, on the sources that are there.
    Calling it again continues an unfinished build and keeps finished files. Raises UserError for arguments out of
    range, where no source is there, and when `out` was made with other arguments or sources or holds something else."""
    if clips < 1 or test_clips < 0 or frames < 2 or size < 16 or size % 2:
        raise UserError(
            f"clips={clips}, test_clips={test_clips}, frames={frames}, size={size}: expected at least 1, 0, 2 and an "
            "even size of at least 16"
        )
    out, found = Path(out), find_sources(Path(clones))
    sides = [_side(found, clips, held_out=False), _side(found, test_clips, held_out=True)]
    check_manifest(
        out,
        "natural",
        {"clips": clips, "test_clips": test_clips, "frames": frames, "size": size, "seed": seed}
        | {"sources": {source.name: source.licence for source in found.files}},
    )
    works, names = [], []
    for counts in sides:
        pictures = tuple(found.files[source] for source in counts if not source.is_video and not source.held_out)
        for source, count in counts.items():
            for first in range(0, count, _CLIPS_OF_A_PIECE):
                numbers = range(first, min(count, first + _CLIPS_OF_A_PIECE))
                works.append(Piece(source, found.files[source], pictures, numbers, frames, size, seed))
        names.append([clip_name(source, clip) for source, count in counts.items() for clip in range(count)])
    unfinished = [work for work in works if not all((out / name).exists() for name in work.names())]
    total = len(names[0]) + len(names[1])
    kept = total - sum(len(work.clips) for work in unfinished)
    written = 0
    with tqdm(total=total, initial=kept, unit="clip", desc="natural") as progress:
        for work, count in record_all(out, unfinished, workers):
            written += count
            progress.update(len(work.clips))
    classes = write_lists(out, *names)
    sources = list(found.files)
    return NaturalSummary(out, classes, len(names[0]), len(names[1]), written, total - written, sources, found.missing)


def describe(summary: NaturalSummary) -> str:
    """A line for each source with its licence, what to type for those that are missing, and the counts."""
    lines = [
        f"{'test ' if source.held_out else 'train'}  {source.name}: {source.shows}; {source.licence}"
        for source in summary.sources
    ]
    lines += [f"left out {package}, which is not here: {install}" for package, install in summary.missing.items()]
    lines.append(
        f"{counted(len(summary.class_names), 'class', 'classes')}, "
        f"{summary.train_clips} training and {summary.test_clips} test clips "
        f"in {summary.out} ({summary.written} written, {summary.kept} already there)"
    )
    return "\n".join(lines)


def _side(found: Found, num_clips: int, held_out: bool) -> dict[Source, int]:
    """Clips of each source of a side, by its share. Raises UserError where clips are asked for without a source."""
    sources = [source for source in found.files if source.held_out == held_out]
    if num_clips and not sources:
        side = "held out for the test split" if held_out else "for training"
        raise UserError(f"no source {side} is here. Type:\n" + "\n".join(found.missing.values()))
    ends = np.cumsum([source.share for source in sources])
    bounds = [0, *(round(num_clips * end / ends[-1]) for end in ends)]
    return {source: bounds[i + 1] - bounds[i] for i, source in enumerate(sources)}


def clip_name(source: Source, clip: int) -> str:
    """The file of a clip, numbered from 0, relative to the folder of the data set. A group's number is the source's
    place among all of its class, here or not, so that it does not change when a package is installed."""
    group = [other for other in SOURCES if other.class_name == source.class_name].index(source) + 1
    name = source.class_name
    return f"{name}/v_{name}_g{group:02d}_c{clip + 1:04d}.avi"


@dataclass(frozen=True)
class Piece:
    """Some clips of one source, those of a video from one part of it. `pictures`: photographs to lay over it."""

    source: Source
    file: Path
    pictures: tuple[Path, ...]
    clips: range
    frames: int
    size: int
    seed: int

    def names(self) -> list[str]:
        return [clip_name(self.source, clip) for clip in self.clips]

    def record(self, out: Path) -> int:
        """Writes the files that are not there yet; returns how many."""
        written = 0
        window = None
        if self.source.is_video:
            random = random_of(f"{self.seed}/{self.source.name}/from {self.clips.start}")
            window = _window(self.file, random, _WINDOW * self.frames)
        for clip, name in zip(self.clips, self.names()):
            if not (out / name).exists():
                random = random_of(f"{self.seed}/{self.source.name}/{clip}")
                write_video(out / name, self.film(random, window), FRAMES_PER_SECOND)
                written += 1
        return written

    def film(self, random: np.random.Generator, window: np.ndarray | None) -> np.ndarray:
        """One clip, uint8 `F S S 3`. `window`: the part of a video that it is cut from."""
        video = window is not None
        pictures = [_picture(self.file)] * self.frames if window is None else _stretch(window, random, self.frames)
        if random.random() < 0.5:
            pictures = _mirrored(pictures)
        still = video and (self.source.held_out or random.random() < 0.5)
        calmness = float("inf") if still else 2.0 if video else 1.0
        camera = draw_camera(random, self.frames, *pictures[0].size, calmness)
        clip = camera.film(pictures, self.size)
        if self.source.held_out:
            return clip
        if self.pictures and random.random() < 0.3:
            above = _picture(self.pictures[int(random.integers(len(self.pictures)))])
            camera = draw_camera(random, self.frames, *above.size)
            clip = lay_over(clip, camera.film([cut_out(random, above, camera)] * self.frames, self.size))
        return change_light(random, clip)


def _mirrored(pictures: list[Image.Image]) -> list[Image.Image]:
    """Left for right. Equal pictures stay one object, which the camera makes smaller only once."""
    mirrored = {id(picture): ImageOps.mirror(picture) for picture in pictures}
    return [mirrored[id(picture)] for picture in pictures]


@lru_cache(maxsize=64)
def _picture(path: Path) -> Image.Image:
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    return picture


@lru_cache(maxsize=64)
def _num_frames(path: Path) -> int:
    return count_frames(path)


def _window(path: Path, random: np.random.Generator, num_frames: int) -> np.ndarray:
    """Frames in a row of a video, uint8 `F H W C`, as many as there are at most: something moves in them, unless that
    is not found soon."""
    num_frames = min(num_frames, _num_frames(path))
    room = _num_frames(path) - num_frames
    for _ in range(_WINDOWS_TRIED):
        window = read_frames(path, int(random.integers(room + 1)), num_frames)
        if _changes(window).max() > _SMALLEST_CHANGE:
            break
    return window


def _changes(frames: np.ndarray) -> np.ndarray:
    """How far each of F frames is from the next, (F - 1,), from 0 to 1."""
    small = frames[:, ::8, ::8].astype(np.float32) / 255
    return np.abs(np.diff(small, axis=0)).mean((1, 2, 3))


def _stretch(window: np.ndarray, random: np.random.Generator, num_frames: int) -> list[Image.Image]:
    """Frames of the window, or every second or third, backwards one time in four, without a cut in between and not all
    the same; if that is not found soon, the last ones tried."""
    for _ in range(_STRETCHES_TRIED):
        stride = int(random.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
        stride = max(1, min(stride, (len(window) - 1) // (num_frames - 1)))
        start = int(random.integers(max(1, len(window) - (num_frames - 1) * stride)))
        frames = window[start : start + num_frames * stride : stride][:num_frames]
        changes = _changes(frames)
        if changes.max() < _LARGEST_CHANGE and changes.mean() > _SMALLEST_CHANGE:
            break
    if random.random() < 0.25:
        frames = frames[::-1]
    return [Image.fromarray(frame) for frame in frames]
