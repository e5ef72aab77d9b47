"""`evagen decode`: a file of tokens into a video file."""

from pathlib import Path

from accelerate import PartialState
from tqdm.auto import tqdm

from evagen.data.token_file import read_token_file
from evagen.data.video_writer import write_video
from evagen.errors import UserError
from evagen.kernels.levels import video_to_frames
from evagen.models.fit import check_same_tokenizer
from evagen.models.inference import RunPrecision, autocast_to, precision_on
from evagen.models.loading import fingerprint, load_model
from evagen.tokenizer import TokenizedVideo, VideoTokenizer, decode_in_chunks


def main(tokens: Path, out: Path, tokenizer: str, clips_per_chunk: int = 4, precision: RunPrecision = "auto") -> None:
    """Decodes a token file into a video of as many frames, of the same size and frame rate; where the format has
    even sizes only (.mp4, .avi), an odd one gains a row or column.

    Raises UserError for a file that holds no tokens, and for tokens of another tokenizer."""
    clips, about = read_token_file(tokens)
    model = load_model(VideoTokenizer, tokenizer, PartialState().device)
    check_same_tokenizer(
        about.tokenizer_fingerprint, fingerprint(model), f"{tokens} holds tokens of", tokenizer,
        "give the one that they were encoded with",
    )  # fmt: skip
    video = TokenizedVideo(
        clips, about.frames, (about.height, about.width), (about.encoded_height, about.encoded_width),
        about.preference, about.max_tokens,
    )  # fmt: skip
    frames = (frame for piece in decode_in_chunks(model, video, clips_per_chunk) for frame in video_to_frames(piece))
    try:
        shown = tqdm(frames, total=about.frames, desc="decoding", unit="frame", dynamic_ncols=True)
        with autocast_to(precision_on(precision, model.device), model.device):
            write_video(out, shown, about.frames_per_second)
    except ValueError as error:
        raise UserError(f"{tokens}: {error}") from error
