"""Token files, which hold one video as tokens.

    about = TokenFile.of(tokens, tokenizer, frames_per_second=25)   # of AdaptiveTokenizer.encode or LiveTokenizer's
    write_token_file("a.safetensors", tokens.tokens, about)
    clips, about = read_token_file("a.safetensors")
    tokens = about.video(clips, tokenizer)                          # as `decode` takes them

A token file is a safetensors file: `codes` int32 (N,), all clips end to end; `lengths` int32 (clips, T), the tokens
of each temporal block, where a video of a tokenizer with a memory is one clip; and in its header, which is JSON at the
start of the file, the fields of `TokenFile`.
"""

import os
from pathlib import Path
from typing import Annotated

import pydantic
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from evagen.data.frame_times import SLOWEST
from evagen.errors import UserError
from evagen.kernels.files import atomic_write, json_object, words_of
from evagen.kernels.words import counted
from evagen.models.fit import check_same_tokenizer
from evagen.models.loading import fingerprint
from evagen.tokenizer import Rate, TokenizedClips, TokenizedVideo, VideoTokenizer, check_decodable, num_tiles

LARGEST_HEADER = 2**16
"""Bytes."""
MOST_PIXELS = 2**25
"""Of a picture: an 8K video has 33.2 million. What a header asks for is allocated when it is decoded."""
STORED_AS = ("I32", "I64")
"""Types of number that codes and lengths may have, as safetensors calls them."""

Count = Annotated[int, Field(ge=1, le=2**40)]
Side = Annotated[int, Field(ge=1, le=2**14)]
"""Pixels; video formats end there or earlier."""
PerSecond = Annotated[float, Field(ge=float(SLOWEST), le=1e5)]
"""A second: as few as a video may have, or ten times as many as any camera takes."""


class TokenFile(pydantic.BaseModel):
    """What the header of a token file says. It is written for people: budgets, rates and counts are there to read;
    what decoding needs are the sizes, the frames, the frame rate and the fingerprint. A value of another type or out of
    its range is an error."""

    model_config = pydantic.ConfigDict(strict=True, allow_inf_nan=False)

    source: str = Field(max_length=1024)
    """Name of the video file."""
    frames: Count
    height: Side
    width: Side
    frames_per_second: PerSecond
    encoded_height: Side
    """Pixels that the tokenizer saw."""
    encoded_width: Side
    tiles: Count = 1
    """As which each picture was encoded: those of one stretch of time are clips one after another."""
    clips: Count
    blocks: Count | None = None
    """Of all clips. Files of before this was written do not say."""
    tokens: Count
    tokens_per_second: float = Field(ge=0)
    share_of_longest: float = Field(ge=0, le=1)
    """Tokens relative to the longest lengths everywhere."""
    preference: float | None = Field(default=None, ge=0, le=2)
    """w_q that the router was given, or that was found for a mean; None where a rate or lengths were given."""
    max_tokens: Count | None = None
    """Bound on the tokens of each clip; of a tokenizer with a memory of each block."""
    asked_tokens_per_second: float | None = Field(default=None, gt=0)
    """The rate that was kept, …"""
    rate_window_seconds: float | None = Field(default=None, gt=0)
    """… over windows of this length."""
    tokenizer_fingerprint: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}$")

    @pydantic.model_validator(mode="after")
    def _pictures_that_can_be_held(self) -> "TokenFile":
        for height, width in ((self.height, self.width), (self.encoded_height, self.encoded_width)):
            if height * width > MOST_PIXELS:
                raise ValueError(f"pictures of {width}x{height} pixels: at most {MOST_PIXELS:,} pixels are possible")
        return self

    @staticmethod
    def of(
        tokens: TokenizedVideo,
        tokenizer: VideoTokenizer,
        frames_per_second: float,
        source: str = "a video",
        rate: Rate | None = None,
    ) -> "TokenFile":
        """What is said of a video's tokens. source: the video's name; rate: which `LiveTokenizer` kept, if one. Raises
        UserError for a video of which no file can tell."""
        num_blocks = tokens.tokens.lengths.numel()
        try:
            return TokenFile(
                source=os.fsencode(source).decode(errors="replace"),  # a name need not be UTF-8
                frames=tokens.num_frames,
                height=tokens.size[0],
                width=tokens.size[1],
                frames_per_second=frames_per_second,
                encoded_height=tokens.encoded_size[0],
                encoded_width=tokens.encoded_size[1],
                tiles=num_tiles(tokenizer, tokens.encoded_size),
                clips=tokens.num_clips,
                blocks=num_blocks,
                tokens=tokens.num_tokens,
                tokens_per_second=tokens.num_tokens * frames_per_second / tokens.num_frames,
                share_of_longest=tokens.num_tokens / (num_blocks * tokenizer.assignments.levels[-1]),
                preference=tokens.preference,
                max_tokens=tokens.max_tokens,
                asked_tokens_per_second=rate.tokens_per_second if rate else None,
                rate_window_seconds=rate.window_seconds if rate else None,
                tokenizer_fingerprint=fingerprint(tokenizer),
            )
        except pydantic.ValidationError as error:
            raise UserError(f"{source} cannot be described in a token file: {words_of(error)}") from error

    def video(
        self, clips: TokenizedClips, tokenizer: VideoTokenizer, where: str = "the file", called: str = "this one"
    ) -> TokenizedVideo:
        """The tokens of the file as `decode` takes them. Raises UserError, in which `where` names the file and `called`
        the tokenizer, for tokens of another tokenizer and for those that are not of so many pictures."""
        check_same_tokenizer(
            self.tokenizer_fingerprint, fingerprint(tokenizer), f"{where} holds tokens of", called,
            "give the one that they were encoded with",
        )  # fmt: skip
        sizes = (self.height, self.width), (self.encoded_height, self.encoded_width)
        video = TokenizedVideo(clips, self.frames, *sizes, self.preference, self.max_tokens)
        if self.tiles != (tiles := num_tiles(tokenizer, video.encoded_size)):
            raise UserError(
                f"{where}: the header says {self.tiles} tiles, pictures of this size are {tiles}: encode again"
            )
        try:
            check_decodable(tokenizer, video)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        return video

    def summary(self) -> str:
        """A few lines for the terminal."""
        source = "".join(letter if letter.isprintable() else "�" for letter in self.source)  # nothing for the terminal
        unit, count = "clip", self.clips
        if self.clips <= self.tiles and self.blocks is not None:  # a single stretch of time
            unit, count = "block", self.blocks
        dials = []
        if self.preference is not None:
            dials.append(f"preference {self.preference:g}")
        if self.max_tokens is not None:
            dials.append(f"at most {counted(self.max_tokens, 'token')} a {unit}")
        if self.asked_tokens_per_second is not None:
            window = f" in any {self.rate_window_seconds:g} seconds" if self.rate_window_seconds else ""
            dials.append(f"never above {self.asked_tokens_per_second:g} tokens a second{window}")
        rate = self.tokens * self.frames_per_second / self.frames
        tiles = f" in {self.tiles} tiles" if self.tiles > 1 else ""
        return (
            f"{source}: {counted(self.frames, 'frame')} of {self.width}x{self.height} at {self.frames_per_second:g} a "
            f"second, encoded at {self.encoded_width}x{self.encoded_height}{tiles}\n"
            f"{counted(count, unit)}, {counted(self.tokens, 'token')}, {self.tokens / count:.1f} a {unit}, "
            f"{rate:.1f} a second; {self.share_of_longest:.1%} of the longest lengths\n"
            f"{', '.join(dials) or 'lengths as given'}"
        )


def write_token_file(path: str | Path, tokens: TokenizedClips, about: TokenFile) -> None:
    """Writes tokens and header; the file appears under its name only when it is complete."""
    tensors = {"codes": tokens.codes.int(), "lengths": tokens.lengths.int()}
    # One entry: safetensors writes several in an order that changes, and equal videos should make equal files.
    header = {"evagen": about.model_dump_json(exclude_none=True)}
    with atomic_write(Path(path)) as unfinished:
        save_file(tensors, unfinished, header)


def read_token_file(path: str | Path) -> tuple[TokenizedClips, TokenFile]:
    """Tokens and header of a file, perhaps somebody else's: all that it says is within its bounds and adds up. Raises
    UserError for a file that `write_token_file` did not write, before memory is taken for what it asks for."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no token file at {path}")
    try:
        if not path.is_file():
            raise ValueError("it is no plain file")
        with safe_open(path, framework="pt") as file:
            about = _header(file.metadata())
            shapes = {name: _shape(file, name) for name in ("codes", "lengths")}
            _check_shapes(about, **shapes)
            codes, lengths = (file.get_tensor(name).long() for name in shapes)
        _check_lengths(codes, lengths)
    except pydantic.ValidationError as error:
        raise UserError(f"{path} is not a whole token file as `evagen encode` writes it ({words_of(error)})") from error
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a whole token file as `evagen encode` writes it ({error})") from error
    return TokenizedClips(codes, lengths), about


def _header(metadata: dict[str, str] | None) -> TokenFile:
    written = (metadata or {}).get("evagen")
    if written is None:
        raise ValueError("its header has no field evagen")
    return TokenFile.model_validate(json_object(written, LARGEST_HEADER))


def _shape(file: safe_open, name: str) -> list[int]:
    stored = file.get_slice(name)
    if stored.get_dtype() not in STORED_AS:
        raise ValueError(f"{name} are {stored.get_dtype()}, not {' or '.join(STORED_AS)}")
    return stored.get_shape()


def _check_shapes(about: TokenFile, codes: list[int], lengths: list[int]) -> None:
    if len(codes) != 1 or len(lengths) != 2 or not all(lengths):
        raise ValueError(f"codes are of shape {codes} and lengths of {lengths}; (N,) and (clips, T) are needed")
    said = {"tokens": about.tokens, "clips": about.clips, "blocks": about.blocks or lengths[0] * lengths[1]}
    found = {"tokens": codes[0], "clips": lengths[0], "blocks": lengths[0] * lengths[1]}
    if said != found:
        raise ValueError(f"the header says {said}, the file holds {found}")


def _check_lengths(codes: torch.Tensor, lengths: torch.Tensor) -> None:
    shortest, longest = torch.stack(lengths.aminmax()).tolist()
    if not 1 <= shortest <= longest <= len(codes) or int(lengths.sum()) != len(codes):
        raise ValueError(
            f"lengths run from {shortest} to {longest} and add up to {int(lengths.sum())}, but there are {len(codes)} "
            "codes"
        )
    if int(codes.min()) < 0:
        raise ValueError(f"a code is {int(codes.min())}; codes begin at 0")
