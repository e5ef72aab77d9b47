"""What a reader has before typing: videos under the names that the pages use, and small models where `make quickstart`
leaves its own. Their weights are random; what they write are real files."""

import csv
import shutil
from pathlib import Path

import torch
from datasets import Dataset, Features, Value
from PIL import Image
from tiny_larp import save_larp
from tiny_record import record
from video_fixtures import moving_frames, write_class_folders, write_ucf101

from evagen.ar_model import VideoGenerator
from evagen.data.video_writer import write_video
from evagen.models.loading import fingerprint
from evagen.sampling.pipeline import VideoPipeline
from evagen.tokenizer import Router, VideoTokenizer

GAMES = ["Boxing", "Frogger", "Frostbite", "Skiing", "TimePilot"]
LEVELS = [4, 24, 64]
"""Of the quickstart, so that what pages say of lengths can be typed."""


def prepare(root: Path) -> Path:
    """Everything under the names that pages use. Returns the folder of a pipeline, as the box holds them."""
    frames = moving_frames(24)
    for name in ("holiday.mp4", "my.mp4", "game.mp4"):
        write_video(root / name, frames, fps=25)
    write_class_folders(root / "videos", {"Boxing": 3, "Skiing": 3})
    for name in ("my_videos", "real_videos", "generated_videos", "anybodys_videos", "tokenbench"):
        for number in range(2):
            (root / name).mkdir(exist_ok=True)
            write_video(root / name / f"{number}.avi", moving_frames(100 if name == "my_videos" else 20), fps=25)
    for name in ("ucf101", "data/UCF-101"):
        write_ucf101(root / name)
    for name in ("k600", "data/k600"):
        _write_kinetics(root / name)
    write_table(root / "my_table", sorted((root / "videos").rglob("*.avi")))
    (root / "DAVIS" / "JPEGImages" / "480p" / "bear").mkdir(parents=True)
    for number, picture in enumerate(frames[:3]):
        Image.fromarray(picture).save(root / "DAVIS" / "JPEGImages" / "480p" / "bear" / f"{number:05d}.jpg")
    save_larp(root / "larp")
    (root / "notes.md").write_text("Knows games only.\n")
    record(root / "runs" / "mine" / "scores", "mine", 120.0)
    for folder, classes in (("runs/quickstart", GAMES), ("runs", ["YoYo", "Archery"])):
        _save_models(root / folder, classes)
    quickstart = root / "runs" / "quickstart"
    shutil.copytree(quickstart / "final", quickstart / "proxy")
    generator, *without = (quickstart / part for part in ("generator", "final", "router"))
    box = root / "box" / "arcade"
    for folder, models in ((box, (generator, *without)), (root / "box" / "natural", (None, *without))):
        VideoPipeline.of(*models).save_pretrained(folder)
        (folder / "README.md").write_text("Trained for no time.\n")
    return box


def write_table(folder: Path, files: list[Path]) -> None:
    """A data set of the `datasets` library, its videos in the column `clip`."""
    table = Dataset.from_dict(
        {"clip": [file.read_bytes() for file in files], "label": [file.parent.name for file in files]},
        features=Features({"clip": Value("binary"), "label": Value("string")}),
    )
    table.save_to_disk(folder)


def _write_kinetics(root: Path) -> None:
    for split in ("train", "val"):
        rows = []
        for number in range(3):
            name = f"{split[0]}{number:010d}"
            path = root / split / "abseiling" / f"{name}_000000_000010.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, moving_frames(20, seed=number + (split == "val") * 9), fps=25)
            rows.append(["abseiling", name, 0, 10, split])
        with (root / f"{split}.csv").open("w") as file:
            csv.writer(file).writerows([["label", "youtube_id", "time_start", "time_end", "split"], *rows])


def _save_models(folder: Path, classes: list[str]) -> None:
    torch.manual_seed(0)
    clips = {"levels": LEVELS, "num_frames": 16, "resolution": 64}
    tokenizer = VideoTokenizer(
        **clips, encoder_width=32, encoder_depth=1, encoder_heads=2, decoder_width=32, decoder_depth=1,
        decoder_heads=2, codebook_size=64, code_width=8,
    ).eval()  # fmt: skip
    tokenizer.save_pretrained(folder / "final")
    Router(**clips, downscale=4, patch=8, width=32, depth=1, num_heads=2).save_pretrained(folder / "router")
    VideoGenerator(
        64, LEVELS, 4, width=32, depth=1, num_heads=2, class_names=classes, tokenizer_fingerprint=fingerprint(tokenizer)
    ).save_pretrained(folder / "generator")
