"""A video file into a file of tokens and back: `evagen encode` and `evagen decode`.

A token file is a safetensors file: `codes` int32 (N,), all clips end to end; `lengths` int32 (clips, T), the tokens
of each temporal block; and in its header, which is JSON at the start of the file, the fields of `TokenFile`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pydantic
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from evagen.data.video_reader import VideoError, count_frames, frame_rate, iterate_frames
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.files import atomic_write
from evagen.kernels.levels import frames_to_video, video_to_frames
from evagen.models.loading import fingerprint, load_model
from evagen.tokenizer import AdaptiveTokenizer, Router, TokenizedClips, TokenizedVideo, VideoTokenizer, decode_in_chunks

Frame = TypeVar("Frame")


class TokenFile(pydantic.BaseModel):
    """What the header of a token file says. It is written for people: budgets, rates and counts are there to read;
    what decoding needs are the sizes, the frames, the frame rate and the fingerprint."""

    source: str
    """Name of the video file."""
    frames: int = pydantic.Field(ge=1)
    height: int = pydantic.Field(ge=1)
    width: int = pydantic.Field(ge=1)
    frames_per_second: float = pydantic.Field(gt=0)
    encoded_height: int = pydantic.Field(ge=1)
    """Pixels that the tokenizer saw."""
    encoded_width: int = pydantic.Field(ge=1)
    clips: int
    tokens: int
    tokens_per_second: float
    share_of_longest: float
    """Tokens relative to the longest lengths everywhere."""
    preference: float
    """w_q that the router was given, or that was found for a mean."""
    max_tokens: int | None = None
    """Bound on the tokens of each clip."""
    tokenizer_fingerprint: str | None = None

    def summary(self) -> str:
        """A few lines for the terminal."""
        bound = "" if self.max_tokens is None else f", at most {self.max_tokens} tokens a clip"
        return (
            f"{self.source}: {self.frames} frames of {self.width}x{self.height} at {self.frames_per_second:g} a "
            f"second, encoded at {self.encoded_width}x{self.encoded_height}\n"
            f"{self.clips} clips, {self.tokens} tokens, {self.tokens / self.clips:.1f} a clip, "
            f"{self.tokens_per_second:.1f} a second; {self.share_of_longest:.1%} of the longest lengths\n"
            f"preference {self.preference:g}{bound}"
        )


@dataclass(frozen=True)
class VideoFrames:
    """The frames of a file, float (C, H, W) in [-1, 1], decoded anew each time they are gone through."""

    path: Path

    def __iter__(self) -> Iterator[Tensor]:
        frames = (frames_to_video(frame[None])[:, 0] for frame in iterate_frames(self.path))
        return _with_bar(frames, count_frames(self.path), "reading")


def encode_file(
    video: Path,
    out: Path,
    tokenizer: str,
    router: str,
    short_side: int | None = None,
    clips_per_chunk: int = 4,
    *,
    preference: float | None = None,
    max_tokens: int | None = None,
    mean_tokens: float | None = None,
) -> TokenFile:
    """Encodes one video file; the dials are those of `AdaptiveTokenizer.encode`. Returns what the header says.

    Raises UserError for a file that is no whole video, for models that do not go together, and for dials that
    exclude each other or cannot be met."""
    if out.suffix != ".safetensors":
        raise UserError(f"tokens are written as safetensors: the name of {out} should end in .safetensors")
    device = PartialState().device
    encoder, assigner = load_model(VideoTokenizer, tokenizer, device), load_model(Router, router, device)
    try:
        rate = frame_rate(video)
        model = AdaptiveTokenizer(encoder, assigner, short_side, clips_per_chunk)
        tokens = model.encode(VideoFrames(video), preference=preference, max_tokens=max_tokens, mean_tokens=mean_tokens)
    except (VideoError, ValueError) as error:
        raise UserError(str(error)) from error
    about = _about(video.name, tokens, rate, encoder)
    write_token_file(out, tokens.tokens, about)
    return about


def decode_file(tokens: Path, out: Path, tokenizer: str, clips_per_chunk: int = 4) -> None:
    """Decodes a token file into a video of as many frames, of the same size and frame rate; where the format has
    even sizes only (.mp4, .avi), an odd one gains a row or column.

    Raises UserError for a file that holds no tokens, and for tokens of another tokenizer."""
    clips, about = read_token_file(tokens)
    model = load_model(VideoTokenizer, tokenizer, PartialState().device)
    found = fingerprint(model)
    if about.tokenizer_fingerprint not in (None, found):
        raise UserError(
            f"{tokens} holds tokens of tokenizer {about.tokenizer_fingerprint}, the one at {tokenizer} is {found}: "
            "give the one that they were encoded with"
        )
    video = TokenizedVideo(
        clips, about.frames, (about.height, about.width), (about.encoded_height, about.encoded_width),
        about.preference, about.max_tokens,
    )  # fmt: skip
    frames = (frame for piece in decode_in_chunks(model, video, clips_per_chunk) for frame in video_to_frames(piece))
    try:
        write_video(out, _with_bar(frames, about.frames, "decoding"), about.frames_per_second)
    except ValueError as error:
        raise UserError(f"{tokens}: {error}") from error


def write_token_file(path: Path, tokens: TokenizedClips, about: TokenFile) -> None:
    """Writes tokens and header; the file appears under its name only when it is complete."""
    tensors = {"codes": tokens.codes.int(), "lengths": tokens.lengths.int()}
    # One entry: safetensors writes several in an order that changes, and equal videos should make equal files.
    header = {"evagen": about.model_dump_json(exclude_none=True)}
    with atomic_write(path) as unfinished:
        save_file(tensors, unfinished, header)


def read_token_file(path: Path) -> tuple[TokenizedClips, TokenFile]:
    """Tokens and header. Raises UserError for a file that `write_token_file` did not write."""
    try:
        with safe_open(path, framework="pt") as file:
            about = TokenFile.model_validate_json((file.metadata() or {})["evagen"])
            codes, lengths = file.get_tensor("codes"), file.get_tensor("lengths")
    except FileNotFoundError as error:
        raise UserError(f"there is no token file at {path}") from error
    except (OSError, SafetensorError, KeyError, pydantic.ValidationError) as error:
        raise UserError(f"{path} is not a whole token file as `evagen encode` writes it ({error})") from error
    return TokenizedClips(codes.long(), lengths.long()), about


def _about(source: str, tokens: TokenizedVideo, rate: float, tokenizer: VideoTokenizer) -> TokenFile:
    return TokenFile(
        source=source,
        frames=tokens.num_frames,
        height=tokens.size[0],
        width=tokens.size[1],
        frames_per_second=rate,
        encoded_height=tokens.encoded_size[0],
        encoded_width=tokens.encoded_size[1],
        clips=tokens.num_clips,
        tokens=tokens.num_tokens,
        tokens_per_second=tokens.num_tokens * rate / tokens.num_frames,
        share_of_longest=tokens.num_tokens / (tokens.num_clips * tokenizer.assignments.max_tokens),
        preference=tokens.preference,
        max_tokens=tokens.max_tokens,
        tokenizer_fingerprint=fingerprint(tokenizer),
    )


def _with_bar(frames: Iterable[Frame], total: int, what: str) -> Iterator[Frame]:
    yield from tqdm(frames, total=total, desc=what, unit="frame", dynamic_ncols=True)
