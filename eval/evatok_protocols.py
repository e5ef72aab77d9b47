"""The protocols of EVATok (arXiv 2603.12267 with its supplement), read in the paper. What the paper leaves open follows
LARP, whom it compares itself with; every entry says under `differences` what that is."""

from dataclasses import replace

from evagen.eval.clip_choice import ClipChoice
from evagen.eval.larp_protocols import LARP_CLASS2VIDEO, LARP_FRAMES, LARP_PREDICTION, LARP_RECON
from evagen.eval.protocol import Protocol

_PAPER = "Xiong et al. 2026, arXiv 2603.12267"
_OPEN = (
    "the paper does not say which I3D, how frames are decoded, resized, cropped and rounded, or in which precision the "
    "models compute: frames and I3D are as in LARP's protocols here, and precision is fp32"
)

UCF101_RECON = replace(
    LARP_RECON,
    name="evatok-ucf101-recon",
    tokenizer_precision="fp32",
    explanation=(
        "rFVD as EVATok reports it, on the training set of UCF-101 at the videos' own frame rate, clips of 16 frames "
        "at 128 pixels. With the router of preference 1.2 the final tokenizer spends 774 tokens a clip and also has "
        "LPIPS 0.1140 and PSNR 25.75 (1,000k steps, with the VideoMAE discriminator); after 400k steps LPIPS is "
        "0.1212, and 0.1303 with 256 tokens for every block. Which clip of each video is scored is LARP's rule: one "
        "at a random place, 9,537 in all. These are videos that the tokenizer was trained on."
    ),
    published=(
        ("EVATok, 774 tokens", 9.7),
        ("EVATok, 774 tokens, 400k steps", 13.0),
        ("EVATok, 1,024 tokens, 400k steps", 13.0),
        ("EVATok, 1,024 tokens, 400k steps, no V-JEPA 2", 18.0),
        ("EVATok, 1,024 tokens, 400k steps, no VideoMAE", 65.0),
        ("EVATok, 1,024 tokens, 400k steps, neither", 80.0),
    ),
    differences=(
        _OPEN,
        "the paper says neither which of UCF-101's three training lists it means nor which clips of its videos",
        "the paper does not say which network is behind its LPIPS; LARP's is VGG16's",
    ),
    sources=(f"{_PAPER}: sections 4.1 and 4.5, supplement H, tables 2, 3, 5 and 6",),
)

UCF101_CLASS2VIDEO = replace(
    LARP_CLASS2VIDEO,
    name="evatok-ucf101-class2video",
    guidance=1.75,
    tokenizer_precision="fp32",
    generator_precision="fp32",
    explanation=(
        "gFVD as EVATok reports it of its larger generators (327M and 633M): 10,000 generated samples of UCF-101, "
        "guidance 1.75 throughout the clip. No router is used: the generator writes the lengths, 756 tokens a clip on "
        "average. Real clips and labels are drawn as LARP draws them, 10,000 of the first training list with seed 42. "
        "For GPT-B (99M) there is `evatok-ucf101-class2video:gpt-b`, with its guidance. The paper's pictures (figure "
        "9) were drawn with guidance 3.0. The generator was trained on these videos."
    ),
    published=(("EVATok, 633M", 48.0), ("EVATok, 327M", 62.0)),
    differences=(
        _OPEN,
        "the paper does not say which real clips and labels stand against the 10,000 samples, nor the temperature: "
        "both are LARP's here",
    ),
    sources=(f"{_PAPER}: sections 4.3 and 4.4, table 3, supplement H (AR inference)",),
)

UCF101_CLASS2VIDEO_GPT_B = replace(
    UCF101_CLASS2VIDEO,
    name="evatok-ucf101-class2video:gpt-b",
    guidance=2.5,
    explanation=(
        "`evatok-ucf101-class2video` with the guidance that EVATok uses for GPT-B (99M), its smallest generator: 2.5 "
        "throughout the clip. It is the one behind the paper's ablations, on tokenizers of 400k steps; the generator "
        "writes 740 tokens a clip on average, or 1,024 where every block has 256."
    ),
    published=(
        ("EVATok GPT-B, 740 tokens", 96.0),
        ("EVATok GPT-B, 1,024 tokens", 98.0),
        ("EVATok GPT-B, 1,024 tokens, no V-JEPA 2", 144.0),
        ("EVATok GPT-B, 1,024 tokens, no VideoMAE", 155.0),
        ("EVATok GPT-B, 1,024 tokens, neither", 230.0),
    ),
    sources=(f"{_PAPER}: sections 4.3 and 4.5, tables 2 and 5, supplement H (AR inference)",),
)

K600_PREDICTION = replace(
    LARP_PREDICTION,
    name="evatok-k600-frame-prediction",
    given_lengths=(512, 128),
    tokenizer_precision="fp32",
    generator_precision="fp32",
    explanation=(
        "FVD of frame prediction as EVATok reports it, on Kinetics-600 without guidance. The 5 given frames, the "
        "fifth repeated to 8, are two blocks, which always have 512 and 128 tokens. The model then writes the whole "
        "clip, the given frames included, 862 tokens on average (it was trained on clips whose first two blocks have "
        "512 and 128). Which clips, their number and size, and that all 16 frames are scored as written, is as in "
        "`larp-k600-frame-prediction`."
    ),
    published=(("EVATok, 633M", 4.0), ("EVATok, 327M", 4.6)),
    differences=(
        _OPEN,
        "the paper does not say which clips of which split are continued, how many, or at what size they are scored: "
        "50,000 of the validation videos at 64 pixels here, as LARP",
        "the paper says that the given frames are generated too, as LARP and AdapTok do, and not whether they are "
        "scored so: they are here",
        LARP_PREDICTION.differences[-1],
    ),
    sources=(f"{_PAPER}: sections 4.1 and 4.4, tables 3 and 4, figure 10",),
)

WEBVID_RECON = Protocol(
    name="evatok-webvid-recon",
    task="reconstruction",
    dataset="webvid",
    split="val",
    frames_per_second=3,
    clips=ClipChoice("random", short="pad"),
    frames=LARP_FRAMES,
    num_real=None,
    num_generated=None,
    explanation=(
        "rFVD as EVATok reports it, on WebVid's validation videos at 3 frames a second: clips of 16 frames at 128 "
        "pixels, which is five seconds. With the router of preference 1.2 a clip has 721 tokens. After 1,000k steps "
        "PSNR is 27.37 and LPIPS 0.1063 with the VideoMAE discriminator, 28.18 and 0.0983 without. After 400k steps "
        "they are 26.90 and 0.1144 with it, 27.68 and 0.1068 without; with 256 tokens for every block 26.68 and "
        "0.1197, and 27.77 and 0.1056. One clip of each video, at a random place; frame i is the one nearest to i/3 "
        "seconds after the first. `data.root` holds the folders `train`, which may be empty, and `val`."
    ),
    published=(
        ("EVATok, 721 tokens", 7.3),
        ("EVATok, 721 tokens, no VideoMAE", 32.0),
        ("EVATok, 721 tokens, 400k steps", 9.2),
        ("EVATok, 721 tokens, 400k steps, no VideoMAE", 33.0),
        ("EVATok, 1,024 tokens, 400k steps", 13.0),
        ("EVATok, 1,024 tokens, 400k steps, no VideoMAE", 63.0),
        ("EVATok proxy, 721 tokens, 400k steps", 50.0),
        ("EVATok proxy, 1,024 tokens, 400k steps", 73.0),
    ),
    differences=(
        _OPEN,
        "the paper does not say how many validation videos it had or which clips of them it takes; WebVid is no longer "
        "handed out, so copies differ, and nothing checks that these are all of its validation videos",
        "the paper takes frames as VidTok does, whose code rounds the distance between frames to a whole number and "
        "then stretches the clip by one frame; here each frame is the nearest in time",
        "the paper does not say which network is behind its LPIPS; LARP's is VGG16's",
    ),
    sources=(
        f"{_PAPER}: section 4.3, tables 1 and 6, supplement H",
        "github.com/microsoft/VidTok: vidtok/data/video_read.py, configs (sample_fps 3)",
    ),
)
