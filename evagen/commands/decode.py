"""`evagen decode`: a file of tokens into a video file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import PartialState
from tqdm.auto import tqdm

from evagen.data.token_file import TokenFile, read_token_file
from evagen.data.video_writer import check_name, write_video
from evagen.kernels.files import check_writable
from evagen.kernels.levels import video_to_frames
from evagen.models.inference import RunPrecision, autocast_to, precision_on
from evagen.models.loading import load_model, tokenizer_of
from evagen.tokenizer import VideoTokenizer, decode_in_chunks


@dataclass(frozen=True)
class OpenedTokens:
    """A token file that is being decoded. tokens: of each block of time; frames: uint8 (H, W, 3) one by one;
    frames_a_block: of a temporal block."""

    about: TokenFile
    tokens: list[int]
    frames: Iterator[np.ndarray]
    frames_a_block: int


def main(
    tokens: Path, out: Path, tokenizer: str | None, clips_per_chunk: int = 4, precision: RunPrecision = "auto"
) -> None:
    """Decodes a token file into a video of as many frames, of the same size and frame rate; where the format has
    even sizes only (.mp4, .avi), an odd one gains a row or column.

    tokenizer: if None, the one in the box that the tokens are of. Raises UserError for a file that holds no tokens, and
    for tokens of another tokenizer; OSError where the video cannot be written, before anything is decoded."""
    check_name(out)  # and the place, before models are loaded and a long video is decoded
    check_writable(out)
    opened = open_tokens(tokens, tokenizer, clips_per_chunk, precision)
    write_video(out, opened.frames, opened.about.frames_per_second)


def open_tokens(tokens: Path, tokenizer: str | None, clips_per_chunk: int, precision: RunPrecision) -> OpenedTokens:
    """A token file and the frames that it holds, decoded as they are asked for. Raises UserError as `main` does."""
    clips, about = read_token_file(tokens)
    tokenizer = tokenizer or tokenizer_of(about.tokenizer_fingerprint)
    model = load_model(VideoTokenizer, tokenizer, PartialState().device)
    video = about.video(clips, model, str(tokens), tokenizer)
    lengths = video.over_time(about.tiles).tolist()
    chosen = precision_on(precision, model.device)

    def frames() -> Iterator[np.ndarray]:
        pieces = decode_in_chunks(model, video, clips_per_chunk)
        while True:
            with autocast_to(chosen, model.device):  # not for whoever takes the frames
                piece = next(pieces, None)
            if piece is None:
                return
            yield from video_to_frames(piece)

    shown = tqdm(frames(), total=about.frames, desc="decoding", unit="frame", dynamic_ncols=True)
    return OpenedTokens(about, lengths, iter(shown), model.config.temporal_patch)
