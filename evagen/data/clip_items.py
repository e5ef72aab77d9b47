"""Where the clips of a data set are cut out of its videos, for millions of them.

Processes that read clips begin as copies of the one that trains, and share its memory page by page until one of them
writes there. Python writes into every object that is looked at, for it counts who holds it, so of a list of objects
each reader ends up with a copy of its own. Of numbers and bytes in arrays none does, and they take half the room.
"""

import pickle
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from evagen.data.layouts import VideoFile
from evagen.data.video_file import StoredVideo
from evagen.kernels.strides import Stride


class ClipItem(NamedTuple):
    """A clip of a video: it begins anywhere between two frames. stride: the distance between its frames."""

    path: str | StoredVideo
    label: int
    first_start: int
    last_start: int
    stride: Stride


class ClipItems:
    """Clips by number, in the order in which their videos were added."""

    def __init__(self) -> None:
        self._paths, self._ends = bytearray(), array("q", [0])  # of videos: names of files, others pickled
        self._are_files = bytearray()
        self._labels, self._stride_of, self._strides = array("q"), array("q"), list[Stride]()
        self._video_of, self._first_start, self._last_start = array("q"), array("q"), array("q")

    def add(self, file: VideoFile, ranges: Sequence[tuple[int, int]], stride: Stride) -> None:
        """The clips of a video. ranges: where each may begin, from the first frame to the last."""
        for first, last in ranges:
            self._video_of.append(self.num_videos)
            self._first_start.append(first)
            self._last_start.append(last)
        path = file.path
        self._are_files.append(isinstance(path, str))
        self._paths += path.encode("utf-8", "surrogatepass") if isinstance(path, str) else pickle.dumps(path)
        if not self._strides or self._strides[-1] != stride:  # neighbours are mostly alike
            self._strides.append(stride)
        self._ends.append(len(self._paths))
        self._stride_of.append(len(self._strides) - 1)
        self._labels.append(file.label)

    @property
    def num_videos(self) -> int:
        return len(self._labels)

    def __len__(self) -> int:
        return len(self._video_of)

    def __iter__(self) -> Iterator[ClipItem]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> ClipItem:
        video = self._video_of[number]
        stride = self._strides[self._stride_of[video]]
        first, last = self._first_start[number], self._last_start[number]
        return ClipItem(self.path(video), self._labels[video], first, last, stride)

    def labels(self) -> list[int]:
        """Of all clips."""
        return [self._labels[video] for video in self._video_of]

    def path(self, video: int) -> str | StoredVideo:
        """Of a video by its number."""
        packed = self._paths[self._ends[video] : self._ends[video + 1]]
        if self._are_files[video]:
            return packed.decode("utf-8", "surrogatepass")
        return pickle.loads(packed)  # noqa: S301, what `add` has packed
