"""The list of bad files that `evagen data scan` writes and the loaders leave out."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evagen.config import Section
from evagen.data.file_memory import State, file_state
from evagen.data.found_files import LIST_NAME
from evagen.data.layouts import LeftOut, Listing, VideoFile
from evagen.data.video_reader import VideoPath
from evagen.errors import UserError
from evagen.kernels.files import write_whole
from evagen.kernels.names import Text, as_text


class BadFile(Section):
    """path: relative to the folder of the data set if inside; state: of the file when it was found bad, since one
    that was put in its place later may be good; None if it was not there."""

    path: Text
    reason: Text
    state: State | None


class ScanRecord(Section):
    """What a scan leaves: `summary` is for people and tables (see `evagen.data.scan`)."""

    root: Text
    layout: str
    bad: list[BadFile]
    summary: dict[str, Any]


def write_scan_record(path: Path, record: ScanRecord) -> None:
    """The file appears under its name only when it is complete."""
    write_whole(path, json.dumps(record.model_dump(), indent=1) + "\n")


def read_scan_record(path: Path) -> ScanRecord:
    """Raises UserError for a file that is missing, or was not written by a scan."""
    try:
        return ScanRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"no list of bad files at {path}: `evagen data scan` writes one ({error.strerror})") from error
    except ValidationError as error:
        raise UserError(
            f"{path} is not what `evagen data scan` writes; scan again to replace it, or delete it"
        ) from error


def name_in(root: Path, video: VideoPath) -> str:
    """What the list calls a video: its path from the folder of the data set where it lies inside, as text, the same on
    all systems and however the folder is written (a table names its files in a way of its own)."""
    name, folder = os.path.abspath(str(video)), os.path.join(os.path.abspath(root), "")
    inside = name.startswith(folder)  # `relpath` would take a quarter of a minute for the files of Kinetics
    return as_text(name[len(folder) :].replace(os.sep, "/") if inside else str(video))


def leave_out_bad(listing: Listing, root: Path, given: Path | None) -> Listing:
    """The listing without the videos on the list: the one given, or the one in `root` if there is one."""
    path = given or root / LIST_NAME
    if given is None and not path.is_file():
        return listing
    bad = {file.path: file for file in read_scan_record(path).bad}
    files: list[VideoFile] = []
    left_out: list[LeftOut] = []
    for file in listing.files:
        found = bad.get(name_in(root, file.path))
        if found is None or found.state != file_state(file.path):
            files.append(file)
        else:
            left_out.append(LeftOut(str(file.path), file.label, f"on the list of bad files: {found.reason}"))
    if not left_out:
        return listing
    remark = f"{len(left_out)} of the {len(listing.files)} videos in {root} are skipped, being on the list {path}"
    return replace(listing, files=files, left_out=[*listing.left_out, *left_out], remarks=[*listing.remarks, remark])
