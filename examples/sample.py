"""Writes clips of one class with the generator in the box, of lengths that it likes and of the shortest.

python examples/sample.py              # the first class that the model knows
python examples/sample.py Boxing 4     # four clips of this class
"""

import sys

import numpy as np

from evagen import VideoPipeline
from evagen.data.video_writer import write_video

pipeline = VideoPipeline.from_pretrained("evagen/arcade")
name = sys.argv[1] if len(sys.argv) > 1 else pipeline.generator.config.class_names[0]
count = int(sys.argv[2]) if len(sys.argv) > 2 else 2

shortest = pipeline.tokenizer.assignments.levels[0]
for way, lengths in (("free", None), ("cheapest", [shortest] * pipeline.tokenizer.assignments.num_blocks)):
    written = pipeline(name, num_videos_per_class=count, seed=1, lengths=lengths, output_type="pil")
    for number, (frames, tokens) in enumerate(zip(written.frames, written.tokens)):
        path = f"{name}_{way}_{number}.mp4"
        write_video(path, map(np.asarray, frames), fps=15)
        print(f"{path}: {tokens.lengths.sum()} tokens, by block {tokens.lengths.tolist()}")
