"""Token files, which hold one video as tokens.

A token file is a safetensors file: `codes` int32 (N,), all clips end to end; `lengths` int32 (clips, T), the tokens
of each temporal block, where a video of a tokenizer with a memory is one clip; and in its header, which is JSON at the
start of the file, the fields of `TokenFile`.
"""

from pathlib import Path

import pydantic
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from evagen.errors import UserError
from evagen.kernels.files import atomic_write
from evagen.tokenizer import TokenizedClips


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
    tiles: int = 1
    """As which each picture was encoded: those of one stretch of time are clips one after another."""
    clips: int
    blocks: int | None = None
    """Of all clips. Files of before this was written do not say."""
    tokens: int
    tokens_per_second: float
    share_of_longest: float
    """Tokens relative to the longest lengths everywhere."""
    preference: float | None = None
    """w_q that the router was given, or that was found for a mean; None where a rate or lengths were given."""
    max_tokens: int | None = None
    """Bound on the tokens of each clip; of a tokenizer with a memory of each block."""
    asked_tokens_per_second: float | None = None
    """The rate that was kept, …"""
    rate_window_seconds: float | None = None
    """… over windows of this length."""
    tokenizer_fingerprint: str | None = None

    def summary(self) -> str:
        """A few lines for the terminal."""
        unit, count = ("clip", self.clips) if self.clips > 1 or self.blocks is None else ("block", self.blocks)
        dials = []
        if self.preference is not None:
            dials.append(f"preference {self.preference:g}")
        if self.max_tokens is not None:
            dials.append(f"at most {self.max_tokens} tokens a {unit}")
        if self.asked_tokens_per_second is not None:
            window = f"in any {self.rate_window_seconds:g} seconds"
            dials.append(f"never above {self.asked_tokens_per_second:g} tokens a second {window}")
        tiles = f" in {self.tiles} tiles" if self.tiles > 1 else ""
        return (
            f"{self.source}: {self.frames} frames of {self.width}x{self.height} at {self.frames_per_second:g} a "
            f"second, encoded at {self.encoded_width}x{self.encoded_height}{tiles}\n"
            f"{count} {unit}{'s' * (count > 1)}, {self.tokens} tokens, {self.tokens / count:.1f} a {unit}, "
            f"{self.tokens_per_second:.1f} a second; {self.share_of_longest:.1%} of the longest lengths\n"
            f"{', '.join(dials) or 'lengths as given'}"
        )


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
