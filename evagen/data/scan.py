"""`evagen data scan`: which files of a data set are bad, and what the others are.

Every video is decoded from end to end, in parallel, each within a time limit. The bad ones are written to a list that
the loaders leave out. Good ones are remembered (see `file_memory`), so a scan that was stopped goes on where it was.
"""

import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evagen.data.check import VideoFacts, check_all
from evagen.data.file_memory import FileMemory, State, file_state
from evagen.data.found_files import LIST_NAME
from evagen.data.huggingface import is_saved
from evagen.data.kinetics import is_list, lists_in
from evagen.data.layouts import Listing, VideoFile
from evagen.data.skip_list import BadFile, ScanRecord, name_in, write_scan_record
from evagen.data.sources import VideoSource, list_source
from evagen.data.ucf101 import LISTS
from evagen.data.video_file import VideoPath, holding_file
from evagen.errors import UserError
from evagen.kernels.files import check_writable, num_cores
from evagen.kernels.names import as_line, as_text
from evagen.kernels.words import counted

_SAVE_SECONDS = 10
"""A scan that is killed forgets what it checked since."""


def scan(
    source: VideoSource, workers: int | None = None, seconds_per_file: float = 60, out: Path | None = None
) -> tuple[ScanRecord, Path]:
    """Checks all videos of a data set, of all splits, and writes what it found to `out`, by default a file in the
    folder of the data set. Returns that and where it is.

    workers: processes, None for one on each core. seconds_per_file: to decode it in, and two for each of its megabytes;
    a file that takes longer is bad.
    The record's `summary` holds files, bad, hours, gigabytes, frames (least, median, most in a file), varying_rate
    and fewer_frames_than_said (numbers of files), remarks, and how many files there are of each of sizes
    (`320x240`), frames_per_second, codecs and classes.
    Raises UserError for a data set that cannot be listed, or a place that cannot be written to."""
    if out is None and not source.root.is_dir():
        raise UserError(
            f"no folder at {source.root}: give that of the data set; for a name on the hub say with --out where the "
            "list of bad files goes"
        )
    out = out or source.root / LIST_NAME
    try:
        check_writable(out)
    except OSError as error:
        raise UserError(
            f"the list of bad files cannot be written to {out} ({error.strerror}); give another place with --out, and "
            "loaders the same with data.skip_list"
        ) from error
    listing = list_source(source, "all")
    facts, reasons = _check(listing.files, workers or num_cores(), seconds_per_file)
    bad = [
        BadFile(path=name_in(source.root, file.path), reason=reasons[file.path], state=file_state(file.path))
        for file in listing.files
        if file.path in reasons
    ]
    summary = _summary(listing, facts, len(bad))
    record = ScanRecord(root=str(source.root), layout=source.layout, bad=bad, summary=summary)
    write_scan_record(out, record)
    return record, out


def guess_layout(root: Path) -> str:
    """By what lies in the folder: `ucfTrainTestlist`, a saved data set, Kinetics' lists, else `folder`; a name on the
    hub, where there is no folder."""
    if not root.is_dir() or is_saved(root):
        return "huggingface"
    if (root / LISTS).is_dir() or (root / "classInd.txt").is_file():
        return "ucf101"
    return "kinetics" if any(map(is_list, lists_in(root))) else "folder"


def describe(record: ScanRecord, shown: int = 20) -> str:
    """What a scan found, as short text."""
    summary, bad = record.summary, record.bad
    hours, frames = summary["hours"], summary["frames"]
    lines = [
        f"{counted(summary['files'], 'file')} ({record.layout}), {hours:.2f} hours, {summary['gigabytes']:.3g} GB; "
        f"{len(bad)} bad",
        _counts("sizes", summary["sizes"]),
        _counts("frames per second", summary["frames_per_second"]),
        _counts("codecs", summary["codecs"]),
        f"  {'frames in a file':<18} {frames['least']} to {frames['most']}, median {frames['median']}",
        _classes(summary["classes"]),
    ]
    if summary["varying_rate"]:
        lines.append(f"  {'varying rate':<18} {counted(summary['varying_rate'], 'file')}")
    if summary["fewer_frames_than_said"]:
        files = counted(summary["fewer_frames_than_said"], "file holds", "files hold")
        lines.append(f"  {files} fewer frames than promised")
    told = [*summary["remarks"], *(f"bad: {file.path}: {file.reason}" for file in bad[:shown])]
    lines += [f"  {as_line(line, sys.maxsize)}" for line in told]
    if len(bad) > shown:
        lines.append(f"  and {counted(len(bad) - shown, 'more bad file')}")
    return "\n".join(lines)


def _check(
    files: Sequence[VideoFile], workers: int, seconds_per_file: float
) -> tuple[dict[VideoPath, VideoFacts], dict[VideoPath, str]]:
    """Facts of the good videos, reasons of the bad ones, by path."""
    facts: dict[VideoPath, VideoFacts] = {}
    reasons: dict[VideoPath, str] = {}
    videos = list(dict.fromkeys(file.path for file in files))
    with FileMemory("checked_videos") as memory:
        known = memory.recall([as_text(str(video)) for video in videos])
        for video in videos:
            before = known.get(as_text(str(video)))
            if before is not None and before[0] == file_state(video):
                facts[video] = VideoFacts(**before[1])
        new: list[tuple[str, State, dict]] = []
        saved = time.monotonic()
        bar = tqdm(total=len(videos), initial=len(facts), unit="file", desc="scan", dynamic_ncols=True)
        try:
            unknown = [video for video in videos if video not in facts]
            for checked, result in check_all(unknown, workers, seconds_per_file):
                bar.update()
                if isinstance(result, str):
                    reasons[checked] = result
                    continue
                facts[checked] = result
                if (state := file_state(checked)) is not None:
                    new.append((as_text(str(checked)), state, asdict(result)))
                if time.monotonic() - saved > _SAVE_SECONDS:
                    memory.remember(new)
                    new, saved = [], time.monotonic()
        finally:
            memory.remember(new)
            bar.close()
    return facts, reasons


def _summary(listing: Listing, facts: dict[VideoPath, VideoFacts], num_bad: int) -> dict[str, Any]:
    good = list(facts.values())
    frames = [fact.frames for fact in good] or [0]
    labels = Counter(file.label for file in listing.files)
    holding = {holding_file(video) for video in facts}
    return {
        "files": len(listing.files),
        "bad": num_bad,
        "hours": round(sum(fact.seconds for fact in good) / 3600, 4),
        "gigabytes": sum((file_state(path) or (0, 0))[0] for path in holding) / 1e9,
        "frames": {"least": min(frames), "median": int(statistics.median(frames)), "most": max(frames)},
        "varying_rate": sum(fact.varying for fact in good),
        "fewer_frames_than_said": sum(fact.frames < fact.counted for fact in good),
        "sizes": _most_common(f"{fact.width}x{fact.height}" for fact in good),
        "frames_per_second": _most_common(f"{fact.frames / fact.seconds:.4g}" for fact in good if fact.seconds),
        "codecs": _most_common(fact.codec for fact in good),
        "classes": {name: labels[label] for label, name in enumerate(listing.class_names)},
        "remarks": list(map(as_text, listing.remarks)),
    }


def _most_common(values: Iterator[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _counts(name: str, counts: dict[str, int], shown: int = 5) -> str:
    parts = [f"{value} ({count})" for value, count in list(counts.items())[:shown]]
    if len(counts) > shown:
        parts.append(f"and {len(counts) - shown} others")
    return f"  {name:<18} {', '.join(parts) or 'none'}"


def _classes(classes: dict[str, int]) -> str:
    few_many = f", {min(classes.values())} to {max(classes.values())} files each" if classes else ""
    return f"  {'classes':<18} {len(classes)}{few_many}"
