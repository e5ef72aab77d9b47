"""The named protocols, all of them: the table and the look-up. Scores of different protocols do not compare.

protocol = get_protocol("larp-ucf101-class2video")
"""

import difflib

from evagen.eval import evatok_protocols, larp_protocols
from evagen.eval.clip_choice import ClipChoice
from evagen.eval.frames import FramePreparation
from evagen.eval.larp_protocols import DECODER
from evagen.eval.network_input import NetworkInput
from evagen.eval.protocol import Protocol

UCF101_VIDEOS = 13_320
"""Videos of UCF-101's training and test list together."""

STYLEGANV = Protocol(
    name="styleganv-fvd2048-16f",
    task="generation",
    dataset="ucf101",
    split="all",
    clips=ClipChoice("random", first_videos=2_048),
    frames=FramePreparation(256, "lanczos", "floor", "round"),
    num_real=2_048,
    num_generated=2_048,
    network_input=NetworkInput(rounding="nearest"),
    explanation=(
        "StyleGAN-V's fvd2048_16f. The real side is one clip of 16 consecutive frames, at a random place, of each of "
        "the first 2,048 videos of at least 16 frames in the order of their names; of UCF-101 this takes training and "
        "test list together, and the first 2,048 videos are those of the first sixteen classes or so. Frames are "
        "resized by Pillow's Lanczos filter to the model's resolution (256 unless changed) and cropped. 2,048 "
        "clips are generated, for labels that are drawn from all videos, and so of all classes. They are rounded to 8 "
        "bits, and I3D takes the bytes and scales them itself."
    ),
    differences=(
        "the original draws the places unseeded, here they follow from a seed and the path",
        "the original's real frames went through JPEG files (Pillow's quality 75, since its script names the setting "
        "`q`), here they do not",
        DECODER.replace("decord", "moviepy"),
    ),
    sources=(
        "github.com/universome/stylegan-v: src/metrics, src/training/dataset.py, "
        "src/scripts/convert_videos_to_frames.py",
        "Skorokhodov et al. 2022, arXiv 2112.14683",
    ),
)

CDFVD = Protocol(
    name="cdfvd",
    task="generation",
    dataset="ucf101",
    split="all",
    clips=ClipChoice("random"),
    frames=FramePreparation(256, "bilinear", "ceil", "floor"),
    num_real=UCF101_VIDEOS,
    num_generated=2_048,
    network_input=NetworkInput(rounding="truncate", network_size=224),
    explanation=(
        "FVD as the package cd-fvd computes it with I3D. The real side is one clip of 16 consecutive frames, at a "
        "random place, of every video of UCF-101's training and test lists; short side to 256 pixels by default "
        "(bilinear, antialiased, the long side rounded up), centre crop. 2,048 generated clips. Floats are cut off, "
        "not rounded, to 8 bits, then resized to 224×224 bilinearly without antialiasing, then scaled to [-1, 1]."
    ),
    differences=(
        "the original uses i3d_pretrained_400.pt, another port of the same network, whose distances are nearly those "
        "of the TorchScript file used here (JunyaoHu/common_metrics_on_video_quality, issue 4)",
        "the original's places depend on the workers of its loader, here they follow from a seed and the path",
        "where a video is too short the original takes the next one twice, here it is left out",
    ),
    sources=(
        "github.com/songweige/content-debiased-fvd: cdfvd/fvd.py, utils/data_utils.py, third_party/i3d/utils.py",
        "Ge et al. 2024, arXiv 2404.12391",
    ),
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        larp_protocols.LARP_RECON,
        larp_protocols.LARP_CLASS2VIDEO,
        larp_protocols.ADAPTOK_RECON,
        evatok_protocols.UCF101_RECON,
        evatok_protocols.UCF101_CLASS2VIDEO,
        evatok_protocols.UCF101_CLASS2VIDEO_GPT_B,
        evatok_protocols.K600_PREDICTION,
        evatok_protocols.WEBVID_RECON,
        larp_protocols.LARP_PREDICTION,
        larp_protocols.PASTE_GIVEN,
        larp_protocols.PREDICTED_ONLY,
        STYLEGANV,
        CDFVD,
        larp_protocols.HELDOUT,
    )
}
"""All protocols by their names."""


def get_protocol(name: str) -> Protocol:
    """The protocol of this name. Raises ValueError, which names the nearest, where there is none."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    nearest = difflib.get_close_matches(name, PROTOCOLS, n=1, cutoff=0.0)
    raise ValueError(f"there is no protocol {name!r}; did you mean {nearest[0]!r}? There are: {', '.join(PROTOCOLS)}")
