"""`evagen protocols`: the protocols in words."""

import textwrap
from collections.abc import Sequence

from evagen.eval import Protocol

WIDTH = 100


def list_protocols(protocols: Sequence[Protocol]) -> str:
    """A line for each: name, task, real clips, where they are from, what papers report."""
    rows = [
        (protocol.name, protocol.task, f"{_count(protocol)} of {_videos(protocol)}", _published(protocol, 3))
        for protocol in protocols
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths)), row[3]]).rstrip() for row in rows]
    return "\n".join([*lines, "", "`evagen protocols NAME` explains one in full."])


def explain(protocol: Protocol) -> str:
    """Everything that a protocol decides, for a terminal."""
    frames, given = protocol.frames, protocol.network_input
    facts = {
        "task": protocol.task,
        "real clips": f"{_count(protocol)} of {_videos(protocol)}; place {protocol.clips.place}, "
        f"short videos are {'padded' if protocol.clips.short == 'pad' else 'left out'}, seed {protocol.clips.seed}",
        "scored clips": _other_side(protocol),
        "frames": f"{protocol.num_frames}, "
        + (
            f"{protocol.frames_per_second:g} a second, the file's nearest in time"
            if protocol.frames_per_second
            else f"every {_ordinal(protocol.stride)} of the file"
        ),
        "pixels": f"short side to {frames.size} ({frames.filter}; long side: {frames.long_side}), centre crop "
        f"({frames.crop})",
        "into the network": ", ".join(
            [
                *([f"resized to {given.size}"] if given.size else []),
                {"none": "floats", "nearest": "rounded to 8 bits", "truncate": "cut off to 8 bits"}[given.rounding],
                *([f"resized to {given.network_size} without antialiasing"] if given.network_size else []),
            ]
        ),
        "network": f"{protocol.network}, covariance over N{f' - {protocol.ddof}' if protocol.ddof else ''}",
        "sampling": _sampling(protocol),
        "precision": f"tokenizer {protocol.tokenizer_precision}"
        + (f", generator {protocol.generator_precision}" if protocol.task != "reconstruction" else ""),
        "published": _published(protocol) or "nothing",
    }
    lines = [protocol.name, "", *textwrap.wrap(protocol.explanation, WIDTH), ""]
    for name, text in facts.items():
        lines += textwrap.wrap(f"{name:<18}{text}", WIDTH, subsequent_indent=" " * 18)
    for title, texts in (("known differences from the original", protocol.differences), ("sources", protocol.sources)):
        if texts:
            lines += ["", f"{title}:"]
            for text in texts:
                lines += textwrap.wrap(text, WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join(lines)


def _count(protocol: Protocol) -> str:
    return "all clips" if protocol.num_real is None else f"{protocol.num_real:,} clips"


def _videos(protocol: Protocol) -> str:
    index = f" list {protocol.split_index}" if protocol.split_index else ""
    return f"{protocol.dataset} {protocol.split}{index}"


def _other_side(protocol: Protocol) -> str:
    if protocol.task == "reconstruction":
        return "the real clips, encoded and decoded"
    count = "one for each real clip" if protocol.num_generated is None else f"{protocol.num_generated:,}"
    if protocol.task == "frame-prediction":
        lengths = " + ".join(map(str, protocol.given_lengths))
        tokens = f", encoded with {lengths} tokens" if lengths else ""
        return f"{count}, continuing its first {protocol.given_frames} frames{tokens}; {protocol.scored_frames}"
    labels = "drawn from those of all videos" if protocol.task == "generation" else "those of the real clips"
    return f"{count}; labels are {labels}"


def _sampling(protocol: Protocol) -> str:
    names = ("guidance", "temperature", "top_k", "top_p")
    prescribed = [f"{name} {getattr(protocol, name)}" for name in names if getattr(protocol, name) is not None]
    if protocol.task == "reconstruction":
        return "none"
    return ", ".join(prescribed) if prescribed else "as the model's authors like"


def _published(protocol: Protocol, most: int | None = None) -> str:
    """most: leave out those behind so many."""
    figures = [f"{who}: {value:g}" for who, value in protocol.published]
    return "; ".join(figures[:most] + ["…"] * (len(figures[:most]) < len(figures)))


def _ordinal(number: int) -> str:
    """`every one`, `every second`, `every 21st`."""
    if number < 4:
        return ("one", "second", "third")[number - 1]
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 // 10 != 1 else "th"
    return f"{number}{ending}"
