"""Goes on training the tokenizer in the box on a folder of videos, and says what that gained on held-out ones.

python examples/fine_tune.py videos 300     # 300 steps; leaves runs/fine-tuned

The games' tokenizer is the quick one to tune; for videos of cameras put BOX = "evagen/natural", which takes longer.
Folders `videos/train` and `videos/test` are the two parts; without them both are all videos, and the gain is no proof.
"""

import sys
from pathlib import Path

import torch

from evagen.commands import COMMANDS
from evagen.data.clips import ClipDataset
from evagen.data.loader import collate_clips
from evagen.data.sources import DataConfig
from evagen.eval import psnr
from evagen.tokenizer import Router, VideoTokenizer

BOX = "evagen/arcade"
if len(sys.argv) < 2:
    sys.exit(__doc__)
folder, steps = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "300"
before, router = VideoTokenizer.from_pretrained(BOX), Router.from_pretrained(BOX)
shape = {key: value for key, value in before.config.items() if not key.startswith("_")}
frames, size = shape.pop("num_frames"), shape.pop("resolution")

train = COMMANDS["train-tokenizer"]
overrides = [f"model.{key}={'null' if value is None else value}" for key, value in shape.items()]
overrides += [f"data.root={folder}", "data.layout=folder", f"data.frames={frames}", f"data.size={size}"]
overrides += [f"start_from={BOX}", f"router={BOX}", "held_out.clips=0", f"optimizer.steps={steps}"]
tuned = train.run(train.load("quickstart/final", [*overrides, "run.out=runs/fine-tuned"]))

splits = (folder / "train").is_dir() and (folder / "test").is_dir()
held_out = DataConfig(
    root=folder, layout="folder", split="test" if splits else "all", frames=frames, size=size, clip="first", limit=16
)
video = collate_clips(list(ClipDataset(held_out))).video  # B C F H W in [-1, 1]
lengths = router.assign(video, preference=1.3)
with torch.no_grad():
    for name, tokenizer in (("before", before), ("after", VideoTokenizer.from_pretrained(tuned))):
        rebuilt = tokenizer.decode(tokenizer.encode(video, lengths)).clamp(-1, 1)
        print(f"{name}: PSNR {psnr(rebuilt, video).mean():.2f} dB at {lengths.sum(1).float().mean():.0f} tokens a clip")
print(tuned)
