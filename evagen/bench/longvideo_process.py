"""One piece of work of `bench longvideo`, in a process whose memory is its own.

python -m evagen.bench.longvideo_process encode|decode|generate FOLDER NAME SECONDS

Prints a line of JSON: peak_rss_mb, and first and last, frames a second of the first and the last ten seconds.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from evagen.ar_model import ClipRequest, ClipTokens, LengthConstraints, SamplingOptions, VideoGenerator
from evagen.ar_model.sampler import ContinuousBatch
from evagen.bench.longvideo import FRAMES_PER_SECOND
from evagen.data.token_file import TokenFile, read_token_file, write_token_file
from evagen.data.video_frames import VideoFrames
from evagen.data.video_writer import write_video
from evagen.kernels.levels import video_to_frames
from evagen.kernels.memory import peak_memory
from evagen.kernels.packed_linear import pack_linears
from evagen.tokenizer import (
    BlockRouter,
    LiveTokenizer,
    TokenizedClips,
    TokenizedVideo,
    VideoTokenizer,
    decode_in_chunks,
)

LEVELS, MEMORY, WINDOW = [4, 16, 32, 64], 4, 12
WARM = 30
"""Frames, or blocks' worth of them, that are left out at the beginning: the first ones set things up."""

Item = TypeVar("Item")


def main(work: str, folder: Path, name: str, seconds: int) -> None:
    torch.manual_seed(0)
    times = {"encode": _encode, "decode": _decode, "generate": _generate}[work](folder, name, seconds)
    peak = peak_memory() / 1e6
    count = min(10 * FRAMES_PER_SECOND, len(times) // 2)
    first = (count - WARM) / (times[count] - times[WARM])
    last = (count - WARM) / (times[-1] - times[-1 - count + WARM])
    print(json.dumps({"peak_rss_mb": peak, "first": first, "last": last}))


def _timed(items: Iterable[Item], times: list[float]) -> Iterator[Item]:
    for item in items:
        times.append(time.perf_counter())
        yield item


def _tokenizer() -> VideoTokenizer:
    torch.manual_seed(0)  # every process has the same
    model = VideoTokenizer(
        levels=LEVELS, num_frames=16, resolution=64, encoder_width=128, encoder_depth=1, encoder_heads=4,
        decoder_width=128, decoder_depth=2, decoder_heads=4, codebook_size=512, code_width=8, memory_blocks=MEMORY,
    )  # fmt: skip
    return pack_linears(model.eval())


def _encode(folder: Path, name: str, seconds: int) -> list[float]:
    router = BlockRouter(LEVELS, MEMORY, resolution=64, patch=4, width=96, depth=2, num_heads=4)
    times: list[float] = []
    live = LiveTokenizer(_tokenizer(), pack_linears(router.eval()))
    tokens = live.encode(_timed(VideoFrames(folder / f"{name}.avi"), times))
    about = TokenFile.of(tokens, live.tokenizer, FRAMES_PER_SECOND, name)
    write_token_file(folder / f"{name}.safetensors", tokens.tokens, about)
    return times


def _decode(folder: Path, name: str, seconds: int) -> list[float]:
    tokens, about = read_token_file(folder / f"{name}.safetensors")
    tokenizer = _tokenizer()
    pieces = decode_in_chunks(tokenizer, about.video(tokens, tokenizer))
    times: list[float] = []
    frames = (frame for piece in pieces for frame in video_to_frames(piece))
    write_video(folder / f"decoded_{name}.avi", _timed(frames, times), FRAMES_PER_SECOND)
    return times


class _Watched(ContinuousBatch):
    """Notes when each window is written."""

    def _unpacked(self, sequence: Tensor) -> ClipTokens:
        self.times = [*getattr(self, "times", []), time.perf_counter()]
        return super()._unpacked(sequence)


def _generate(folder: Path, name: str, seconds: int) -> list[float]:
    """Tokens and then their frames, as `evagen sample` does it; the times are those of the tokens, which take most."""
    generator = VideoGenerator(512, LEVELS, WINDOW, ["a"], 128, 4, 4, endless=True).eval()
    blocks = seconds * FRAMES_PER_SECOND // 4
    always_16 = LengthConstraints(max_length=16, bias=100)  # or the time of a block would be that of its tokens
    request = ClipRequest(0, 0, constraints=always_16, num_blocks=blocks)
    batch = _Watched(generator, [request], SamplingOptions(), 1)
    ((_, tokens),) = list(batch.run())
    whole = TokenizedClips(tokens.codes, tokens.lengths[None])
    video = TokenizedVideo(whole, blocks * 4, (64, 64), (64, 64), None, None)
    frames = (frame for piece in decode_in_chunks(_tokenizer(), video) for frame in video_to_frames(piece))
    write_video(folder / f"generated_{name}.avi", frames, FRAMES_PER_SECOND)
    new = (WINDOW - WINDOW // 2) * 4  # frames of a window; the first one, in which code is compiled, is left out
    return [a + (b - a) * (i + 1) / new for a, b in pairwise(batch.times) for i in range(new)]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
