"""`evagen encode`: a video file into a file of tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from torch import Tensor
from tqdm.auto import tqdm

from evagen.data.token_file import TokenFile, write_token_file
from evagen.data.video_reader import VideoError, count_frames, frame_rate, iterate_frames
from evagen.errors import UserError
from evagen.kernels.levels import frames_to_video
from evagen.models.loading import fingerprint, load_model
from evagen.tokenizer import AdaptiveTokenizer, Router, TokenizedVideo, VideoTokenizer


@dataclass(frozen=True)
class VideoFrames:
    """The frames of a file, float (C, H, W) in [-1, 1], decoded anew each time they are gone through."""

    path: Path

    def __iter__(self) -> Iterator[Tensor]:
        frames = (frames_to_video(frame[None])[:, 0] for frame in iterate_frames(self.path))
        return iter(tqdm(frames, total=count_frames(self.path), desc="reading", unit="frame", dynamic_ncols=True))


def main(
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
    prefix: Sequence[int] = (),
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
        tokens = model.encode(
            VideoFrames(video), preference=preference, max_tokens=max_tokens, mean_tokens=mean_tokens, prefix=prefix
        )
    except (VideoError, ValueError) as error:
        raise UserError(str(error)) from error
    about = _about(video.name, tokens, rate, encoder)
    write_token_file(out, tokens.tokens, about)
    return about


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
