"""The files that a folder holds: which of them are videos by their names, and what else is there."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from evagen.errors import UserError
from evagen.kernels.names import as_line, as_text
from evagen.kernels.words import counted

VIDEO_SUFFIXES = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg",
    ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm",
    ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
})  # fmt: skip
"""Of what FFmpeg reads."""
LIST_NAME = "evagen_scan.json"
"""The list of bad files in the folder of a data set."""


class FoundVideo(NamedTuple):
    """A video file, its name without suffix, and the first-level subfolder it lies in, None if it lies in the folder
    itself."""

    path: str
    stem: str
    subfolder: str | None


@dataclass
class FoundFiles:
    """videos: sorted by path; others: how many other files there are of each suffix; unread: folders that are left out,
    and why."""

    folder: Path
    videos: list[FoundVideo] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)

    def remarks(self, known: Collection[str] = ()) -> list[str]:
        """A line on each kind of thing that is left out. known: suffixes of files that have another use."""
        others = Counter({suffix: count for suffix, count in self.others.items() if suffix not in known})
        if not others:
            return list(self.unread)
        kinds = ", ".join(f"{suffix or 'no suffix'} ({count})" for suffix, count in others.most_common(8))
        more = ", …" if len(others) > 8 else ""
        told = counted(others.total(), f"file in {self.folder} is", f"files in {self.folder} are")
        return [*self.unread, f"{told} left out, not being named like videos: {kinds}{more}"]


def check_folder(root: Path) -> None:
    """Raises UserError where there is no folder, or none that may be read."""
    if os.path.isfile(root):
        raise UserError(
            f"{root} is a file: give (in a config: data.root) the folder that holds the videos, for a single one a "
            "folder of its own"
        )
    if not os.path.isdir(root):
        raise UserError(f"no folder at {root}: give (in a config: data.root) the folder that holds the videos")
    try:
        os.scandir(root).close()
    except OSError as error:
        raise UserError(f"the folder {root} cannot be read ({error.strerror}): give yourself the right to") from error


def find_videos(folder: Path, without: Iterable[Path] = ()) -> FoundFiles:
    """Every file in a folder and its subfolders that is named like a video. Names that begin with a dot are left out,
    and subfolders in `without`. Links to folders are followed; what is reached twice is listed once, where it lies if
    that is in the folder. Directories are read, files are not looked at: 400,000 take three seconds."""
    found = FoundFiles(folder)
    top = str(folder)
    for current, names in _folders_below(top, set(map(os.path.abspath, without)), found.unread):
        subfolder = None if current == top else as_text(os.path.relpath(current, top).split(os.sep)[0])
        for name in names:
            stem, suffix = os.path.splitext(name)
            if name.startswith(".") or name == LIST_NAME:
                continue
            if suffix.lower() in VIDEO_SUFFIXES:
                found.videos.append(FoundVideo(os.path.join(current, name), stem, subfolder))
            else:
                found.others[as_line(suffix.lower(), 12)] += 1
    found.videos.sort(key=lambda video: video.path.replace(os.sep, "\0"))  # by folder first, as paths compare
    return found


def _folders_below(top: str, without: set[str], unread: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Folders and the names of their files, each once: first those that lie there, then those that links lead to."""
    seen: set[tuple[int, int]] = set()
    above = {os.path.realpath(top), *map(str, Path(os.path.realpath(top)).parents)}

    def cannot(error: OSError) -> None:
        unread.append(f"the folder {error.filename} cannot be read ({error.strerror}): its videos are left out")

    waiting = [top]
    while waiting:
        start = waiting.pop(0)
        if start != top and os.path.realpath(start) in above:
            unread.append(f"the link {start} leads to a folder that it lies in: it is not followed")
            continue
        for current, folders, names in os.walk(start, onerror=cannot):
            try:
                about = os.stat(current)
            except OSError as error:  # taken away under way
                cannot(error)
                folders.clear()
                continue
            if (about.st_dev, about.st_ino) in seen:
                unread.append(f"the folder {current} is left out, being in the list under another name")
                folders.clear()
                continue
            seen.add((about.st_dev, about.st_ino))
            paths = [os.path.join(current, name) for name in sorted(folders) if not name.startswith(".")]
            paths = [path for path in paths if os.path.abspath(path) not in without]
            waiting += [path for path in paths if os.path.islink(path)]
            folders[:] = [os.path.basename(path) for path in paths]
            yield current, names


def looked_for() -> str:
    """End of an error message about a folder without videos."""
    return f"or its subfolders (looked for {' '.join(sorted(VIDEO_SUFFIXES))})"


def read_lines(path: Path, remarks: list[str]) -> list[str]:
    """The lines of a list, without spaces around them and without empty ones. It is UTF-8, with or without a mark, or
    UTF-16 with one; anything else is read as Latin-1, and a remark says so. Raises UserError for a file that cannot be
    read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"the list {path} cannot be read ({error.strerror})") from error
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
        remarks.append(f"{path} is not UTF-8; it is read as Latin-1")
    return [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
