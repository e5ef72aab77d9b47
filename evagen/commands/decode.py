"""`evagen decode`: a file of tokens into a video file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import PartialState
from tqdm.auto import tqdm

from evagen.data.token_file import TokenFile, read_token_file
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.levels import video_to_frames
from evagen.models.fit import check_same_tokenizer
from evagen.models.inference import RunPrecision, autocast_to, precision_on
from evagen.models.loading import fingerprint, load_model, tokenizer_of
from evagen.tokenizer import TokenizedVideo, VideoTokenizer, check_decodable, decode_in_chunks, num_tiles


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
    for tokens of another tokenizer."""
    opened = open_tokens(tokens, tokenizer, clips_per_chunk, precision)
    write_video(out, opened.frames, opened.about.frames_per_second)


def open_tokens(tokens: Path, tokenizer: str | None, clips_per_chunk: int, precision: RunPrecision) -> OpenedTokens:
    """A token file and the frames that it holds, decoded as they are asked for. Raises UserError as `main` does."""
    clips, about = read_token_file(tokens)
    tokenizer = tokenizer or tokenizer_of(about.tokenizer_fingerprint)
    model = load_model(VideoTokenizer, tokenizer, PartialState().device)
    check_same_tokenizer(
        about.tokenizer_fingerprint, fingerprint(model), f"{tokens} holds tokens of", tokenizer,
        "give the one that they were encoded with",
    )  # fmt: skip
    video = TokenizedVideo(
        clips, about.frames, (about.height, about.width), (about.encoded_height, about.encoded_width),
        about.preference, about.max_tokens,
    )  # fmt: skip
    chosen = precision_on(precision, model.device)
    tiles = num_tiles(model, video.encoded_size)
    if about.tiles != tiles:
        raise UserError(
            f"{tokens}: the header says {about.tiles} tiles, pictures of this size are {tiles}: encode again"
        )
    try:
        check_decodable(model, video)
        lengths = video.over_time(about.tiles).tolist()
    except ValueError as error:
        raise UserError(f"{tokens}: {error}") from error

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
