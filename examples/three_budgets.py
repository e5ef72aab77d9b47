"""Encodes a video at three budgets with the models in the box, and plots what quality each buys.

python examples/three_budgets.py my.mp4     # writes budgets.png, and my_<budget>.mp4 for each
"""

import sys
from pathlib import Path

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from evagen.data.video_reader import frame_rate, read_frames
from evagen.data.video_writer import write_video
from evagen.eval import motion_explained, moving_errors, psnr
from evagen.kernels.levels import frames_to_video, video_to_frames
from evagen.tokenizer import AdaptiveTokenizer, Router, VideoTokenizer

BOX = "evagen/natural"
if len(sys.argv) < 2:
    sys.exit(__doc__)
path = Path(sys.argv[1])
model = AdaptiveTokenizer(VideoTokenizer.from_pretrained(BOX), Router.from_pretrained(BOX))
space, rate = model.tokenizer.assignments, frame_rate(path)
video = frames_to_video(read_frames(path))  # C F H W in [-1, 1]

points = []
for share in (0.2, 0.4, 0.8):  # of the longest lengths
    budget = round(share * space.levels[-1] * space.num_blocks)
    tokens = model.encode(video, mean_tokens=budget)
    rebuilt = model.decode(tokens)  # C F H W in [-1, 1]
    motion = motion_explained(*moving_errors(rebuilt[None], video[None]))
    a_second = tokens.num_tokens * rate / video.shape[1]
    points.append((a_second, psnr(rebuilt[None], video[None]).item(), motion))
    write_video(f"{path.stem}_{budget}.mp4", video_to_frames(rebuilt), fps=rate)
    moves = "nothing moves" if motion is None else f"motion explained {motion:.2f}"
    print(f"at most {budget} tokens a clip: {a_second:.0f} a second, PSNR {points[-1][1]:.1f} dB, {moves}")

figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
spent, decibels, motions = zip(*points)
for axis, values, label in zip(axes, (decibels, motions), ("PSNR, dB", "motion explained")):
    axis.plot(spent, [torch.nan if value is None else value for value in values], "o-")
    axis.set(xlabel="tokens a second", ylabel=label)
figure.savefig("budgets.png", dpi=110)
print("budgets.png")
