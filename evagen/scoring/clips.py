"""Clips to score, by number, as `clip_table` takes them: of files, and such as are yet to be written."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple

import numpy as np
import torch

from evagen.data.clips import Clip, SkippedClip
from evagen.data.file_memory import file_state
from evagen.data.video_reader import VideoError, VideoPath, read_frames, read_numbered
from evagen.eval import Protocol, SourceClip


class FileClips:
    """Clip i is `clips[i]`, decoded and prepared as the protocol says; `files` gives the file of each path."""

    def __init__(self, protocol: Protocol, clips: Sequence[SourceClip], files: Mapping[str, VideoPath]):
        self.protocol, self.clips, self.files = protocol, list(clips), files
        self.skipped: list[SkippedClip] = []
        self.num_files = len({clip.path for clip in clips})

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: int) -> Clip | SkippedClip:
        clip = self.clips[key]
        try:
            frames = self._read(clip)
        except VideoError as error:
            return SkippedClip(error.path, error.reason)
        return Clip(self.protocol.prepare(torch.from_numpy(frames)), clip.label, key, clip.path, clip.start)

    def _read(self, clip: SourceClip) -> np.ndarray:
        file = self.files[clip.path]
        if clip.numbers is not None:
            return read_numbered(file, clip.numbers)
        return read_frames(file, clip.start, clip.num_frames, clip.stride)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the list of clips and with the size or time of change of a file."""
        return digest([list_fingerprint(self.clips), [file_state(self.files[clip.path]) for clip in self.clips]])


class LabelClips:
    """Clips of which nothing is known but their labels: `video` is empty."""

    def __init__(self, labels: Sequence[int]):
        self.labels = list(labels)
        self.skipped: list[SkippedClip] = []
        self.num_files = len(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int) -> Clip:
        return Clip(torch.empty(3, 0, 0, 0), self.labels[key], key, "", 0)

    def fingerprint(self) -> str:
        return digest(self.labels)


def list_fingerprint(clips: Sequence[SourceClip]) -> str:
    """16 hexadecimal digits of which clips of which videos these are, the same for every copy of a data set."""
    parts = [astuple(clip) for clip in clips]
    return digest([part if part[-1] is not None else part[:-1] for part in parts])


def digest(values: object) -> str:
    """16 hexadecimal digits of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
