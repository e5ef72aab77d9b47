"""The protocols of LARP and AdapTok, and those that differ from them in one thing, as read in their code."""

from dataclasses import replace

from evagen.eval.clip_choice import ClipChoice
from evagen.eval.frames import FramePreparation
from evagen.eval.network_input import NetworkInput
from evagen.eval.protocol import Protocol

UCF101_TRAIN_VIDEOS = 9_537
"""Videos of UCF-101 in the first official training list."""

LARP_FRAMES = FramePreparation(128, "bilinear", "floor", "round")

LARP_SOURCES = (
    "github.com/hywang66/LARP: sample.py, eval/rfvd_evaluator.py, datasets/video_dataset.py",
    "Wang et al. 2025, arXiv 2410.21264",
)
_ADAPTOK_SOURCES = (
    "github.com/VisionXLab/AdapTok: eval/eval_adaptok.py, sample.py",
    "Li et al. 2025, arXiv 2505.17011",
)
DECODER = "frames are decoded by FFmpeg with accurate colour conversion, the original's by decord"

LARP_RECON = Protocol(
    name="larp-ucf101-recon",
    task="reconstruction",
    dataset="ucf101",
    split="train",
    split_index=1,
    clips=ClipChoice("random", short="pad"),
    frames=LARP_FRAMES,
    num_real=UCF101_TRAIN_VIDEOS,
    num_generated=None,
    tokenizer_precision="fp16",
    explanation=(
        "rFVD as LARP reports it. One clip of 16 consecutive frames of each of the 9,537 videos of UCF-101's first "
        "training list, at a random place, short videos filled up with their last frame; short side to 128 pixels, "
        "centre crop. The same clips, encoded with the most likely codes and decoded, are the other side. Clips go "
        "into I3D as floats, without rounding to 8 bits. These are videos that the tokenizer was trained on."
    ),
    published=(("LARP-L-Long", 20.0),),
    differences=("the original draws the places unseeded, here they follow from a seed and the path", DECODER),
    sources=LARP_SOURCES,
)

ADAPTOK_RECON = replace(
    LARP_RECON,
    name="adaptok-ucf101-recon",
    clips=ClipChoice("first", short="pad"),
    explanation=(
        "rFVD as AdapTok reports it: LARP's protocol, except that each video gives its first 16 frames, so that "
        "nothing is random. 9,537 videos of UCF-101's first training list, on which the tokenizer was trained too; "
        "floats, not rounded."
    ),
    published=(("AdapTok", 28.0), ("AdapTok, its other setting", 36.0)),
    differences=(DECODER,),
    sources=_ADAPTOK_SOURCES,
)

LARP_CLASS2VIDEO = replace(
    LARP_RECON,
    name="larp-ucf101-class2video",
    task="class-to-video",
    clips=ClipChoice("all", drawn=10_000, seed=42),
    num_real=10_000,
    guidance=1.25,
    temperature=1.0,
    generator_precision="bf16",
    explanation=(
        "gFVD as LARP and AdapTok report it. All clips of 16 frames that do not overlap, of the videos of "
        "UCF-101's first training list, are numbered in the order of their paths, and 10,000 are drawn with seed 42. "
        "They are the real set, and one clip is generated for the label of each: temperature 1, neither top-k nor "
        "top-p, guidance 1.25 (LARP; AdapTok uses 1.0). Clips go into I3D as floats. The generator was trained on "
        "these videos: a model that repeats its training set scores well."
    ),
    published=(("LARP-L-Long", 57.0), ("LARP-L-Long, 343M", 102.0), ("AdapTok, guidance 1.0", 67.0)),
    differences=(DECODER,),
    sources=LARP_SOURCES + _ADAPTOK_SOURCES,
)

HELDOUT = replace(
    LARP_CLASS2VIDEO,
    name="evagen-ucf101-heldout",
    split="test",
    explanation=(
        "gFVD against videos that nothing was trained on: `larp-ucf101-class2video` in every detail, but with clips "
        "and labels of UCF-101's first test list (3,783 videos, of other recordings than the training list's). It is "
        "larger than gFVD against the training list, and it does not reward a model for repeating that."
    ),
    published=(),
    differences=(),
    sources=("this project",),
)

LARP_PREDICTION = Protocol(
    name="larp-k600-frame-prediction",
    task="frame-prediction",
    dataset="kinetics600",
    split="val",
    clips=ClipChoice("all", drawn=50_000, seed=42),
    frames=LARP_FRAMES,
    num_real=50_000,
    num_generated=None,
    network_input=NetworkInput(size=64),
    guidance=1.0,
    temperature=1.0,
    tokenizer_precision="fp32",
    generator_precision="bf16",
    given_frames=5,
    explanation=(
        "FVD of frame prediction as LARP and AdapTok report it. Of all clips of 16 frames that do not "
        "overlap, of Kinetics-600's validation videos in the order of their paths, 50,000 are drawn with seed 42. The "
        "first 5 frames of each, the fifth repeated to 16, are encoded and stand before the separator; the model then "
        "writes all 16 frames, without guidance. The frames it was given are scored as it wrote them, real ones are "
        "not put back. Both sides are resized from 128 to 64 pixels (bilinear, antialiased) before I3D enlarges them."
    ),
    published=(("LARP-L-Long", 5.1), ("LARP-L-Long, 343M", 6.2), ("AdapTok", 11.0)),
    differences=(
        DECODER,
        "which 50,000 clips are drawn depends on the order of the paths and on which videos a copy of Kinetics lacks: "
        "29,739 videos are complete here, and nobody published a list",
    ),
    sources=LARP_SOURCES,
)

PASTE_GIVEN = replace(
    LARP_PREDICTION,
    name="larp-k600-frame-prediction:paste-given",
    scored_frames="paste-given",
    explanation=(
        "`larp-k600-frame-prediction` with the 5 real frames put back over the generated ones before scoring, as "
        "several earlier papers do. It is to be expected lower, since 5 of 16 frames are then perfect."
    ),
    published=(),
)

PREDICTED_ONLY = replace(
    LARP_PREDICTION,
    name="larp-k600-frame-prediction:predicted-only",
    scored_frames="predicted-only",
    explanation=(
        "`larp-k600-frame-prediction` with the 11 predicted frames alone on both sides, which is just enough for "
        "I3D's least of 10. It is to be expected higher, since the easy frames are left out."
    ),
    published=(),
)
