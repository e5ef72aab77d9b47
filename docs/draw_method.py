"""Draws the pictures of `docs/method.md` from a finished quickstart: python docs/draw_method.py runs/quickstart docs"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from evagen.data.clips import ClipDataset
from evagen.data.loader import collate_clips
from evagen.data.sources import DataConfig
from evagen.eval import motion_explained, moving_errors, psnr
from evagen.kernels.levels import video_to_frames
from evagen.tokenizer import Router, TokenizedClips, VideoTokenizer

BLOCK = 4
"""Frames."""
PREFERENCE = 1.3
PREFERENCES = (0.8, 1.0, 1.2, 1.4, 1.6)
BAR, NOTE = "#6e788c", "#b02f4f"


def main(run: Path, out: Path, clips_of_class: int = 16) -> None:
    tokenizer, router = VideoTokenizer.from_pretrained(run / "final"), Router.from_pretrained(run / "router")
    data = DataConfig(
        root=run / "arcade", layout="ucf101", split="test", size=tokenizer.config.resolution, clip="first",
        limit=clips_of_class * len(list((run / "samples").glob("*/"))),
    )  # fmt: skip
    batch = collate_clips(list(ClipDataset(data)))
    with torch.no_grad():
        draw_lengths(tokenizer, router, batch.video, batch.label.tolist(), out / "method_lengths.png")
        draw_dial(tokenizer, router, batch.video, out / "method_dial.png")
        draw_writing(tokenizer, run / "samples", out / "method_writing.png")


def draw_lengths(tokenizer: VideoTokenizer, router: Router, video: Tensor, labels: list[int], path: Path) -> None:
    """A clip of each class, video B C F H W: the last frame of each block, the same rebuilt, and the tokens."""
    chosen = [labels.index(label) for label in sorted(set(labels))]
    clips = video[chosen]
    lengths = router.assign(clips, PREFERENCE)  # B T
    rebuilt = tokenizer.decode(tokenizer.encode(clips, lengths))  # B C F H W
    num_blocks = lengths.shape[1]
    widths = [1.0] * num_blocks + [0.15]  # a gap behind each clip
    figure, axes = plt.subplots(
        3, len(widths) * len(clips), figsize=(12, 2.6), height_ratios=(1, 1, 0.7), width_ratios=widths * len(clips),
        gridspec_kw={"wspace": 0.04, "hspace": 0.05},
    )  # fmt: skip
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for clip, of_blocks in enumerate(lengths.tolist()):
        for block, tokens in enumerate(of_blocks):
            top, middle, bottom = axes[:, clip * len(widths) + block]
            for axis, source in ((top, clips), (middle, rebuilt)):
                axis.imshow(video_to_frames(source[clip])[block * BLOCK + BLOCK - 1])
            bottom.bar(0, tokens, color=BAR)
            bottom.set(ylim=(0, lengths.max() * 1.5), xlim=(-0.6, 0.6))
            bottom.text(0, tokens + 3, str(tokens), ha="center", fontsize=8)
    for row, name in enumerate(("original", "rebuilt", "tokens")):
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    _save(figure, path)


def draw_dial(tokenizer: VideoTokenizer, router: Router, video: Tensor, path: Path) -> None:
    """PSNR and motion explained against tokens: of the router at several preferences, and of uniform lengths."""
    blocks = tokenizer.assignments.num_blocks
    ways = {
        "router, by preference": [router.assign(video, preference) for preference in PREFERENCES],
        "as many for every block": [torch.full((len(video), blocks), level) for level in tokenizer.config.levels],
    }
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
    for (name, choices), colour in zip(ways.items(), (NOTE, "#555555")):
        points = [_measured(tokenizer, video, lengths) for lengths in choices]
        for axis, measure in zip(axes, (1, 2)):
            axis.plot(
                [point[0] for point in points], [point[measure] for point in points], "o-", color=colour, label=name
            )
    for axis, label in zip(axes, ("PSNR, dB", "motion explained")):
        axis.set(xlabel="tokens a clip", ylabel=label)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    _save(figure, path)


def _measured(tokenizer: VideoTokenizer, video: Tensor, lengths: Tensor) -> tuple[float, float, float]:
    rebuilt = tokenizer.decode(tokenizer.encode(video, lengths)).clamp(-1, 1)
    motion = motion_explained(*map(torch.sum, moving_errors(rebuilt, video)))
    return lengths.sum(1).float().mean().item(), psnr(rebuilt, video).mean().item(), motion or 0.0


def draw_writing(tokenizer: VideoTokenizer, samples: Path, path: Path) -> None:
    """A generated clip: the sequence as it was written, and the frames that its blocks became."""
    rows = [json.loads(line) for line in (samples / "tokens.jsonl").read_text(encoding="utf-8").splitlines()]
    row = max(rows[:64], key=lambda each: len(set(each["lengths"])))
    clip = TokenizedClips(torch.tensor(row["codes"]), torch.tensor([row["lengths"]]))
    frames = video_to_frames(tokenizer.decode(clip)[0])  # F H W C
    figure, axes = plt.subplots(2, 1, figsize=(10, 1.3), height_ratios=(1, 2), layout="constrained")
    start = 0.0
    for kind, width, name in [("class", 10, row["class"]), *_parts(row["lengths"])]:
        axes[0].barh(0, width - 0.4, left=start, color={"class": "#2f6fb0", "length": NOTE}.get(kind, BAR))
        axes[0].text(start + width / 2, 0, name, ha="center", va="center", color="white", fontsize=7)
        start += width
    axes[0].set(xlim=(0, start))
    strip = np.concatenate([np.pad(frame, ((0, 0), (0, 1), (0, 0)), constant_values=255) for frame in frames], axis=1)
    axes[1].imshow(strip)
    for axis in axes:
        axis.axis("off")
    _save(figure, path)


def _parts(lengths: list[int]) -> list[tuple[str, float, str]]:
    """Of each block a length token, drawn wide enough to be read, and its content tokens."""
    parts: list[tuple[str, float, str]] = []
    for length in lengths:
        parts += [
            ("length", 5, str(length)),
            ("content", max(length, 5), f"{length} content tokens" if length > 15 else ""),
        ]
    return parts


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
