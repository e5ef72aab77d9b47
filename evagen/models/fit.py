"""Whether models and data belong together: the one place that says so, for every command."""

from evagen.ar_model import VideoGenerator
from evagen.errors import UserError
from evagen.kernels.sources import locate
from evagen.models.larp import LarpTokenizer
from evagen.models.loading import fingerprint, load_model
from evagen.tokenizer import VideoTokenizer


def check_clips(tokenizer: VideoTokenizer | LarpTokenizer, frames: int, size: int, whose: str, advice: str) -> None:
    """Raises UserError unless clips have the frames and the height and width in pixels that the tokenizer was trained
    on; with a memory, any whole number of blocks. whose: names them."""
    trained = (tokenizer.config.num_frames, tokenizer.config.resolution)
    if getattr(tokenizer.config, "memory_blocks", None) is not None:
        step = tokenizer.config.temporal_patch
        if frames % step or size != trained[1]:
            raise UserError(
                f"{whose} are of {frames} frames at {size} pixels, the tokenizer works on blocks of {step} frames at "
                f"{trained[1]} pixels: {advice}"
            )
    elif (frames, size) != trained:
        raise UserError(
            f"{whose} are of {frames} frames at {size} pixels, the tokenizer works on {trained[0]} frames at "
            f"{trained[1]} pixels: {advice}"
        )


def check_same_tokenizer(wanted: str | None, found: str, whose: str, where: str, advice: str) -> None:
    """Raises UserError unless two fingerprints of tokenizers are equal. whose: what is made with the one that is
    wanted (None where it does not say); where: what the other one is of, or lies in."""
    if wanted not in (None, found):
        raise UserError(f"{whose} tokenizer {wanted}, but that of {where} is {found}: {advice}")


def check_generator(generator: VideoGenerator, tokenizer: VideoTokenizer, where: str = "these clips") -> None:
    """Raises UserError unless the tokenizer is the one whose tokens the generator was trained on."""
    check_same_tokenizer(
        generator.config.tokenizer_fingerprint, fingerprint(tokenizer), "the generator was trained on the tokens of",
        where, "give the tokenizer that made its corpus",
    )  # fmt: skip


def check_not_replaced(source: str, wanted: str, whose: str, command: str) -> None:
    """Raises UserError where a local folder holds another tokenizer by now than the one that some table was made
    with. A folder that is gone, or a hub id, is not asked."""
    try:
        folder = locate(source, "tokenizer", only_cached=True).folder
    except FileNotFoundError:
        return
    if folder and (folder / "config.json").exists():
        check_same_tokenizer(
            wanted, fingerprint(load_model(VideoTokenizer, source)), whose, source,
            f"run `evagen {command}` again with another run.out, or put the earlier tokenizer back",
        )  # fmt: skip
