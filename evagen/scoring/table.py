"""Records as a markdown table: a row for each model, a column for each protocol and detector, since values of different
ones do not compare. What stands in the columns is said above the table, by their numbers if there are several."""

import sys
from collections.abc import Sequence
from pathlib import Path

from evagen.errors import UserError
from evagen.kernels.names import as_line
from evagen.models.networks import gives_fvd
from evagen.scoring.record import Record, read_record

Column = tuple[str, ...]
"""What has to be equal for two scores to stand in one column."""

FOR_READING = ("explanation", "published", "differences", "sources")
"""Fields of a protocol that do not decide on a score."""
LEFT_OPEN = ("tokenizer_precision", "generator_precision")
"""Fields that do not either where a protocol leaves open how clips are generated."""


def compare(paths: Sequence[Path], published: bool = False) -> str:
    """The table of some records. published: also the figures that the protocols know from papers, in the columns of
    the unchanged protocols with I3D. Raises UserError for files that are no records, and for equal rows."""
    records = [read_record(path) for path in paths]
    labels = _labels(records, paths)
    columns = list(dict.fromkeys(column_of(record) for record in records))
    first = {column_of(record): record for record in reversed(records)}
    heads, cells = ["model"], {label: [label] for label in labels}
    if published:
        for record in first.values():
            cells |= {f"{who} (published)": [f"{who} (published)"] for who, _ in _published(record)}
    several = len(columns) > 1
    for number, column in enumerate(columns, start=1):
        rows = {label: record for label, record in zip(labels, records) if column_of(record) == column}
        figures = {label: figures_of(record) for label, record in rows.items()}
        if published:
            name = first[column].score.name
            figures |= {f"{who} (published)": {name: f"{value:g}"} for who, value in _published(first[column])}
        for figure in dict.fromkeys(name for row in figures.values() for name in row):
            heads.append(f"{figure} ({number})" if several else figure)
            for label, row in cells.items():
                row.append(figures.get(label, {}).get(figure, ""))
    titles = [f"({i}) {title}" if several else title for i, title in enumerate(_titles(columns, first), start=1)]
    return "  \n".join(titles) + "\n\n" + markdown(heads, list(cells.values()))


def column_of(record: Record) -> Column:
    """Protocol, data and detector, each in all that decides on a score."""
    without = FOR_READING + LEFT_OPEN * (record.protocol["task"] == "generation")
    protocol = {key: value for key, value in record.protocol.items() if key not in without}
    return (
        record.protocol["name"], record.score.name, record.detector.name, record.detector.fingerprint,
        record.data.clips, str(record.real_clips), str(record.generated_clips), repr(sorted(protocol.items())),
    )  # fmt: skip


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """The first columns to the left, as text, the others to the right, as figures."""
    lines = [heads, ["---"] * text_columns + ["---:"] * (len(heads) - text_columns), *rows]
    return "\n".join(
        "| " + " | ".join(as_line(cell, sys.maxsize).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def figures_of(record: Record) -> dict[str, str]:
    score = record.score
    figures = {score.name: f"{score.value:.4g} [{score.low:.4g}, {score.high:.4g}]"}
    if record.tokens:
        figures["tokens per clip"] = f"{record.tokens.tokens_per_clip:.1f}"
    if quality := record.reconstruction:
        name = "LPIPS" if quality.perceptual_network.startswith("lpips") else quality.perceptual_network
        figures |= {"PSNR, dB": f"{quality.psnr:.2f}", "SSIM": f"{quality.ssim:.4f}"}
        figures[name] = f"{quality.perceptual:.4f}"
        figures["motion explained"] = "–" if quality.motion is None else f"{quality.motion:.3f}"
    elif (moves := record.movement) and moves.real_frame_change:
        figures["change from frame to frame, of the real"] = f"{moves.frame_change / moves.real_frame_change:.2f}"
    return figures


def _titles(columns: Sequence[Column], records: dict[Column, Record]) -> list[str]:
    """Protocol, detector and counts; where that is not enough to tell two columns apart, checksums too."""
    titles = []
    for column in columns:
        record = records[column]
        counts = f"{record.real_clips:,} real, {record.generated_clips:,} scored"
        titles.append(f"{record.protocol['name']}; {record.detector.name}; {counts}")
    for twice in {title for title in titles if titles.count(title) > 1}:
        for number, (column, title) in enumerate(zip(columns, titles)):
            if title == twice:
                record = records[column]
                titles[number] = f"{title}; clips {record.data.clips}, weights {record.detector.fingerprint[:8]}"
    return titles


def _published(record: Record) -> list[tuple[str, float]]:
    if not gives_fvd(record.detector.fingerprint):
        return []
    return [(who, value) for who, value in record.protocol["published"]]


def _are_one(record: Record, other: Record) -> bool:
    """Whether two records are of one model: what both name has the same weights, and there is something."""
    both = record.models.keys() & other.models.keys()
    return bool(both) and all(record.models[name].fingerprint == other.models[name].fingerprint for name in both)


def _labels(records: Sequence[Record], paths: Sequence[Path]) -> list[str]:
    """The records' labels; where one comes twice in a column, or is of several models, with the folder."""
    seen: dict[tuple[str, Column], int] = {}
    for record in records:
        key = (record.label, column_of(record))
        seen[key] = seen.get(key, 0) + 1
    labels = []
    for record, path in zip(records, paths):
        namesakes = [other for other in records if other.label == record.label]
        twice = seen[record.label, column_of(record)] > 1 or not all(_are_one(record, other) for other in namesakes)
        labels.append(f"{record.label} ({path.parent if path.is_file() else path})" if twice else record.label)
    pairs = [(label, column_of(record)) for label, record in zip(labels, records)]
    if len(set(pairs)) < len(pairs):
        raise UserError("a record was given twice; give each once")
    return labels
