"""`evagen encode`: a video file into a file of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from evagen.data.token_file import TokenFile, write_token_file
from evagen.data.video_frames import VideoFrames
from evagen.data.video_reader import VideoError, frame_rate
from evagen.errors import UserError
from evagen.kernels.files import check_writable
from evagen.kernels.names import check_utf8
from evagen.models.inference import RunPrecision, autocast_to, precision_on
from evagen.models.loading import load_model, load_router, router_beside
from evagen.report.tokens_over_time import draw, graph
from evagen.tokenizer import AdaptiveTokenizer, LiveTokenizer, Rate, VideoTokenizer


@dataclass(frozen=True)
class Dials:
    """How many tokens a video is to have. Of all tokenizers: preference, max_tokens, as `AdaptiveTokenizer.encode` and
    `LiveTokenizer.encode` have them. Of those that see clips: mean_tokens, prefix. Of those with a memory:
    tokens_per_second, over windows of rate_window seconds (as `Rate` has them if None), and lengths."""

    preference: float | None = None
    max_tokens: int | None = None
    mean_tokens: float | None = None
    prefix: Sequence[int] = ()
    tokens_per_second: float | None = None
    rate_window: float | None = None
    lengths: Sequence[int] = ()

    def rate(self, frames_per_second: float) -> Rate | None:
        """That is to be kept, if one."""
        if self.tokens_per_second is None:
            return None
        window = Rate.window_seconds if self.rate_window is None else self.rate_window
        return Rate(self.tokens_per_second, frames_per_second, window)

    def check(self, remembers: bool) -> None:
        """Raises UserError for dials of another kind of tokenizer, and for a window of no rate."""
        if self.rate_window is not None and self.tokens_per_second is None:
            raise UserError(
                f"--rate-window {self.rate_window:g} is of a rate, and none is given: give --tokens-per-second"
            )
        if remembers:
            wrong = {"--mean-tokens": self.mean_tokens, "--prefix": _listed(self.prefix)}
            why = "is for tokenizers of clips; this one remembers"
            instead = "--tokens-per-second, --max-tokens or --lengths"
        else:
            wrong = {"--tokens-per-second": self.tokens_per_second, "--lengths": _listed(self.lengths)}
            why = "needs a tokenizer with a memory; this one sees clips"
            instead = "--mean-tokens, --max-tokens or --prefix"
        for option, value in wrong.items():
            if value is not None:
                raise UserError(f"{option} {value} {why}: give --preference, {instead}")


def _listed(lengths: Sequence[int]) -> str | None:
    """As they are typed."""
    return ",".join(map(str, lengths)) or None


def main(
    video: Path,
    out: Path,
    tokenizer: str,
    router: str | None,
    dials: Dials | None = None,
    short_side: int | None = None,
    clips_per_chunk: int = 4,
    plot: Path | None = None,
    precision: RunPrecision = "auto",
) -> tuple[TokenFile, str]:
    """Encodes one video file. Returns what the header says, and a graph of tokens over time for the terminal; draws it
    to `plot`.

    Raises UserError for a file that is no whole video, for models that do not go together, and for dials that
    exclude each other or cannot be met."""
    dials = dials or Dials()
    if out.suffix != ".safetensors":
        raise UserError(f"tokens are written as safetensors: the name of {out} should end in .safetensors")
    try:
        check_utf8(out)
    except ValueError as error:
        raise UserError(str(error)) from error
    if plot and plot.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"the graph is drawn as a picture: the name of {plot} should end in .png, .svg or .pdf")
    encoder = load_model(VideoTokenizer, tokenizer, PartialState().device)
    remembers = encoder.config.memory_blocks is not None
    dials.check(remembers)
    router = router or router_beside(tokenizer)
    if router is None and not dials.lengths:
        raise UserError(
            f"{tokenizer} holds no router, which says how many tokens each block gets: give --router, or a pipeline or "
            "the name of a model in the box as the tokenizer"
        )
    frames = VideoFrames(video)
    try:
        rate = frame_rate(video)
        for each in filter(None, (out, plot)):
            check_writable(each)
        with autocast_to(precision_on(precision, encoder.device), encoder.device):
            if remembers:
                live = LiveTokenizer(encoder, load_router(encoder, router) if router else None, short_side)
                tokens = live.encode(
                    frames, preference=dials.preference, max_tokens=dials.max_tokens, rate=dials.rate(rate),
                    lengths=dials.lengths,
                )  # fmt: skip
            else:
                model = AdaptiveTokenizer(encoder, load_router(encoder, str(router)), short_side, clips_per_chunk)
                tokens = model.encode(
                    frames, preference=dials.preference, max_tokens=dials.max_tokens, mean_tokens=dials.mean_tokens,
                    prefix=dials.prefix,
                )  # fmt: skip
    except (VideoError, ValueError) as error:
        raise UserError(str(error)) from error
    about = TokenFile.of(tokens, encoder, rate, video.name, dials.rate(rate))
    write_token_file(out, tokens.tokens, about)
    lengths = tokens.over_time(about.tiles).tolist()
    if plot:
        draw(lengths, frames.changes, rate, encoder.config.temporal_patch, plot, dials.tokens_per_second)
    return about, graph(lengths, frames.changes)
